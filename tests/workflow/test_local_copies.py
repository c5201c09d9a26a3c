"""What users bring: their own copies, for which nothing is downloaded, and a folder of their own images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from snakemake.utils import update_config
from transformers import SiglipConfig, SiglipVisionConfig, SiglipVisionModel

from dsr.artifacts.manifest import load
from dsr.base.errors import UserError
from dsr.base.files import write_json
from dsr.config.specs import AutoencoderSpec
from dsr.data.images import check_index, list_folder
from dsr.encoder.autoencoder import build_decoder
from dsr.encoder.statistics import LatentStatistics
from dsr.plan.own_images import OwnImages, write_overlay
from tests.configuration import DEMO, ROOT, configuration
from tests.unit.artifact_manifest import graph

from .conftest import Checkout, copy_checkout, job_counts

WIDTH, SIDE, IMAGES, CLASSES = 8, 64, 36, 2
GRID = 16
"""The manifest's encoder has 256 positions whatever the configuration says."""

OVERLAY: dict[str, Any] = {
    "results": "results/local",
    "discovery": {"images": IMAGES},
    "figures": {"images": [0]},
    "rows": {"dit-so400m": None, "dit-so400m-dsr": None},
    "encoders": {
        "siglip2-b": {
            "hub": "someone/tiny",
            "input_size": SIDE,
            "patch_size": SIDE // GRID,
            "width": WIDTH,
            "neurons": "released",
            "statistics": "released",
        }
    },
    "data": {
        "source": "kaggle",
        "classes": CLASSES,
        "train_images": IMAGES,
        "validation_images": CLASSES,
        "image_size": SIDE,
        "shards": 1,
    },
}
"""Beside the demo's sizes."""


def write_copies(folder: Path, spec: AutoencoderSpec) -> dict[str, str]:
    """Write a user's own copies at the smallest sizes; return their paths by id of the manifest."""
    copies = {
        "siglip2-b": _encoder(folder / "tiny-siglip"),
        "decoder-siglip2-b": folder / "decoder.safetensors",
        "statistics-siglip2-b-none": folder / "stat.pt",
        "imagenet-train": _images(folder / "train", IMAGES),
        "imagenet-validation": _images(folder / "validation", CLASSES),
        "inception-graph": folder / "graph.pb",
    }
    torch.manual_seed(0)
    save_file(build_decoder(spec).state_dict(), copies["decoder-siglip2-b"])
    statistics = LatentStatistics(spec.latent_shape)
    statistics.update(torch.randn(16, *spec.latent_shape))
    torch.save(
        {"mean": statistics.mean.float(), "var": statistics.variance.float()}, copies["statistics-siglip2-b-none"]
    )
    copies["inception-graph"].write_bytes(graph(*load().artifacts["inception-graph"].check.names))
    copies["statistics-siglip2-b-single"] = copies["statistics-siglip2-b-none"]
    return {name: str(path) for name, path in copies.items()}


def _encoder(folder: Path) -> Path:
    check = load().artifacts["siglip2-b"].check.model_dump()
    vision = SiglipVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=check["intermediate_size"],
        num_hidden_layers=check["depth"],
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=SIDE // GRID,
        vision_use_head=False,
    )
    SiglipVisionModel(vision).save_pretrained(folder)
    SiglipConfig(vision_config=vision.to_dict()).save_pretrained(folder)
    write_json(folder / "preprocessor_config.json", {"image_mean": [0.5] * 3, "image_std": [0.5] * 3})
    return folder


def _images(folder: Path, count: int) -> Path:
    generator = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"n{number % CLASSES:08d}" / f"{number}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (80, 70, 3), dtype=np.uint8)).save(path)
    return folder


TARGETS = (
    "results/local/encoders/siglip2-b/model.safetensors",
    "results/local/latents/siglip2-b-none.safetensors",
    "results/local/decoders/siglip2-b.safetensors",
    "results/local/evaluator/graph.pb",
    "results/local/data/raw/train.json",
    "results/local/data/raw/validation.json",
)
PREPARE = ("fetch_encoder", "fetch_decoder", "fetch_statistics", "fetch_graph", "fetch_images")


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkout, dict[str, str], str]:
    """Return a checkout, the user's copies by id, and the overlay that gives them."""
    folder = tmp_path_factory.mktemp("local")
    checkout = copy_checkout(folder / "checkout")
    given = dict.fromkeys(("statistics-siglip2-b-none", "statistics-siglip2-b-single"), "its path")
    spec = configuration(DEMO, **OVERLAY, artifacts=given).autoencoder("siglip2-b", "none")
    copies = write_copies(folder, spec)
    overlay = folder / "overlay.yaml"
    overlay.write_text(yaml.safe_dump({**OVERLAY, "artifacts": copies}), encoding="utf-8")
    return checkout, copies, str(overlay)


