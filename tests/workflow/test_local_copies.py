"""Nothing is downloaded where config.yaml gives paths of the user's own copies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
    checkout, _, overlay = given
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


def test_a_copy_that_is_not_what_it_should_be_is_named(given: tuple[Checkout, dict[str, str], str]) -> None:
    checkout, copies, overlay = given
    wrong = Path(overlay).with_name("wrong.yaml")
    change = {**local_copies.OVERLAY, "results": "results/wrong"}
    change["artifacts"] = {"decoder-siglip2-b": copies["inception-graph"], "inception-graph": "/nowhere/graph.pb"}
    wrong.write_text(yaml.safe_dump(change), encoding="utf-8")
    targets = ("results/wrong/decoders/siglip2-b.safetensors", "results/wrong/evaluator/graph.pb")
    done = checkout.snakemake(*targets, "--cores", "2", "--keep-going", "--configfile", DEMO, str(wrong))
    assert done.returncode != 0
    assert f"{copies['inception-graph']}: not a PyTorch file of plain tensors" in done.stdout
    assert "/nowhere/graph.pb: no such file or folder. It is your own copy of 'inception-graph'" in done.stdout
    assert "Traceback" not in done.stdout


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"artifacts": {"siglip2": "/a"}}, "artifacts: siglip2 not in the manifest (misspelt?). It has: siglip2-b"),
        (
            {
                "artifacts": {"imagenet-train": "/a"},
                "data": {"source": "imagefolder", "train": "/a", "validation": "/b"},
            },
            "artifacts.imagenet-train: data.source is imagefolder, which takes data.train; leave one out",
        ),
    ],
)
def test_paths_that_would_do_nothing_are_refused(fresh: Checkout, change: dict[str, Any], message: str) -> None:
    fresh.refused(change, message)
