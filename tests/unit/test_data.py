from __future__ import annotations

import contextlib
import io
import pickle
import re
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from dsr.base.errors import UserError
from dsr.commands.prepare import main as prepare_command
from dsr.data import png
from dsr.data.crop import center_crop
from dsr.data.folder import list_folder
from dsr.data.images import Item, ListedImages, PreparedImages
from dsr.data.index import check_index, fingerprint, write_folder_index
from dsr.data.loading import Loader
from dsr.data.order import batch_indices, rank_slice
from dsr.data.prepare import index_folder, write_index, write_shard

SIZE, SHARDS = 16, 3


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images of every colour mode, of several sizes, one of them a JPEG under a PNG's name."""
    generator = np.random.default_rng(0)

    def save(name: str, mode: str, size: tuple[int, int], kind: str | None = None) -> None:
        path = tmp_path / "raw" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).convert(mode).save(path, format=kind)

    save("ant/rgb.png", "RGB", (40, 33))
    save("ant/cmyk.jpg", "CMYK", (64, 70))
    save("ant/palette.png", "P", (16, 16))
    save("bee/transparent.png", "RGBA", (9, 12))
    save("bee/grey.JPEG", "L", (17, 100))
    save("bee/grey-alpha.png", "LA", (31, 20))
    save("bee/wrong-name.png", "RGB", (50, 20), kind="JPEG")
    return tmp_path / "raw"


def prepare(folder: Path, output: Path) -> Path:
    shards = [output / f"shard-{shard:05d}.zip" for shard in range(SHARDS)]
    for shard, path in enumerate(shards):
        write_shard(folder, SIZE, shard, SHARDS, path)
    write_index(shards[::-1], output / "index.npz", images=7, classes=2)
    return output / "index.npz"


@pytest.mark.parametrize(("width", "height"), [(16, 16), (15, 40), (64, 31), (32, 32), (100, 3), (1, 1)])
def test_crop_gives_the_asked_size(width: int, height: int) -> None:
    assert center_crop(Image.new("RGB", (width, height)), SIZE).size == (SIZE, SIZE)


def test_prepared_images_equal_crops_on_the_fly(folder: Path, tmp_path: Path) -> None:
    prepared = PreparedImages(prepare(folder, tmp_path / "prepared"))
    index_folder(folder, SIZE, tmp_path / "listed.npz")
    direct = ListedImages(tmp_path / "listed.npz")
    assert len(prepared) == len(direct) == 7
    assert prepared.classes == direct.classes == ["ant", "bee"]
    assert prepared.image_size == SIZE
    assert prepared.labels.tolist() == direct.labels.tolist() == [0, 0, 0, 1, 1, 1, 1]
    for index in range(7):
        assert np.array_equal(prepared.read(index), direct.read(index))
        pixels, label = prepared[index]
        assert pixels.dtype == torch.uint8
        assert pixels.shape == (3, SIZE, SIZE)
        assert label == prepared.labels[index]
        assert np.array_equal(prepared.read(index), pixels.permute(1, 2, 0).numpy())
        assert torch.equal(prepared[index, True][0], pixels.flip(2))
        assert torch.equal(prepared[index, False][0], direct[index, False][0])


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


