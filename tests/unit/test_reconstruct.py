from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dsr.base import files
from dsr.base.errors import UserError
from dsr.config.execution import Execution
from dsr.config.load import Config
from dsr.config.specs import EvaluateSpec, ReconstructSpec
from dsr.data import npz
from dsr.data.images import open_images
from dsr.encoder.autoencoder import load_autoencoder
from dsr.encoder.statistics import LatentStatistics
from dsr.evaluation.evaluate import Job as Evaluation
from dsr.evaluation.evaluate import evaluate, fidelity
from dsr.report.encoders import write_reconstruction
from dsr.report.entries import Entries, Entry
from dsr.report.render import TableFiles
from dsr.sampling.generate import Shards
from dsr.sampling.misfits import misfits
from dsr.sampling.reconstruct import Job, Reconstructor, reconstruct

from .training_row import IMAGES, ONE, SIZE, tiny_autoencoder

SPEC = ReconstructSpec(autoencoder=tiny_autoencoder(), images=IMAGES, precision="fp32")


def job(row: Path, folder: Path, batch: int = 100, **options: Any) -> Job:
    """Job with the right statistics of the tiny row's encoder."""
    given: dict[str, Any] = {
        "spec": SPEC,
        "encoder": row / "encoder",
        "neurons": row / "neurons.json",
        "images": row / "images/index.npz",
        "statistics": folder / "own.safetensors",
        "decoder": row / "decoder.safetensors",
        "shards": folder / "shards",
        "output": folder / f"samples-{batch}.npz",
        "execution": Execution(sample_batch=batch),
    }
    encoder = load_autoencoder(
        SPEC.autoencoder, encoder=row / "encoder", neurons=row / "neurons.json", statistics=None, decoder=None
    )
    source, statistics = open_images(given["images"]), LatentStatistics(SPEC.autoencoder.latent_shape)
    pixels = torch.from_numpy(np.stack([source.read(number) for number in range(IMAGES)])).permute(0, 3, 1, 2) / 255
    statistics.update(encoder.encode(pixels))
    statistics.save(given["statistics"])
    return Job(**{**given, **options})


def images_of(one: Job) -> np.ndarray:
    return np.concatenate([*npz.read_images(one.output)])


def test_a_reconstruction_depends_on_its_image_alone(row: Path, tmp_path: Path) -> None:
    for one in (whole := job(row, tmp_path), parts := job(row, tmp_path, 5)):
        reconstruct(one, ONE)
    images = images_of(whole)
    assert images.shape == (IMAGES, SIZE, SIZE, 3)
    assert len(np.unique(images.reshape(IMAGES, -1), axis=0)) == IMAGES
    alone = np.concatenate([Reconstructor(whole, ONE.device).start([number])() for number in range(IMAGES)])
    for other in (images_of(parts), alone):
        assert np.abs(images.astype(int) - other.astype(int)).max() <= 1
    about = files.read_json(whole.output.with_suffix(".json"))
    assert ReconstructSpec.model_validate_json(files.json.dumps(about["spec"])) == SPEC
    assert about["statistics_distance"] < 1e-5


def test_statistics_and_decoders_of_others_are_a_warning(
    row: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = row / "statistics.safetensors"
    Shards(tmp_path / "shards", {}, IMAGES, (SIZE, SIZE, 3)).write(0, np.zeros((IMAGES, SIZE, SIZE, 3), np.uint8))
    with caplog.at_level(logging.WARNING):
        reconstruct(job(row, tmp_path, statistics=other), ONE)
    for name in ("specification", "encoder", "neurons", "images", "statistics", "decoder", "device"):
        assert re.search(rf"shard-00000.safetensors was sampled with.* another {name}\b.*; removed", caplog.text)
    assert f"{other}: latents are" in caplog.text
    (line,) = misfits({"statistics_distance": 0.01, "unexplained": 2.5}, "", "other.pt")
    assert line.startswith("other.pt: reconstructions are 2.5 times as far from the images as one colour would be")
    assert misfits({"statistics_distance": 0.01, "unexplained": 0.3}, "", "") == []


def test_a_reconstruction_of_all_images_is_asked_for(row: Path, tmp_path: Path) -> None:
    more = SPEC.model_copy(update={"images": IMAGES + 1})
    with pytest.raises(UserError, match=r"index.npz: 24 images, but data.validation_images is 25"):
        reconstruct(job(row, tmp_path, spec=more), ONE)


def write(path: Path, images: np.ndarray) -> Path:
    npz.write_images(path, [images], len(images), images.shape[1:])
    return path


def test_psnr_and_ssim(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 246, (70, 16, 16, 3), dtype=np.uint8)
    originals = write(tmp_path / "a.npz", images)
    found = fidelity(write(tmp_path / "b.npz", images + 10), originals, threads=2)
    assert found["psnr"] == pytest.approx(20 * np.log10(25.5))
    assert 0.9 < found["ssim"] < 1
    assert fidelity(write(tmp_path / "c.npz", images[::-1]), originals, threads=1)["psnr"] < 12


def test_reconstructions_are_scored_against_their_own_images(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (IMAGES, 16, 16, 3), dtype=np.uint8)
    made, others = write(tmp_path / "samples.npz", images), write(tmp_path / "others.npz", images[:20])
    files.write_json(made.with_suffix(".json"), {"spec": SPEC.model_dump(mode="json", exclude_defaults=True)})
    with pytest.raises(UserError, match=r"others.npz: 20 images; .*samples.npz has 24 reconstructions"):
        evaluate(
            Evaluation((made,), others, tmp_path / "graph.pb", (tmp_path / "m.json",), (EvaluateSpec(samples=SPEC),))
        )


def test_the_table_has_published_values_and_says_what_is_wrong(config: Config, tmp_path: Path) -> None:
    entries = []
    for encoder, ttr, distance in (("dinov2-b-registers", "none", 0.01), ("siglip2-b", "single", 0.3)):
        spec = config.evaluate(config.reconstruct(encoder, ttr)).model_dump(mode="json", exclude_defaults=True)
        scores = {"fid": 0.58, "inception_score": 1, "precision": 1, "recall": 1, "psnr": 18.9, "ssim": 0.5}
        scores |= {"images": 50000, "samples": {"sha256": "a"}, "statistics_distance": distance, "unexplained": 0.2}
        files.write_json(tmp_path / f"{encoder}.json", {**scores, "spec": spec})
        entries.append(Entry(encoder=encoder, ttr=ttr, metrics=tmp_path / f"{encoder}.json"))
    places = TableFiles(*(tmp_path / f"table.{ending}" for ending in ("md", "csv", "html", "tex")))
    write_reconstruction(config, Entries(tuple(entries)), places)
    text = places.markdown_file.read_text()
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    assert lines[2:] == [
        ["dinov2-b-registers", "none", "0.58", "0.57", "18.90", "18.94", "0.500", "50000"],
        ["siglip2-b", "single", "0.58", "", "18.90", "", "0.500", "50000"],
    ]
    assert "**siglip2-b, TTR single: statistics: latents are 0.3 from" in text
    assert "1.90 against ADM's" in text
    other = config.model_copy(update={"sampling": config.sampling.model_copy(update={"precision": "fp32"})})
    with pytest.raises(UserError, match=r"dinov2-b-registers.json was made with other .*precision: bf16 -> fp32"):
        write_reconstruction(other, Entries(tuple(entries)), places)
