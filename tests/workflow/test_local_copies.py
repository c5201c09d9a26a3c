"""What users bring: their own copies, for which nothing is downloaded, and a folder of their own images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from dsr.artifacts.manifest import load
from dsr.base.errors import UserError
from dsr.config.specs import AutoencoderSpec
from dsr.data.images import check_index, list_folder
from dsr.plan.own_images import OwnImages, write_overlay
from tests.configuration import DEMO, ROOT, configuration
from tests.unit.artifact_manifest import graph
from tests.unit.tiny_encoder import SIZE, WIDTH, write_folder, write_images, write_parts

from .conftest import Checkout, copy_checkout, job_counts

IMAGES, CLASSES = 36, 2
PATCH = SIZE // 16
"""The manifest's encoder has 16 x 16 positions whatever the configuration says."""
RELEASED = {"neurons": "released", "statistics": "released"}
COUNTS = {"train_images": IMAGES, "validation_images": CLASSES, "classes": CLASSES}
OVERLAY: dict[str, Any] = {
    "results": "results/local",
    "discovery": {"images": IMAGES},
    "figures": {"images": [0]},
    "rows": {"dit-so400m": None, "dit-so400m-dsr": None},
    "encoders": {"siglip2-b": {"hub": "tiny", "input_size": SIZE, "patch_size": PATCH, "width": WIDTH, **RELEASED}},
    "data": {"source": "kaggle", "image_size": SIZE, "shards": 1, **COUNTS},
}
"""Beside the demo's sizes."""


def write_copies(folder: Path, spec: AutoencoderSpec) -> dict[str, str]:
    """Write a user's own copies at the smallest sizes; return their paths by id of the manifest."""
    vit, network = (load().artifacts[name].check.model_dump() for name in ("siglip2-b", "inception-graph"))
    sizes = {"intermediate_size": vit["intermediate_size"], "num_hidden_layers": vit["depth"], "patch_size": PATCH}
    torch.save({"mean": torch.zeros(spec.latent_shape), "var": torch.ones(spec.latent_shape)}, folder / "stat.pt")
    (folder / "graph.pb").write_bytes(graph(*network["names"]))
    copies = {
        "siglip2-b": write_folder(folder / "encoder", **sizes),
        "decoder-siglip2-b": write_parts(folder, spec, layers={0: (0,)})["decoder"],
        "statistics-siglip2-b-none": folder / "stat.pt",
        "statistics-siglip2-b-single": folder / "stat.pt",
        "imagenet-train": write_images(folder / "train", IMAGES).with_name("raw"),
        "imagenet-validation": write_images(folder / "validation", CLASSES).with_name("raw"),
        "inception-graph": folder / "graph.pb",
    }
    return {name: str(path) for name, path in copies.items()}


TARGETS = (
    "results/local/encoders/siglip2-b/model.safetensors",
    "results/local/latents/siglip2-b-none.safetensors",
    "results/local/decoders/siglip2-b.safetensors",
    "results/local/evaluator/graph.pb",
    "results/local/data/raw/train.json",
    "results/local/data/raw/validation.json",
)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkout, dict[str, str]]:
    """Return a checkout with an overlay that gives the user's copies, and their paths by id."""
    folder = tmp_path_factory.mktemp("local")
    given = dict.fromkeys(("statistics-siglip2-b-none", "statistics-siglip2-b-single"), "its path")
    spec = configuration(DEMO, **OVERLAY, artifacts=given).autoencoder("siglip2-b", "none")
    copies = write_copies(folder, spec)
    checkout = Checkout(copy_checkout(folder / "checkout").folder, (DEMO, "overlay.yaml"))
    (checkout.folder / "overlay.yaml").write_text(yaml.safe_dump({**OVERLAY, "artifacts": copies}), encoding="utf-8")
    return checkout, copies


def run(checkout: Checkout, *arguments: str, overlays: tuple[str, ...] = ()) -> str:
    done = checkout.tiny(*arguments, overlays=overlays)
    assert done.returncode == 0, done.stdout[-8000:]
    return done.stdout


