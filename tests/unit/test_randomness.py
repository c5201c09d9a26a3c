from __future__ import annotations

import numpy as np
import torch

from dsr.base.randomness import derive, noise, uniforms


def test_noise_depends_on_the_index_only() -> None:
    together = noise(3, "sample", [4, 9, 11], (2, 5, 5))
    alone = noise(3, "sample", [9], (2, 5, 5))
    assert torch.equal(together[1:2], alone)
    assert not torch.equal(together[0], together[1])


def test_noise_is_standard_normal() -> None:
    values = noise(0, "noise", range(64), (64, 8, 8))
    assert abs(values.mean().item()) < 0.01
    assert abs(values.std().item() - 1) < 0.01


def test_purposes_and_steps_are_independent() -> None:
    keys = {derive(seed, purpose, step) for seed in range(3) for purpose in ("time", "flip") for step in range(100)}
    assert len(keys) == 600
    assert np.array_equal(uniforms(0, "time", 5, 8), uniforms(0, "time", 5, 8))
    assert not np.array_equal(uniforms(0, "time", 5, 8), uniforms(0, "time", 6, 8))
