"""Initial weights of the denoisers."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from dsr.denoiser.layers import Block, FinalLayer, LabelEmbedder, LatentEmbedder, TimestepEmbedder

NARROW = 0.02
"""Standard deviation of label vectors and time-MLP weights."""


def initialise(model: nn.Module, linear: Literal["xavier", "default"]) -> None:
    """Set initial weights in place: every block is the identity and the output zero.

    ``linear`` is what Linear layers start from: Xavier-uniform with zero bias (the release's LightningDiT), or
    PyTorch's default (the release's DiT-DH, whose Xavier step is switched off).
    """
    for layer in model.modules():
        if isinstance(layer, nn.Linear) and linear == "xavier":
            nn.init.xavier_uniform_(layer.weight)
            _zero(layer.bias)
    # Now the exceptions among the layers above.
    for layer in model.modules():
        if isinstance(layer, LatentEmbedder):
            nn.init.xavier_uniform_(layer.proj.weight.flatten(1))
            _zero(layer.proj.bias)
        elif isinstance(layer, LabelEmbedder):
            nn.init.normal_(layer.embedding_table.weight, std=NARROW)
        elif isinstance(layer, TimestepEmbedder):
            for part in layer.mlp:
                if isinstance(part, nn.Linear):
                    nn.init.normal_(part.weight, std=NARROW)
        elif isinstance(layer, Block):
            _zero(*layer.adaLN_modulation.parameters())
        elif isinstance(layer, FinalLayer):
            _zero(*layer.adaLN_modulation.parameters(), *layer.linear.parameters())


def _zero(*tensors: Tensor | None) -> None:
    for tensor in tensors:
        if tensor is not None:
            nn.init.zeros_(tensor)
