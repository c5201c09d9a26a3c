"""The command that computes latent statistics of prepared images."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from dsr.base.randomness import uniforms
from dsr.commands import statistics as command
from dsr.config.specs import StatisticsSpec
from dsr.encoder.siglip2 import Siglip2Encoder
from dsr.encoder.statistics import Normaliser
from tests.unit import tiny_encoder

IMAGES = 5


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("inputs")
    return {
        "encoder": tiny_encoder.write_folder(folder / "encoder"),
        "images": tiny_encoder.write_images(folder, IMAGES),
    }


def run(monkeypatch: pytest.MonkeyPatch, spec: StatisticsSpec, **paths: Path) -> None:
    words = [word for name, path in paths.items() for word in (f"--{name}", str(path))]
    words += ["--spec", spec.model_dump_json(), "--execution", '{"sample_batch": 2}']
    monkeypatch.setattr(sys, "argv", ["statistics", *words])
    command.main()


@pytest.mark.parametrize("flip", [False, True])
def test_every_image_counts_once(
    monkeypatch: pytest.MonkeyPatch, inputs: dict[str, Path], tmp_path: Path, flip: bool
) -> None:
    spec = StatisticsSpec(encoding=tiny_encoder.spec(), images=IMAGES, flip=flip)
    run(monkeypatch, spec, **inputs, output=tmp_path / "statistics.safetensors")

    flips = (uniforms(0, "statistics-flip", 0, IMAGES) < 0.5) & flip
    assert not flip or 0 < flips.sum() < IMAGES
    pixels = tiny_encoder.stored_pixels(inputs["images"], flips)
    encoder = Siglip2Encoder.load(inputs["encoder"], tiny_encoder.SIZE)
    shape = spec.encoding.latent_shape
    features = encoder(encoder.preprocess(pixels)).transpose(1, 2).reshape(IMAGES, *shape).double()
    normaliser = Normaliser.load(tmp_path / "statistics.safetensors", shape)
    torch.testing.assert_close(normaliser.mean, features.mean(0).float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(normaliser.var, features.var(0, unbiased=False).float(), rtol=1e-4, atol=1e-5)


def test_another_number_of_images_is_an_error(
    monkeypatch: pytest.MonkeyPatch, inputs: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec = StatisticsSpec(encoding=tiny_encoder.spec(), images=IMAGES + 1, flip=False)
    with pytest.raises(SystemExit):
        run(monkeypatch, spec, **inputs, output=tmp_path / "statistics.safetensors")
    assert "found 5 images, but data.train_images says 6" in caplog.text