def test_local_copies_are_checked_and_linked(given: tuple[Checkout, dict[str, str]]) -> None:
    checkout, copies = given
    once = dict.fromkeys(("fetch_encoder", "fetch_decoder", "fetch_statistics", "fetch_evaluator"), 1)
    assert job_counts(run(checkout, *TARGETS)).items() >= {**once, "fetch_images": 2}.items()
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
    assert "Nothing to be done" in run(checkout, "-n", *TARGETS)


def test_images_need_not_be_prepared(given: tuple[Checkout, dict[str, str]]) -> None:
    checkout, copies = given
    (checkout.folder / "direct.yaml").write_text("{data: {prepared: false}, results: results/direct}", encoding="utf-8")
    index, direct = "results/direct/data/prepared/validation/index.npz", ("direct.yaml",)
    assert set(job_counts(run(checkout, index, overlays=direct))) == {"fetch_images", "list_images"}
    check_index(checkout.folder / index, images=CLASSES, classes=CLASSES, image_size=SIZE)
    # An image that comes, goes or moves behind the index is noticed by the next plan.
    assert "Nothing to be done" in run(checkout, "-n", index, overlays=direct)
    folder = next(path for path in Path(copies["imagenet-validation"]).iterdir() if path.is_dir())
    next(folder.iterdir()).rename(folder / "renamed.png")
    assert set(job_counts(run(checkout, "-n", index, overlays=direct))) == {"list_images"}


# A folder of images: test_finished_run.py goes on from there ----------------------------------------------------------


def overlay_for(photographs: Path, output: Path, **options: Any) -> dict[str, Any]:
    write_overlay(OwnImages(photographs, output, config=(ROOT / "config.yaml",), **{"gpus": 0, **options}))
    return yaml.safe_load(output.read_text(encoding="utf-8"))


def test_the_overlay_is_a_configuration_that_plans(fresh: Checkout, photographs: Path, tmp_path: Path) -> None:
    chosen = overlay_for(photographs, tmp_path / "photos.yaml")
    assert chosen["data"] | {"train_images": 144, "validation_images": 16, "classes": 2} == chosen["data"]
    held = list_folder(tmp_path / "photos/validation")
    assert held.classes == ["a temple", "flower"]
    assert sorted(held.labels.tolist()) == [0] * 4 + [1] * 12
    counts, text = fresh.plan("all", "--configfile", f"{tmp_path}/photos.yaml")
    assert counts["train"] == counts["evaluate"] == 2 * 2
    assert "siglip2b" not in text.replace("siglip2-b", ""), "no row of the paper is left"


def test_what_it_says_follows_from_the_images(
    photographs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    chosen, again = (
        overlay_for(photographs, tmp_path / f"{name}.yaml", gpus=4, encoder="siglip2-so400m") for name in "ab"
    )
    batch = chosen["recipes"]["own"]["batch"]
    assert batch == 16  # the largest power of two that leaves eight steps of 144 images
    assert chosen["evaluation"]["epochs"][-1] == -(-20000 // (144 // batch))
    assert chosen["sampling"]["images"] == 1000
    assert (chosen["rows"]["dsr"]["ttr"], chosen["execution"]["processes"]) == ("recursive", 4)
    assert f"snakemake --cores 1 plan --configfile {tmp_path / 'a.yaml'}" in caplog.text
    for said in ("classes have 36 to 108 images", "100% are enlarged", "flow.shift_dim stays 196608", "4 GPUs"):
        assert said in caplog.text
    assert list(chosen) == list(again)
    held = [[path.resolve() for path in list_folder(tmp_path / name / "validation").paths] for name in "ab"]
    assert held[0] == held[1], "the same images are held out"


def test_images_of_one_folder_are_one_class(photographs: Path, tmp_path: Path) -> None:
    assert overlay_for(photographs / "flower", tmp_path / "flat.yaml")["data"]["classes"] == 1
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
        overlay_for(photographs, tmp_path / "photos.yaml", **change)
    assert not any(tmp_path.iterdir()), "nothing stands in the way of another try"
