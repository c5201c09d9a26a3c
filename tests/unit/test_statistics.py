"""Latent statistics: processes, the command, files. Imports little, because processes start with this file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from dsr.base.distributed import World
from dsr.base.errors import UserError
from dsr.base.randomness import uniforms
from dsr.commands import statistics as command
from dsr.config.execution import Execution
from dsr.config.specs import StatisticsSpec
from dsr.data.images import open_images
from dsr.encoder.siglip2 import Siglip2Encoder
from dsr.encoder.statistics import LatentStatistics, Normaliser
from tests.processes import start_ranks
from tests.unit import tiny_encoder

SHAPE = (3, 2, 2)


def latents() -> torch.Tensor:
    """Latents with a large mean, a small variance, and one constant position."""
    values = 1000 + 0.01 * torch.randn(23, *SHAPE, generator=torch.Generator().manual_seed(0))
    values[:, 0, 0, 0] = 1234.5
    return values


def merge_in_process(process: World, share: slice, output: Path) -> None:
    """Collect the share of a process, merge, and save."""
    statistics = LatentStatistics(SHAPE)
    for part in latents()[share].split(4):
        if len(part):
            statistics.update(part)
    statistics.merge(process)
    statistics.save(output)


def test_merged_processes_keep_every_digit(tmp_path: Path) -> None:
    shares = (slice(0, 17), slice(17, 23), slice(0, 0))  # the last has nothing
    outputs = [tmp_path / f"{rank}.safetensors" for rank in range(3)]
    for process in start_ranks(merge_in_process, *zip(shares, outputs, strict=True)):
        process.join(120)
    exact = latents().double()
    for output in outputs:
        with safe_open(output, framework="pt") as file:
            assert json.loads(file.metadata()["about"]) == {"count": 23, "spec": None}
            torch.testing.assert_close(file.get_tensor("mean"), exact.mean(0).float(), rtol=1e-7, atol=0)
            variance = exact.var(0, unbiased=False).float()
            torch.testing.assert_close(file.get_tensor("var"), variance, rtol=1e-6, atol=1e-18)


@pytest.mark.parametrize("flip", [False, True])
def test_every_image_counts_once(
    run_command: Callable[..., None], six_images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, flip: bool
) -> None:
    spec = StatisticsSpec(encoding=tiny_encoder.spec(), images=6, flip=flip)
    given = {"encoder": tiny_encoder.write_folder(tmp_path / "encoder"), "images": six_images}
    given |= {"execution": Execution(sample_batch=4), "output": tmp_path / "statistics.safetensors"}
    run_command(command.main, spec=spec, **given)

    flips = (uniforms(0, "statistics-flip", 0, 6) < 0.5) & flip
    assert not flip or 0 < flips.sum() < 6
    images = open_images(six_images)
    read = np.stack([images.read(index)[:, :: -1 if flips[index] else 1] for index in range(6)])
    encoder = Siglip2Encoder.load(given["encoder"], tiny_encoder.SIZE)
    tokens = encoder(encoder.preprocess(torch.from_numpy(read).permute(0, 3, 1, 2) / 255))
    shape = spec.encoding.latent_shape
    features = tokens.transpose(1, 2).reshape(6, *shape).double()
    normaliser = Normaliser.load(given["output"], shape)
    torch.testing.assert_close(normaliser.mean, features.mean(0).float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(normaliser.var, features.var(0, unbiased=False).float(), rtol=1e-4, atol=1e-5)

    with pytest.raises(SystemExit):
        run_command(command.main, spec=spec.model_copy(update={"images": 7}), **given)
    assert "found 6 images, but data.train_images says 7" in caplog.text


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"mean": torch.zeros(SHAPE)}, r'Missing key\(s\) in state_dict: "var"'),
        ({"mean": torch.zeros(3), "var": torch.ones(3)}, r"size mismatch for mean: .*\[3\].*\[3, 2, 2\]"),
        ({"mean": torch.zeros(SHAPE), "var": -torch.ones(SHAPE)}, "negative variances"),
        ({"mean": torch.full(SHAPE, torch.nan), "var": torch.ones(SHAPE)}, "not finite"),
    ],
)
def test_bad_statistics_are_refused(tmp_path: Path, tensors: dict[str, torch.Tensor], message: str) -> None:
    path = tmp_path / "statistics.safetensors"
    save_file(tensors, path)
    with pytest.raises(UserError, match=f"statistics.safetensors: .*{message}"):
        Normaliser.load(path, SHAPE)
