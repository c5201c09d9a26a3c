"""Denoisers, and the flow that they predict."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dsr.base.errors import UserError
from dsr.config import training as config
from dsr.config.sampling import Guidance
from dsr.config.specs import ModelSpec
from dsr.denoiser.dit import build_denoiser, load_denoiser
from dsr.denoiser.layers import RotaryPositions
from dsr.flow import Flow
from dsr.sampling.sampler import trajectory

from .training_row import moved

GOLDEN = Path(__file__).parents[1] / "golden"
CPU = torch.device("cpu")
DIT = {"kind": "dit", "hidden_size": 32, "depth": 4, "num_heads": 4, "register_start": 1}
DIT_DH = {"kind": "dit-dh", "hidden_size": [32, 40], "depth": [3, 1], "num_heads": [4, 5], "register_start": 1}


def tiny(denoiser: dict[str, Any], registers: int = 0, **entries: Any) -> ModelSpec:
    spec = {"denoiser": denoiser | entries, "registers": registers, "channels": 6, "grid": 4, "classes": 10}
    return ModelSpec.model_validate_json(json.dumps(spec))


@pytest.mark.parametrize(
    ("denoiser", "golden", "count"), [(DIT, "lightning_dit_registers", 6), (DIT_DH, "ddt_registers", 11)]
)
def test_tables_are_constructed_as_released(denoiser: dict[str, Any], golden: str, count: int) -> None:
    state = build_denoiser(tiny(denoiser, 4)).state_dict()
    tables = [name for name in state if "pos_embed" in name or "rope" in name]
    assert len(tables) == count
    with np.load(GOLDEN / f"{golden}.npz") as file:
        for name in tables:
            torch.testing.assert_close(state[name], torch.from_numpy(file[f"param/{name}"]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("denoiser", [DIT, DIT_DH], ids=["dit", "dit-dh"])
def test_a_new_denoiser_predicts_zero_and_its_blocks_change_nothing(denoiser: dict[str, Any]) -> None:
    model = build_denoiser(tiny(denoiser, 4))
    assert torch.count_nonzero(model(torch.randn(3, 6, 4, 4), torch.rand(3), torch.randint(0, 11, (3,)))) == 0
    tokens, condition = torch.randn(3, 20, 32), torch.randn(3, 1, 32)
    rope = RotaryPositions(8, 4, 4)
    assert torch.equal(model.blocks[0](tokens, condition, rope), tokens)


def test_linear_layers_start_as_in_the_release() -> None:
    """Xavier with zero bias in LightningDiT, PyTorch's default in DiT-DH."""
    assert torch.count_nonzero(build_denoiser(tiny(DIT)).blocks[0].attn.qkv.bias) == 0
    assert torch.count_nonzero(build_denoiser(tiny(DIT_DH)).blocks[0].attn.qkv.bias) > 0
    for denoiser in (DIT, DIT_DH):
        torch.manual_seed(0)
        model = build_denoiser(tiny(denoiser, 4))
        assert model.t_embedder.mlp[0].weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert model.t_embedder.W.std().item() == pytest.approx(1.0, rel=0.15)
        assert model.y_embedder.embedding_table.weight.std().item() == pytest.approx(0.02, rel=0.2)


def test_attention_weights_are_those_of_the_forward_pass() -> None:
    attention = moved(tiny(DIT)).blocks[1].attn
    x, rope = torch.randn(2, 16, 32), RotaryPositions(8, 4)
    weights = attention.weights(x, rope)
    assert weights.shape == (2, 4, 16, 16)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 16))
    value = attention.qkv(x)[..., 64:].unflatten(-1, (4, 8)).transpose(1, 2)
    expected = attention.proj((weights @ value).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(x, rope), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("denoiser", [DIT, DIT_DH], ids=["dit", "dit-dh"])
def test_bf16_rounds_and_does_no_more(denoiser: dict[str, Any]) -> None:
    model, inputs = moved(tiny(denoiser, 4)), (torch.randn(3, 6, 4, 4), torch.rand(3), torch.randint(0, 11, (3,)))
    exact = model(*inputs)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(*inputs)
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - exact).abs().max() < 0.05 * exact.abs().max()


def test_missing_damaged_and_other_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "ema.safetensors"
    save_file(build_denoiser(tiny(DIT)).state_dict(), path)
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(path.read_bytes()[:-100])
    for spec, weights, message in (
        (tiny(DIT), tmp_path / "absent.safetensors", "no such file"),
        (tiny(DIT), damaged, "not a safetensors file, or cut off"),
        (tiny(DIT, class_dropout=0.0), path, r"y_embedder.embedding_table.weight: .*\[11, 32\].*\[10, 32\]"),
        (tiny(DIT, 4), path, r'Missing key\(s\) in state_dict: "register_tokens", '),
    ):
        with pytest.raises(UserError, match=message):
            load_denoiser(spec, weights, CPU)


# The flow; path, loss, velocity and time grid are compared with recorded ones in tests/golden

FLOW = Flow.from_config(config.Flow(shift_dim=196608))
VELOCITY = Flow.from_config(config.Flow(shift_dim=196608, prediction="velocity"))


def latents(seed: int) -> torch.Tensor:
    return torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(seed))


def test_the_configuration_gives_the_shift_and_shifted_times_stay_in_the_interval() -> None:
    assert FLOW.shift == VELOCITY.shift == math.sqrt(48)
    extremes = FLOW.times(torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64))
    assert extremes.dtype == torch.float32
    assert extremes.tolist() == [0.0, 1.0]


def test_a_velocity_is_what_leads_from_the_clean_latents_that_it_stands_for() -> None:
    clean, noise, t = latents(0), latents(1), torch.rand(5, generator=torch.Generator().manual_seed(2)).clamp(min=0.1)
    x_t = FLOW.interpolate(clean, noise, t)
    assert torch.allclose(VELOCITY.clean(x_t, noise - clean, t), clean, atol=1e-6)
    assert torch.equal(FLOW.clean(x_t, clean, t), clean)
    assert VELOCITY.loss(noise - clean, clean, noise, t).tolist() == [0.0] * 5
    wrong = latents(3)
    of_data = VELOCITY.loss(FLOW.velocity(x_t, wrong, t), clean, noise, t)
    assert torch.allclose(of_data, FLOW.loss(wrong, clean, noise, t))


def test_velocities_lead_the_sampler_to_the_end_of_the_releases_grid() -> None:
    clean, noise, labels = latents(0), latents(1), torch.zeros(5, dtype=torch.int64)
    grid = VELOCITY.time_grid(50)
    assert grid[0] == 1.0
    assert grid[-1] == pytest.approx(0.00689, abs=1e-5)
    options = {"null_label": 1, "steps": 50, "guidance": Guidance()}
    *_, end = trajectory(lambda *_: noise - clean, VELOCITY, noise, labels, **options)
    torch.testing.assert_close(end, VELOCITY.interpolate(clean, noise, grid[-1:]))
