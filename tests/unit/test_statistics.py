"""Latent statistics: numbers, processes and files. Imports little, because processes start with this file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from dsr.base.distributed import World
from dsr.base.errors import UserError
from dsr.encoder.statistics import LatentStatistics, Normaliser
from tests.processes import start_ranks

SHAPE = (3, 2, 2)


def latents(count: int = 23) -> torch.Tensor:
    """Latents with a large mean, a small variance, and one constant position."""
    values = 1000 + 0.01 * torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(0))
    values[:, 0, 0, 0] = 1234.5
    return values


def collect(parts: list[torch.Tensor]) -> LatentStatistics:
    statistics = LatentStatistics(SHAPE)
    for part in parts:
        statistics.update(part)
    return statistics


def test_mean_and_variance_keep_their_digits() -> None:
    values = latents()
    exact = values.double().numpy()
    statistics = collect(list(values.split(5)))
    assert statistics.count == 23
    np.testing.assert_allclose(statistics.mean.numpy(), exact.mean(0), rtol=1e-14)
    np.testing.assert_allclose(statistics.variance.numpy(), exact.var(0), rtol=1e-9)
    assert statistics.variance[0, 0, 0] == 0
    naive = values.square().mean(0) - values.mean(0).square()
    assert (naive - torch.from_numpy(exact.var(0))).abs().max() > 1e-2, "float32 sums would have lost them"


def merge_in_process(process: World, share: slice, output: Path) -> None:
    """Collect the share of a process, merge, and save."""
    statistics = collect([part for part in latents()[share].split(4) if len(part)])
    statistics.merge(process)
    statistics.save(output)


def test_merging_processes_equals_a_single_pass(tmp_path: Path) -> None:
    shares = (slice(0, 17), slice(17, 23), slice(0, 0))  # the last has nothing
    outputs = [tmp_path / f"{rank}.safetensors" for rank in range(3)]
    for process in start_ranks(merge_in_process, *zip(shares, outputs, strict=True)):
        process.join(120)
    whole = collect([latents()])
    for output in outputs:
        with safe_open(output, framework="pt") as file:
            assert json.loads(file.metadata()["about"]) == {"count": 23, "spec": None}
            torch.testing.assert_close(file.get_tensor("mean"), whole.mean.float(), rtol=1e-7, atol=0)
            torch.testing.assert_close(file.get_tensor("var"), whole.variance.float(), rtol=1e-6, atol=1e-18)


def test_normaliser_standardises_and_inverts(tmp_path: Path) -> None:
    values = torch.randn(200, *SHAPE) * 3 + 7
    collect([values]).save(tmp_path / "statistics.safetensors")
    normaliser = Normaliser.load(tmp_path / "statistics.safetensors", SHAPE)
    normalised = normaliser(values)
    torch.testing.assert_close(normalised.mean(0), torch.zeros(SHAPE), rtol=0, atol=1e-5)
    torch.testing.assert_close(normalised.var(0, unbiased=False), torch.ones(SHAPE), rtol=1e-4, atol=0)
    torch.testing.assert_close(normaliser.inverse(normalised), values, rtol=1e-5, atol=1e-5)
    assert normaliser.inverse(normalised.bfloat16()).dtype == torch.float32


def test_epsilon_is_added_to_the_variance() -> None:
    normaliser = Normaliser(torch.zeros(SHAPE), torch.zeros(SHAPE))
    torch.testing.assert_close(normaliser(torch.full((1, *SHAPE), 1e-5)), torch.full((1, *SHAPE), 1e-5**0.5))


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
