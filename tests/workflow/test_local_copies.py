"""Nothing is downloaded where config.yaml gives paths of the user's own copies."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from snakemake.utils import update_config

from dsr.data.images import check_index
from tests.configuration import DEMO, configuration

from . import local_copies
from .conftest import Checkout, copy_checkout, job_counts

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
    spec = configuration(DEMO, **local_copies.OVERLAY).autoencoder("siglip2-b", "none")
    copies = local_copies.write(folder, spec)
    overlay = folder / "overlay.yaml"
    overlay.write_text(yaml.safe_dump({**local_copies.OVERLAY, "artifacts": copies}), encoding="utf-8")
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
    check_index(
        checkout.folder / index,
        images=local_copies.CLASSES,
        classes=local_copies.CLASSES,
        image_size=local_copies.SIDE,
    )
    # An image that comes, goes or moves behind the index is noticed by the next plan.
    assert "Nothing to be done" in run(checkout, str(direct), "-n", index)
    folder = next(path for path in Path(copies["imagenet-validation"]).iterdir() if path.is_dir())
    next(folder.iterdir()).rename(folder / "renamed.png")
    assert set(job_counts(run(checkout, str(direct), "-n", index))) == {"list_images"}
