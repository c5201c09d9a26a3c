"""Training straight from an ImageFolder: the same images in the same order as prepared ones, byte for byte."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from dsr.base.errors import UserError
from dsr.commands.prepare import main as prepare_command
from dsr.data.folder import UnreadableImageError
from dsr.data.images import ListedImages, PreparedImages, open_images
from dsr.data.index import check_index
from dsr.data.prepare import index_folder, write_index, write_shard
from dsr.training.loop import train
from tests.unit.training_row import ONE, SIZE, differences, final_state, make_files, tiny_job

CROP, IMAGES = 16, 5


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images as ImageNet has them: CMYK, a PNG under a JPEG's name, grey ones; and a name that is not ASCII."""
    generator = np.random.default_rng(0)
    for name, mode, kind in (
        ("n01/cmyk.JPEG", "CMYK", "JPEG"),
        ("n01/png.JPEG", "RGBA", "PNG"),
        ("n02/grey.JPEG", "L", "JPEG"),
        ("n02/Ä.JPEG", "RGB", "JPEG"),
        ("n02/wide.JPEG", "RGB", "JPEG"),
    ):
        path = tmp_path / "raw" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        size = (70, 20) if "wide" in name else (33, 40)
        pixels = generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).convert(mode).save(path, format=kind)
    return tmp_path / "raw"


@pytest.fixture
def listed(folder: Path, tmp_path: Path) -> Path:
    index_folder(folder, CROP, tmp_path / "listed.npz", images=IMAGES, classes=2)
    return tmp_path / "listed.npz"


def test_listed_images_equal_prepared_ones(folder: Path, listed: Path, tmp_path: Path) -> None:
    write_shard(folder, CROP, 0, 1, tmp_path / "prepared" / "shard-00000.zip")
    write_index([tmp_path / "prepared" / "shard-00000.zip"], tmp_path / "prepared" / "index.npz")
    direct, prepared = open_images(listed), open_images(tmp_path / "prepared" / "index.npz")
    assert isinstance(direct, ListedImages)
    assert isinstance(prepared, PreparedImages)
    assert len(direct) == len(prepared) == IMAGES
    assert direct.classes == prepared.classes == ["n01", "n02"]
    assert direct.labels.tolist() == prepared.labels.tolist()
    assert direct.image_size == prepared.image_size == CROP
    for index in range(IMAGES):
        for flip in (False, True):
            assert torch.equal(direct[index, flip][0], prepared[index, flip][0])
    check_index(listed, images=IMAGES, classes=2, image_size=CROP)
    with pytest.raises(UserError, match="images is 5, but the configuration says 6"):
        check_index(listed, images=6, classes=2, image_size=CROP)


def test_reading_works_in_worker_processes(listed: Path) -> None:
    images = open_images(listed)
    assert np.array_equal(pickle.loads(pickle.dumps(images)).read(3), images.read(3))
    loader = DataLoader(images, sampler=[(3, False)], num_workers=1, multiprocessing_context="forkserver")
    ((pixels, _),) = loader
    assert np.array_equal(pixels[0].permute(1, 2, 0).numpy(), images.read(3))


def test_what_is_wrong_is_named(folder: Path, listed: Path, tmp_path: Path) -> None:
    images = open_images(listed)
    cmyk, png = folder / "n01/cmyk.JPEG", folder / "n01/png.JPEG"
    cmyk.write_bytes(cmyk.read_bytes()[:300])
    with pytest.raises(UnreadableImageError, match=r"cmyk.JPEG: cannot be decoded"):
        images.read(0)
    png.unlink()
    with pytest.raises(UnreadableImageError, match=r"png.JPEG: cannot be decoded"):
        images.read(1)
    with pytest.raises(UserError, match="raw: holds 4 images, but the configuration says 5"):
        index_folder(folder, CROP, tmp_path / "other.npz", images=IMAGES, classes=2)
    folder.rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"raw: no such folder, but .*listed.npz lists its images"):
        open_images(listed)


def test_the_command_lists_a_folder(
    folder: Path, listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "again.npz"
    words = ["--source", str(folder), "--size", str(CROP), "--images", str(IMAGES), "--classes", "2"]
    monkeypatch.setattr(sys, "argv", ["prepare", "folder", *words, "--output", str(output)])
    prepare_command()
    assert np.array_equal(open_images(output).read(4), open_images(listed).read(4))


def test_training_gives_the_same_bits(tmp_path: Path) -> None:
    row = make_files(tmp_path / "row")
    index_folder(row / "raw", SIZE, tmp_path / "listed.npz")
    jobs = [
        tiny_job(row, tmp_path / "prepared", epoch=1),
        tiny_job(row, tmp_path / "direct", epoch=1, images=tmp_path / "listed.npz", workers=1),
    ]
    for job in jobs:
        assert train(job, ONE)
    first, second = (final_state(job.run_dir) for job in jobs)
    inputs = [state["recipe"]["inputs"].pop("images") for state in (first, second)]
    assert inputs[0] != inputs[1]
    assert not differences(first, second)
