"""Initial weights of the denoisers."""

from __future__ import annotations

from typing import Literal

from torch import nn

from dsr.denoiser.layers import Block, FinalLayer, LabelEmbedder, LatentEmbedder, TimestepEmbedder

NARROW = 0.02
"""Standard deviation of label vectors and time-MLP weights."""


def initialise(model: nn.Module, linear: Literal["xavier", "default"]) -> None:
    """Set initial weights in place: every block is the identity and the output zero.

    ``linear`` is what Linear layers start from: Xavier-uniform with zero bias (the release's LightningDiT), or
    PyTorch's default (the release's DiT-DH, whose Xavier step is switched off).
    """
    if linear == "xavier":
        for layer in model.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
    for layer in model.modules():
        if isinstance(layer, LatentEmbedder):
            nn.init.xavier_uniform_(layer.proj.weight.flatten(1))
            nn.init.zeros_(layer.proj.bias)
        elif isinstance(layer, LabelEmbedder):
            nn.init.normal_(layer.embedding_table.weight, std=NARROW)
        elif isinstance(layer, TimestepEmbedder):
            for part in layer.mlp:
                if isinstance(part, nn.Linear):
                    nn.init.normal_(part.weight, std=NARROW)
        elif isinstance(layer, Block | FinalLayer):
            _zero(layer.adaLN_modulation)
        if isinstance(layer, FinalLayer):
            _zero(layer.linear)


def _zero(module: nn.Module) -> None:
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
