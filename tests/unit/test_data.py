"""From an ImageFolder to batches: prepared in shards or cropped when read, in the same order, byte for byte; noise."""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import re
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
import torch
from PIL import Image

from dsr.base.errors import UserError
from dsr.base.randomness import batch_indices, derive, noise, uniforms
from dsr.data import loading
from dsr.data.images import (
    Images,
    ListedImages,
    PreparedImages,
    center_crop,
    check_index,
    fingerprint,
    list_folder,
    load_rgb,
    open_images,
)
from dsr.data.loading import Item, StoppedError, load
from dsr.data.prepare import index_folder, write_index, write_shard

SIZE, SHARDS, IMAGES = 16, 3, 8


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images of every colour mode and several sizes; two have the wrong ending, one a name that is not ASCII."""
    generator = np.random.default_rng(0)

    def save(name: str, mode: str, size: tuple[int, int], kind: str | None = None) -> None:
        path = tmp_path / "raw" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).convert(mode).save(path, format=kind)

    save("ant/rgb.png", "RGB", (40, 33))
    save("ant/cmyk.jpg", "CMYK", (64, 70))
    save("ant/deeper/palette.png", "P", (16, 16))
    save("bee/Ä.JPEG", "RGBA", (9, 12), kind="PNG")
    save("bee/grey.JPEG", "L", (17, 100))
    save("bee/grey-alpha.png", "LA", (31, 20))
    save("bee/wrong-name.png", "RGB", (50, 20), kind="JPEG")
    save("bee/wide.png", "RGB", (100, 3))
    (tmp_path / "raw" / "bee" / "notes.txt").write_text("no image, and not listed")
    return tmp_path / "raw"


def prepare(folder: Path, output: Path) -> Path:
    shards = [output / f"shard-{shard:05d}.zip" for shard in range(SHARDS)]
    for shard, path in enumerate(shards):
        write_shard(folder, SIZE, shard, SHARDS, path, images=IMAGES, classes=2)
    write_index(shards[::-1], output / "index.npz")
    return output / "index.npz"


def listed(folder: Path, output: Path) -> Path:
    index_folder(folder, SIZE, output / "listed.npz", images=IMAGES, classes=2)
    return output / "listed.npz"


def refused(message: str, work: Callable[..., object], *arguments: Any, **options: Any) -> None:
    """Check that the work ends with a line that says so."""
    with pytest.raises(UserError, match=message) as error:
        work(*arguments, **options)
    assert "\n" not in str(error.value)


def test_folders_are_listed_as_torchvision_does(folder: Path) -> None:
    from torchvision.datasets import ImageFolder  # takes seconds

    ours, theirs = list_folder(folder), ImageFolder(str(folder))
    assert ours.classes == theirs.classes == ["ant", "bee"]
    assert list(zip(map(str, ours.paths), ours.labels.tolist(), strict=True)) == theirs.samples
    (folder / "cow").mkdir()
    refused(r"one sub-folder of images per class \(no image in cow\)", list_folder, folder)
    for wrong, message in (("ant/deeper", "1 images are in the folder itself"), ("absent", "there is none")):
        refused(rf"sub-folder of images per class \({message}", list_folder, folder / wrong)


def test_hidden_files_and_unreadable_folders(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    before = list_folder(folder).paths
    for name in (".git/a.png", "ant/._a.png", "ant/.DS_Store", "bee/__MACOSX/a.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    assert list_folder(folder).paths == before
    assert caplog.messages == [f"{folder}: 2 hidden files are left out"]
    scan = os.scandir

    def refuse(place: str | Path) -> object:
        if Path(place).name == "bee":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))
        return scan(place)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match=r"Permission denied: '.*bee'"):
        list_folder(folder)


def test_prepared_images_equal_crops_on_the_fly(folder: Path, tmp_path: Path) -> None:
    prepared, direct = open_images(prepare(folder, tmp_path / "prepared")), open_images(listed(folder, tmp_path))
    assert isinstance(prepared, PreparedImages)
    assert isinstance(direct, ListedImages)
    assert len(prepared) == len(direct) == IMAGES
    assert prepared.classes == direct.classes == ["ant", "bee"]
    assert prepared.image_size == direct.image_size == SIZE
    assert prepared.labels.tolist() == direct.labels.tolist() == [0, 0, 0, 1, 1, 1, 1, 1]
    for index, path in enumerate(list_folder(folder).paths):
        expected = np.asarray(center_crop(Image.open(path).convert("RGB"), SIZE))
        assert np.array_equal(prepared.read(index), expected)
        assert np.array_equal(direct.read(index), expected)


def test_shards_are_reproducible_and_independent(folder: Path, tmp_path: Path) -> None:
    prepare(folder, tmp_path / "first")
    write_shard(folder, SIZE, 1, SHARDS, tmp_path / "alone.zip")
    shard = tmp_path / "first" / "shard-00001.zip"
    assert shard.read_bytes() == (tmp_path / "alone.zip").read_bytes()
    index = (tmp_path / "first" / "index.npz").read_bytes()
    shard.unlink()
    prepare(folder, tmp_path / "first")
    assert (tmp_path / "first" / "index.npz").read_bytes() == index
    with zipfile.ZipFile(shard) as archive:
        assert archive.testzip() is None
        assert all(member.compress_type == zipfile.ZIP_STORED for member in archive.infolist())


@pytest.mark.parametrize("index", [prepare, listed])
@pytest.mark.parametrize("workers", [0, 1])
def test_batches_come_in_order_and_mirrored(folder: Path, tmp_path: Path, index: object, workers: int) -> None:
    images = open_images(index(folder, tmp_path / "images"))
    images.read(1)
    again = pickle.loads(pickle.dumps(images))
    batches: list[list[Item]] = [[(5, False), (2, True)], [(2, False)]]
    with contextlib.closing(load(again, batches, workers=workers)) as loader:
        pixels, labels = next(loader)
        assert pixels.dtype == torch.uint8
        assert pixels.is_contiguous()
        assert np.array_equal(pixels[0].permute(1, 2, 0), images.read(5))
        assert np.array_equal(pixels[1].permute(1, 2, 0), images.read(2)[:, ::-1])
        assert labels.tolist() == [1, 0]
        assert torch.equal(next(loader)[0][0], pixels[1].flip(2))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_read_is_one_error_that_names_it(folder: Path, tmp_path: Path, workers: int) -> None:
    prepared, direct = open_images(prepare(folder, tmp_path / "prepared")), open_images(listed(folder, tmp_path))
    first, middle, last = sorted((tmp_path / "prepared").glob("*.zip"))
    first.unlink()
    content = bytearray(middle.read_bytes())
    content[content.index(b"IDAT") + 10] ^= 255
    middle.write_bytes(content)
    last.write_bytes(last.read_bytes()[:80])
    cmyk, grey = folder / "ant" / "cmyk.jpg", folder / "bee" / "grey.JPEG"
    cmyk.write_bytes(cmyk.read_bytes()[:300])
    grey.unlink()
    for images, index, message in (
        (prepared, 0, f"{first}: image 0 cannot be read"),
        (prepared, 2, f"{middle}: image 2 is damaged"),
        (prepared, 7, f"{last}: ends inside image 7; prepare the images again"),
        (direct, 0, f"{cmyk}: cannot be decoded"),
        (direct, list_folder(folder).paths.index(folder / "bee" / "grey-alpha.png") + 1, f"{grey}: cannot be decoded"),
    ):
        with contextlib.closing(load(images, [[(index, False)]], workers=workers)) as loader:
            refused(f"^{re.escape(message)}", next, loader)


def test_crops_of_two_versions_of_pillow_are_not_mixed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared, direct = prepare(folder, tmp_path / "prepared"), listed(folder, tmp_path)
    known = fingerprint(prepared), fingerprint(direct)
    first, second, *_ = shards = sorted(prepared.parent.glob("*.zip"))
    ours = PIL.__version__
    monkeypatch.setattr(PIL, "__version__", "1.2.3")
    assert len(open_images(prepared)) == IMAGES, "what is prepared can be read with any version"
    refused(f"listed.npz: written with Pillow {ours}, but this is Pillow 1.2.3", open_images, direct)
    write_shard(folder, SIZE, 1, SHARDS, second)
    message = f"{second}: its pillow is 1.2.3, but that of {first} is {ours}"
    refused(f"{re.escape(message)}.*prepare them again", write_index, shards, prepared)
    assert fingerprint(prepare(folder, tmp_path / "other")) != known[0]
    assert fingerprint(listed(folder, tmp_path)) != known[1]


def test_all_bad_files_of_a_shard_are_named(folder: Path, tmp_path: Path) -> None:
    good = (folder / "bee" / "grey.JPEG").read_bytes()
    (folder / "ant" / "truncated.jpg").write_bytes(good[: len(good) // 2])
    (folder / "ant" / "empty.png").write_bytes(b"")
    (folder / "bee" / "text.jpg").write_text("no image")
    damaged = (folder / "ant" / "rgb.png").read_bytes()
    (folder / "bee" / "damaged.png").write_bytes(damaged[:60] + b"\0" * 40 + damaged[100:])
    output = tmp_path / "shard.zip"
    with pytest.raises(UserError, match="4 of 12 images") as error:
        write_shard(folder, SIZE, 0, 1, output)
    for name in ("truncated.jpg", "empty.png", "text.jpg", "damaged.png"):
        assert name in str(error.value)
    assert "rgb.png" not in str(error.value)
    assert list(tmp_path.glob("*.zip")) == list(tmp_path.glob(".*.zip")) == []


def test_wrong_sets_of_shards_are_refused(folder: Path, tmp_path: Path) -> None:
    index = prepare(folder, tmp_path / "prepared")
    shards = sorted(index.parent.glob("*.zip"))
    refused("each of the shards 0 to 2 once", write_index, shards[:2], index)
    refused("beside the index", write_index, shards, tmp_path / "index.npz")
    (folder / "ant" / "rgb.png").rename(folder / "ant" / "another.png")
    write_shard(folder, SIZE, 1, SHARDS, shards[1])
    refused(r"listing is .* the images are others or changed in between", write_index, shards, index)
    write_shard(folder, 2 * SIZE, 1, SHARDS, shards[1])
    refused(r"its image_size is 32, but that of .* is 16", write_index, shards, index)
    refused("prepare the images again", open_images, index)
    shards[1].write_bytes(b"no zip")
    refused(f"{shards[1].name}: not a shard", write_index, shards, index)


@pytest.mark.parametrize("index", [prepare, listed])
def test_splits_whose_labels_mean_other_classes_are_refused(folder: Path, tmp_path: Path, index: object) -> None:
    other = index(folder, tmp_path / "train")
    output = tmp_path / "validation" / "index.npz"
    index_folder(folder, SIZE, output, other=tmp_path / "absent.npz")
    index_folder(folder, SIZE, output, other=other)
    (folder / "bee").rename(folder / "zebra")
    shard, message = output.with_name("shard.zip"), f"class 1 is 'zebra', but 'bee' in {other}"
    write_shard(folder, SIZE, 0, 1, shard)
    refused(message, write_index, [shard], output, other=other)
    refused(message, index_folder, folder, SIZE, output, other=other)


@pytest.mark.parametrize("name", ["deep.png", "deep.tif", "big-endian.tif", "deep.pgm", "compressed.tif"])
def test_pixels_of_16_bits_are_scaled_and_others_whose_white_is_not_known_refused(tmp_path: Path, name: str) -> None:
    values = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    image = Image.fromarray(values.astype(">u2" if "big" in name else "<u2"))
    image.save(tmp_path / name, **({"compression": "tiff_lzw"} if "compressed" in name else {}))
    assert Image.open(tmp_path / name).mode.startswith("I")
    assert np.array_equal(np.asarray(load_rgb(tmp_path / name)), np.repeat((values // 257)[..., None], 3, axis=2))
    for kind in (np.float32, np.int32):
        Image.fromarray(np.ones((16, 16), kind)).save(tmp_path / "image.tif")
        refused("image.tif: .* their white is not known; save it with 8 or 16 bits", load_rgb, tmp_path / "image.tif")


@pytest.mark.parametrize("index", [prepare, listed])
def test_an_index_is_known_by_its_images_not_by_its_place(folder: Path, tmp_path: Path, index: object) -> None:
    first = fingerprint(index(folder, tmp_path / "first"))
    elsewhere = folder.rename(tmp_path / "elsewhere")
    assert fingerprint(index(elsewhere, tmp_path / "second")) == first
    (elsewhere / "bee" / "grey.JPEG").unlink()
    Image.new("RGB", (90, 90)).save(elsewhere / "bee" / "one-more.png")
    assert fingerprint(index(elsewhere, tmp_path / "third")) != first


@pytest.mark.parametrize("index", [prepare, listed])
def test_index_is_checked_against_the_configuration(folder: Path, tmp_path: Path, index: object) -> None:
    path = index(folder, tmp_path / "images")
    check_index(path, images=IMAGES, classes=2, image_size=SIZE)
    refused("images is 8, but the configuration says 9", check_index, path, images=9, classes=2, image_size=SIZE)
    refused("image_size is 16", check_index, path, images=IMAGES, classes=2, image_size=256)
    np.savez(path, label=np.zeros(3))
    refused(r"not an index.* \(missing classes, image_size, .*\); prepare the images", open_images, path)
    path.write_bytes(b"nothing")
    refused("not a readable index", open_images, path)
    path.unlink()
    refused("no such file", open_images, path)
    path = listed(folder, tmp_path)
    folder.rename(tmp_path / "moved")
    refused(r"raw: no such folder, but .*listed.npz lists its images", open_images, path)


def test_an_incomplete_folder_is_refused_before_it_is_cropped(folder: Path, tmp_path: Path) -> None:
    output, but = tmp_path / "shards" / "shard-00000.zip", "but the configuration says"
    refused(f"raw: holds 8 images, {but} 9", write_shard, folder, SIZE, 0, 1, output, images=9, classes=2)
    refused(rf"raw: holds 2 classes \(ant to bee\), {but} 3", index_folder, folder, SIZE, output, images=9, classes=3)
    assert not output.parent.exists()


def test_an_epoch_shows_every_image_once_in_an_order_of_its_own() -> None:
    first, second = (
        np.concatenate([batch_indices(5, 5 * epoch + step, 4, 20) for step in range(5)]) for epoch in (0, 1)
    )
    assert sorted(first) == sorted(second) == list(range(20))
    assert first.tolist() != second.tolist()
    assert len({index for step in range(3) for index in batch_indices(5, step, 6, 20)}) == 18, "the rest is left out"
    batch_indices(5, 7, 4, 20)[:] = 0
    assert batch_indices(5, 7, 4, 20).tolist() == second[8:12].tolist()
    assert batch_indices(6, 7, 4, 20).tolist() != second[8:12].tolist()


def test_noise_is_standard_normal_and_depends_on_the_index_only() -> None:
    together = noise(3, "sample", [4, 9, 11], (2, 5, 5))
    alone = noise(3, "sample", [9], (2, 5, 5))
    assert torch.equal(together[1:2], alone)
    assert not torch.equal(together[0], together[1])
    values = noise(0, "noise", range(64), (64, 8, 8))
    assert abs(values.mean().item()) < 0.01
    assert abs(values.std().item() - 1) < 0.01


def test_purposes_and_steps_are_independent() -> None:
    keys = {derive(seed, purpose, step) for seed in range(3) for purpose in ("time", "flip") for step in range(100)}
    assert len(keys) == 600
    assert np.array_equal(uniforms(0, "time", 5, 8), uniforms(0, "time", 5, 8))
    assert not np.array_equal(uniforms(0, "time", 5, 8), uniforms(0, "time", 6, 8))


# Processes that read ahead


class Slow(Images):
    """Images of nothing, each of which takes some time."""

    def __init__(self, seconds: float) -> None:
        self.labels, self.classes, self.image_size = np.zeros(4, np.int64), ["a"], 4
        self._seconds = seconds

    def read(self, index: int) -> np.ndarray:
        time.sleep(self._seconds)
        return np.full((4, 4, 3), index, np.uint8)


def test_images_come_where_temporary_folders_have_long_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 109)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    asked = [[(number % 4, False)] for number in range(20)]
    with contextlib.closing(load(Slow(0.001), asked, workers=2)) as batches:
        assert [pixels.unique().tolist() for pixels, _ in [*batches]] == [[number % 4] for number in range(20)]


def test_a_wait_ends_when_somebody_asks_or_when_it_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "POLL_SECONDS", 0.1)
    with contextlib.closing(load(Slow(0.5), [[(1, False)]], workers=1)) as patient:
        assert next(patient)[0].unique().tolist() == [1]
    asked = load(Slow(60), [[(1, False)]], workers=1, stop=lambda: True)
    with contextlib.closing(asked), pytest.raises(StoppedError):
        next(asked)
    monkeypatch.setattr(loading, "PATIENCE_SECONDS", 0.5)
    late = load(Slow(60), [[(1, False)]], workers=1)
    with contextlib.closing(late), pytest.raises(UserError, match=r"no images came .* set execution.workers to 0"):
        next(late)