def run(checkout: Checkout, overlay: str, *arguments: str) -> str:
    done = checkout.snakemake(*arguments, "--cores", "2", "--configfile", DEMO, overlay)
    assert done.returncode == 0, done.stdout[-8000:]
    return done.stdout


def test_local_copies_are_checked_and_linked(given: tuple[Checkout, dict[str, str], str]) -> None:
    checkout, copies, overlay = given
    planned = job_counts(run(checkout, overlay, "-n", *TARGETS))
    assert {name: planned.get(name, 0) for name in PREPARE} == {**dict.fromkeys(PREPARE, 1), "fetch_images": 2}

    run(checkout, overlay, *TARGETS)
    results = checkout.folder / "results/local"
    for name, file in {
        "siglip2-b/model.safetensors": "encoders/siglip2-b/model.safetensors",
        "siglip2-b/config.json": "encoders/siglip2-b/config.json",
        "decoder-siglip2-b": "decoders/siglip2-b.safetensors",
        "imagenet-train": "data/raw/train",
        "imagenet-validation": "data/raw/validation",
        "inception-graph": "evaluator/graph.pb",
    }.items():
        identifier, _, inside = name.partition("/")
        assert (results / file).is_symlink()
        assert (results / file).resolve() == Path(copies[identifier], inside).resolve()
    # The authors' form is not the workflow's: converted, with the copy left alone.
    assert not (results / "latents/siglip2-b-none.safetensors").is_symlink()
    assert "Nothing to be done" in run(checkout, overlay, *TARGETS)


def test_images_need_not_be_prepared(given: tuple[Checkout, dict[str, str], str]) -> None:
    checkout, copies, overlay = given
    direct = Path(overlay).with_name("direct.yaml")
    content = yaml.safe_load(Path(overlay).read_text(encoding="utf-8"))
    update_config(content, {"data": {"prepared": False}, "results": "results/direct"})
    direct.write_text(yaml.safe_dump(content), encoding="utf-8")
    index = "results/direct/data/prepared/validation/index.npz"
    assert set(job_counts(run(checkout, str(direct), "-n", index))) == {"fetch_images", "list_images"}
    run(checkout, str(direct), index)
    check_index(checkout.folder / index, images=CLASSES, classes=CLASSES, image_size=SIDE)
    # An image that comes, goes or moves behind the index is noticed by the next plan.
    assert "Nothing to be done" in run(checkout, str(direct), "-n", index)
    folder = next(path for path in Path(copies["imagenet-validation"]).iterdir() if path.is_dir())
    next(folder.iterdir()).rename(folder / "renamed.png")
    assert set(job_counts(run(checkout, str(direct), "-n", index))) == {"list_images"}


# A folder of images: test_finished_run.py goes on from there ----------------------------------------------------------

CONFIG = (ROOT / "config.yaml",)


def overlay_for(job: OwnImages) -> dict[str, Any]:
    write_overlay(job)
    return yaml.safe_load(job.output.read_text(encoding="utf-8"))


def test_the_overlay_is_a_configuration_that_plans(fresh: Checkout, photographs: Path, tmp_path: Path) -> None:
    job = OwnImages(photographs, tmp_path / "photos.yaml", config=CONFIG, gpus=0)
    chosen = overlay_for(job)
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
    chosen = overlay_for(OwnImages(photographs, tmp_path / "a.yaml", config=CONFIG, gpus=4, encoder="siglip2-so400m"))
    batch = chosen["recipes"]["own"]["batch"]
    assert batch == 16  # the largest power of two that leaves eight steps of 144 images
    assert chosen["evaluation"]["epochs"][-1] == -(-20000 // (144 // batch))
    assert chosen["sampling"]["images"] == 1000
    assert (chosen["rows"]["dsr"]["ttr"], chosen["execution"]["processes"]) == ("recursive", 4)
    assert f"snakemake --cores 1 plan --configfile {tmp_path / 'a.yaml'}" in caplog.text
    for said in ("classes have 36 to 108 images", "100% are enlarged", "flow.shift_dim stays 196608", "4 GPUs"):
        assert said in caplog.text
    again = overlay_for(OwnImages(photographs, tmp_path / "b.yaml", config=CONFIG, gpus=4, encoder="siglip2-so400m"))
    assert list(chosen) == list(again)
    held = [[path.resolve() for path in list_folder(tmp_path / name / "validation").paths] for name in "ab"]
    assert held[0] == held[1], "the same images are held out"


def test_images_of_one_folder_are_one_class(photographs: Path, tmp_path: Path) -> None:
    job = OwnImages(photographs / "flower", tmp_path / "flat.yaml", config=CONFIG, gpus=0)
    assert overlay_for(job)["data"]["classes"] == 1
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
