"""From a folder of one's own images to a configuration that plans; test_finished_run.py goes on from there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from dsr.base.errors import UserError
from dsr.data.images import list_folder
from dsr.plan.own_images import OwnImages, write_overlay
from tests.configuration import ROOT

from .conftest import Checkout

CONFIG = (ROOT / "config.yaml",)


def overlay(job: OwnImages) -> dict[str, Any]:
    write_overlay(job)
    return yaml.safe_load(job.output.read_text(encoding="utf-8"))


def test_the_overlay_is_a_configuration_that_plans(fresh: Checkout, photographs: Path, tmp_path: Path) -> None:
    job = OwnImages(photographs, tmp_path / "photos.yaml", config=CONFIG, gpus=0)
    chosen = overlay(job)
    assert chosen["data"] | {"train_images": 144, "validation_images": 16, "classes": 2} == chosen["data"]
    held = list_folder(tmp_path / "photos/validation")
    assert held.classes == ["a temple", "flower"]
    assert sorted(held.labels.tolist()) == [0] * 4 + [1] * 12
    counts, text = fresh.plan("all", "--configfile", str(job.output))
    assert counts["train"] == counts["evaluate"] == 2 * 2
    assert "siglip2b" not in text.replace("siglip2-b", ""), "no row of the paper is left"


def test_what_it_says_follows_from_the_images(
    photographs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    chosen = overlay(OwnImages(photographs, tmp_path / "a.yaml", config=CONFIG, gpus=4, encoder="siglip2-so400m"))
    batch = chosen["recipes"]["own"]["batch"]
    assert batch == 16  # the largest power of two that leaves eight steps of 144 images
    assert chosen["evaluation"]["epochs"][-1] == -(-20000 // (144 // batch))
    assert chosen["sampling"]["images"] == 1000
    assert (chosen["rows"]["dsr"]["ttr"], chosen["execution"]["processes"]) == ("recursive", 4)
    assert f"snakemake --cores 1 plan --configfile {tmp_path / 'a.yaml'}" in caplog.text
    for said in ("classes have 36 to 108 images", "100% are enlarged", "flow.shift_dim stays 196608", "4 GPUs"):
        assert said in caplog.text
    again = overlay(OwnImages(photographs, tmp_path / "b.yaml", config=CONFIG, gpus=4, encoder="siglip2-so400m"))
    assert list(chosen) == list(again)
    held = [[path.resolve() for path in list_folder(tmp_path / name / "validation").paths] for name in "ab"]
    assert held[0] == held[1], "the same images are held out"


def test_images_of_one_folder_are_one_class(photographs: Path, tmp_path: Path) -> None:
    job = OwnImages(photographs / "flower", tmp_path / "flat.yaml", config=CONFIG, gpus=0)
    assert overlay(job)["data"]["classes"] == 1
    assert list_folder(tmp_path / "flat/train").classes == ["images"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder": "clip"}, "--encoder clip: .*config.yaml has siglip2-b, siglip2-so400m"),
        ({"hold_out": 0.001}, "class 'a temple' has 40 images, of which 0 would be held out"),
        ({"gpus": 200}, "144 images are too few for a batch of 200"),
    ],
)
def test_what_cannot_be_is_one_line(photographs: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        write_overlay(OwnImages(photographs, tmp_path / "photos.yaml", config=CONFIG, **{"gpus": 0, **change}))
    assert not any(tmp_path.iterdir()), "nothing stands in the way of another try"
