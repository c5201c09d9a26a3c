"""Reading and checking of image files; every wrong file ends in a sentence that names it and says what to do."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dsr.base.errors import UserError
from dsr.data import npz
from dsr.evaluation import inputs

SHAPE = (130, 8, 8, 3)


def images(count: int = SHAPE[0], size: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def saved(path: Path, array: np.ndarray, **others: np.ndarray) -> Path:
    np.savez(path, array, **others)
    return path


# ----------------------------------------------------------------------------------------------- reading and writing


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("batch", [64, 130])
def test_reading_in_batches_equals_numpy(tmp_path: Path, save: Callable[..., None], batch: int) -> None:
    save(tmp_path / "images.npz", images())
    batches = list(npz.read_images(tmp_path / "images.npz", batch))
    assert {len(part) for part in batches[:-1]} <= {batch}
    np.testing.assert_array_equal(np.concatenate(batches), images())


def test_written_images_are_numpys_and_reproducible(tmp_path: Path) -> None:
    for name, cuts in (("a", (40, 41)), ("b", ())):
        npz.write_images(tmp_path / name, np.split(images(), cuts), SHAPE[0], SHAPE[1:])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    np.testing.assert_array_equal(np.load(tmp_path / "a")["arr_0"], images())


@pytest.mark.parametrize(("count", "size", "message"), [(131, 8, "hold 130"), (130, 9, r"images \(9, 9, 3\)")])
def test_wrong_batches_leave_no_file(tmp_path: Path, count: int, size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        npz.write_images(tmp_path / "images.npz", [images(size=size)], count, SHAPE[1:])
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------------ wrong samples


Write = Callable[[Path], object]


def altered(change: Callable[[bytearray], bytes], save: Callable[..., None] = np.savez) -> Write:
    """130 images in a file whose bytes are changed."""

    def write(path: Path) -> None:
        save(path, images())
        path.write_bytes(change(bytearray(path.read_bytes())))

    return write


def flipped(content: bytearray) -> bytes:
    content[len(content) // 2] ^= 255
    return bytes(content)


def announcing(count: int, version: tuple[int, int] = (1, 0)) -> Write:
    """130 images under a header that says ``count``."""

    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive, archive.open("arr_0.npy", "w") as stream:
            header = {"descr": "|u1", "fortran_order": False, "shape": (count, *SHAPE[1:])}
            np.lib.format._write_array_header(stream, header, version)
            stream.write(images().tobytes())

    return write


def holding(*arrays: np.ndarray, **others: np.ndarray) -> Write:
    return lambda path: np.savez(path, *arrays, **others)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "no such file"),
        (Path.mkdir, "is a folder, expected an npz file"),
        (altered(lambda _: b"no archive"), "not an npz, or was cut off"),
        (altered(lambda content: content[:-1000]), "not an npz, or was cut off"),
        (altered(flipped), "fails its checksum"),
        (altered(flipped, np.savez_compressed), "fails its checksum"),
        (announcing(131), "header announces 131 images, the data ends within image 130"),
        (announcing(129), "data after the 129 images of the header"),
        (announcing(130, (3, 0)), r"npy format \(3, 0\) is not supported"),
        (holding(images(), mu=np.zeros(3), sigma=np.eye(3)), "must not hold statistics .mu, sigma.*swapped"),
        (holding(samples=images()), "no array arr_0 .found: samples."),
        (holding(images(), labels=np.arange(130)), "unknown arrays labels beside arr_0"),
        (holding(images().astype(np.float32) / 255), "arr_0 is float32, expected uint8"),
        (holding(images() > 127), "arr_0 is bool"),
        (holding(images().astype(np.int8)), "arr_0 is int8"),
        (holding(np.array([{}, None])), "arr_0 is object"),
        (holding(np.uint8([0, 1, 255])[images() % 3]), "no value is between 2 and 254"),
        (holding(images().transpose(0, 3, 1, 2).copy()), "130 x 3 x 8 x 8.*move the channels last"),
        (holding(images()[..., 0]), "arr_0 is 130 x 8 x 8, expected"),
        (holding(images()[..., :1]), "arr_0 is 130 x 8 x 8 x 1, expected"),
        (holding(images()[:, :3].copy()), "3 x 8 pixels, expected square"),
        (holding(images()[:, :0, :0].copy()), "images of 0 x 0 pixels"),
        (holding(np.asfortranarray(images())), "Fortran order"),
        (holding(images()[:3]), "3 images are too few, expected at least 4"),
    ],
)
def test_wrong_samples_are_refused(tmp_path: Path, write: Write, message: str) -> None:
    path = tmp_path / "samples.npz"
    write(path)
    with pytest.raises(UserError, match=message) as error:
        inputs.check_samples(path, expected=None, at_least=4)
    assert str(path) in str(error.value)


def test_right_samples_are_described(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    array = images()
    array[7], array[99] = 0, (1, 2, 3)
    checked = inputs.check_samples(saved(tmp_path / "samples.npz", array), expected=None, at_least=4)
    assert (checked.images, checked.image_size, checked.constant) == (130, 8, (7, 99))
    assert "2 images are one colour all over (7, 99)" in caplog.text


# ---------------------------------------------------------------------------------------------------- wrong reference


def test_a_reference_is_compared_with_the_samples(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = saved(tmp_path / "samples.npz", images())
    samples = inputs.check_samples(path, expected=None, at_least=4)
    with pytest.raises(UserError, match=r"reference images are 16 pixels wide, the samples of .*samples.npz 8"):
        inputs.check_reference(saved(tmp_path / "wide.npz", images(size=16)), samples, at_least=4)
    inputs.check_reference(path, samples, at_least=4)
    assert "are the same file" in caplog.text
    path = saved(tmp_path / "other.npz", images(seed=1), mu=np.zeros(5, np.float32), sigma=np.eye(5), labels=[0])
    assert inputs.check_reference(path, samples, at_least=4).images == 130
    assert "labels are not used" in caplog.text
    moments = inputs.read_moments(path, "mu", "sigma", 5)
    assert moments is not None
    assert moments.mean.dtype == np.float32
    assert inputs.read_moments(path, "mu_s", "sigma_s", 5) is None


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"mu": np.zeros(5)}, "mu without its counterpart"),
        ({"mu": np.zeros(4), "sigma": np.eye(4)}, r"expected floats \(5,\) and \(5, 5\) for this graph"),
        ({"mu": np.zeros(5, int), "sigma": np.eye(5)}, "mu is int64"),
    ],
)
def test_wrong_statistics_are_refused(tmp_path: Path, stored: dict[str, np.ndarray], message: str) -> None:
    path = saved(tmp_path / "reference.npz", images(), **stored)
    with pytest.raises(UserError, match=message):
        inputs.read_moments(path, "mu", "sigma", 5)