def test_reading_works_in_worker_processes(folder: Path, tmp_path: Path) -> None:
    images = PreparedImages(prepare(folder, tmp_path / "prepared"))
    want = images.read(3)
    assert np.array_equal(pickle.loads(pickle.dumps(images)).read(3), want)
    loader = DataLoader(images, sampler=[(3, False), (3, True)], num_workers=2, multiprocessing_context="forkserver")
    plain, flipped = (pixels[0] for pixels, _ in loader)
    assert np.array_equal(plain.permute(1, 2, 0).numpy(), want)
    assert torch.equal(flipped, plain.flip(2))


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_come_in_order_and_errors_as_they_were_raised(folder: Path, tmp_path: Path, workers: int) -> None:
    index_folder(folder, SIZE, tmp_path / "listed.npz")
    images = ListedImages(tmp_path / "listed.npz")
    lost = folder / "bee" / "grey.JPEG"
    missing = list_folder(folder).paths.index(lost)
    lost.unlink()
    readable = [item for item in range(7) if item != missing]
    batches: list[list[Item]] = [[readable[2], (readable[0], True)], readable[:1], [readable[1], missing]]
    with contextlib.closing(Loader(images, batches, workers=workers)) as loader:
        pixels, labels = next(loader)
        assert torch.equal(pixels, torch.stack([images[readable[2]][0], images[readable[0]][0].flip(2)]))
        assert labels.tolist() == [images[readable[2]][1], images[readable[0]][1]]
        assert next(loader)[0].shape == (1, 3, SIZE, SIZE)
        with pytest.raises(UserError) as raised:
            next(loader)
    with pytest.raises(UserError) as expected:
        images[missing]
    assert type(raised.value) is type(expected.value)
    assert str(raised.value) == str(expected.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_shard_that_is_lost_or_cut_off_while_it_is_read_is_named(folder: Path, tmp_path: Path, workers: int) -> None:
    images = PreparedImages(prepare(folder, tmp_path / "prepared"))
    first, _, last = sorted((tmp_path / "prepared").glob("*.zip"))
    first.unlink()
    last.write_bytes(last.read_bytes()[:80])
    with contextlib.closing(Loader(images, [[0], [6]], workers=workers)) as loader:
        for message in (f"{first}: image 0 cannot be read", f"{last}: ends inside image 6; prepare"):
            with pytest.raises(UserError, match=re.escape(message)):
                next(loader)


def test_all_bad_files_of_a_shard_are_named(folder: Path, tmp_path: Path) -> None:
    good = (folder / "bee" / "grey.JPEG").read_bytes()
    (folder / "ant" / "truncated.jpg").write_bytes(good[: len(good) // 2])
    (folder / "ant" / "empty.png").write_bytes(b"")
    (folder / "bee" / "text.jpg").write_text("no image")
    damaged = (folder / "ant" / "rgb.png").read_bytes()
    (folder / "bee" / "damaged.png").write_bytes(damaged[:60] + b"\0" * 40 + damaged[100:])
    output = tmp_path / "shard.zip"
    with pytest.raises(UserError, match="4 of 11 images") as error:
        write_shard(folder, SIZE, 0, 1, output)
    for name in ("truncated.jpg", "empty.png", "text.jpg", "damaged.png"):
        assert name in str(error.value)
    assert "rgb.png" not in str(error.value)
    assert list(tmp_path.glob("*.zip")) == list(tmp_path.glob(".*.zip")) == []


def test_wrong_sets_of_shards_are_refused(folder: Path, tmp_path: Path) -> None:
    index = prepare(folder, tmp_path / "prepared")
    shards = sorted(index.parent.glob("*.zip"))
    with pytest.raises(UserError, match="each of the shards 0 to 2 once"):
        write_index(shards[:2], index)
    with pytest.raises(UserError, match="7 images, but the configuration says 8"):
        write_index(shards, index, images=8)
    with pytest.raises(UserError, match="2 classes, but the configuration says 3"):
        write_index(shards, index, classes=3)
    with pytest.raises(UserError, match="beside the index"):
        write_index(shards, tmp_path / "index.npz")
    write_shard(folder, 2 * SIZE, 1, SHARDS, shards[1])
    with pytest.raises(UserError, match="image_size differs"):
        write_index(shards, index)
    with pytest.raises(UserError, match="prepare the images again"):
        PreparedImages(index)
    shards[1].write_bytes(b"no zip")
    with pytest.raises(UserError, match=f"{shards[1].name}: not a shard"):
        write_index(shards, index)


@pytest.mark.parametrize("prepared", [True, False])
def test_an_index_is_known_by_its_images_not_by_its_place(folder: Path, tmp_path: Path, prepared: bool) -> None:
    def indexed(source: Path, name: str) -> str:
        if prepared:
            return fingerprint(prepare(source, tmp_path / name))
        listed = list_folder(source)
        write_folder_index(source, listed.paths, listed.labels, listed.classes, SIZE, tmp_path / f"{name}.npz")
        return fingerprint(tmp_path / f"{name}.npz")

    first = indexed(folder, "first")
    elsewhere = folder.rename(tmp_path / "elsewhere")
    assert indexed(elsewhere, "second") == first
    Image.new("RGB", (90, 90)).save(elsewhere / "bee" / ("grey.JPEG" if prepared else "one-more.png"))
    if not prepared:
        (elsewhere / "bee" / "grey.JPEG").unlink()
    assert indexed(elsewhere, "third") != first


def test_index_is_checked_against_the_configuration(folder: Path, tmp_path: Path) -> None:
    index = prepare(folder, tmp_path / "prepared")
    check_index(index, images=7, classes=2, image_size=SIZE)
    with pytest.raises(UserError, match="images is 7, but the configuration says 8"):
        check_index(index, images=8, classes=2, image_size=SIZE)
    with pytest.raises(UserError, match="image_size is 16"):
        check_index(index, images=7, classes=2, image_size=256)
    with pytest.raises(UserError, match="no such file"):
        PreparedImages(tmp_path / "index.npz")
    with pytest.raises(UserError, match="sub-folder"):
        index_folder(tmp_path / "absent", SIZE, tmp_path / "listed.npz")


@pytest.mark.parametrize(
    ("images", "classes", "message"),
    [
        (7, 3, r"raw: holds 2 classes \(ant to bee\), but the configuration says 3"),
        (8, 3, "raw: holds 2 classes"),
        (8, 2, "raw: holds 7 images, but the configuration says 8"),
    ],
)
def test_an_incomplete_folder_is_refused_before_it_is_cropped(
    folder: Path, tmp_path: Path, images: int, classes: int, message: str
) -> None:
    output = tmp_path / "shards" / "shard-00000.zip"
    with pytest.raises(UserError, match=message):
        write_shard(folder, SIZE, 0, 1, output, images=images, classes=classes)
    assert not output.parent.exists()


def test_command_reports_errors_in_one_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "shard-00000.zip"
    arguments = ["shard", "--source", str(folder), "--size", str(SIZE), "--shards", "1", "--output", str(output)]
    arguments += ["--images", "7", "--classes", "2"]
    monkeypatch.setattr(sys, "argv", ["prepare", *arguments, "--shard", "0"])
    prepare_command()
    assert output.exists()
    monkeypatch.setattr(sys, "argv", ["prepare", *arguments, "--shard", "1"])
    with pytest.raises(SystemExit, match="1"):
        prepare_command()
    assert caplog.messages[-1] == "--shard 1: expected a number from 0 to 0"


def test_an_epoch_shows_every_image_once() -> None:
    epoch = np.concatenate([batch_indices(5, step, 4, 20) for step in range(5)])
    following = np.concatenate([batch_indices(5, step, 4, 20) for step in range(5, 10)])
    assert sorted(epoch) == sorted(following) == list(range(20))
    assert epoch.tolist() != following.tolist()
    incomplete = np.concatenate([batch_indices(5, step, 6, 20) for step in range(3)])
    assert len(set(incomplete.tolist())) == 18


def test_order_is_a_function_of_seed_and_step() -> None:
    first = batch_indices(5, 7, 4, 20)
    batch_indices(5, 0, 4, 20)
    again = batch_indices(5, 7, 4, 20)
    assert first.tolist() == again.tolist()
    again[:] = 0
    assert batch_indices(5, 7, 4, 20).tolist() == first.tolist()
    assert batch_indices(6, 7, 4, 20).tolist() != first.tolist()
    with pytest.raises(ValueError, match="does not fit"):
        batch_indices(0, 0, 21, 20)


def test_rank_slices_partition() -> None:
    items = list(range(10))
    assert [items[rank_slice(10, rank, 3)] for rank in range(3)] == [[0, 1, 2], [3, 4, 5], [6, 7, 8, 9]]


@pytest.mark.parametrize("shape", [(1, 1, 3), (5, 7, 3), (64, 64, 3)])
def test_a_png_decodes_to_the_pixels_that_were_encoded(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png.encode(pixels)))), pixels)
