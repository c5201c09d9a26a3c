"""The fixed position table that denoisers and the decoder add to their tokens."""

import torch
from torch import Tensor

BASE = 10000.0
"""Ratio of the longest wavelength to the shortest."""


def position_table(width: int, grid: int) -> Tensor:
    """Return 2-D sin-cos positions of an S x S grid, (1, N, D): first half of D is the column, second the row.

    D is a multiple of 4.
    """
    quarter = width // 4
    frequencies = BASE ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    angles = torch.outer(torch.arange(grid, dtype=torch.float64), frequencies)
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)
    columns = axis[None].expand(grid, grid, -1)
    rows = axis[:, None].expand(grid, grid, -1)
    return torch.cat([columns, rows], dim=-1).reshape(1, grid * grid, width).float()
