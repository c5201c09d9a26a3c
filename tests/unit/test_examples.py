"""The examples of docs/registers.md, run as a reader would run them, and the layers that they rest on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from dsr.base.errors import UserError
from dsr.denoiser import registers

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run(name: str) -> str:
    """Run an example in a process of its own and return what it prints."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / name],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_diffusion_registers_in_a_dit_of_timm_parts() -> None:
    printed = run("add_diffusion_registers.py")
    assert "and 2048 more for 16 registers before block 2" in printed  # 16 x 64, tokens and positions
    shape, before, after = re.search(r"prediction (.*), loss (.*) -> (.*)", printed).groups()
    assert shape == "(16, 4, 8, 8)"
    assert float(after) < 0.7 * float(before)
    assert float(re.search(r"registers moved by ([\d.]+)%", printed).group(1)) > 0.1


def test_test_time_registers_in_a_vit_of_timm() -> None:
    printed = run("test_time_registers_timm.py")
    assert int(re.search(r"before: (\d+) of 512 patches", printed).group(1)) > 0
    assert "layer 2, neuron 11: " in printed, "the planted neuron"
    assert "after: 0 of 512; " in printed
    assert "features: (8, 65, 48), as before: True" in printed


def test_entry_and_exit_around_layers_of_another_model() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, norm_first=True, batch_first=True)
    entry, leave = registers.Entry(layer, count=4, width=8), registers.Exit(nn.Identity(), count=4)
    x, mask = torch.randn(2, 9, 8), torch.zeros(13, 13, dtype=torch.bool)
    inserted = torch.cat([(entry.tokens + entry.positions).expand(2, -1, -1), x], dim=1)
    assert torch.equal(leave(entry(x, mask)), layer(inserted, mask)[:, 4:])
    assert torch.equal(leave(entry(x, src_mask=mask)), layer(inserted, src_mask=mask)[:, 4:])
    leave(entry(x)).sum().backward()
    assert entry.tokens.grad.abs().sum() > 0
    with pytest.raises(UserError, match="perfect square"):
        registers.Entry(layer, count=5, width=8)
