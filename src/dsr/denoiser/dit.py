"""Both denoisers: stacks of rotary, SwiGLU, RMS-normalised blocks, with or without diffusion registers.

They predict the clean latent from a noisy one, and name parameters as the released checkpoints do. A class dropout
above 0 adds the null label; dropping labels is the trainer's task. ``train_all`` also trains position tables and
Fourier frequencies.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dsr.base.files import read_record
from dsr.base.positions import position_table
from dsr.base.tensors import Blank, assign, read
from dsr.config.specs import ModelSpec, WeightsSpec, require
from dsr.config.training import Dit, DitDh
from dsr.denoiser.layers import (
    Block,
    FinalLayer,
    LabelEmbedder,
    LatentEmbedder,
    RotaryPositions,
    Run,
    TimestepEmbedder,
    initialise,
    run_blocks,
    to_grid,
)
from dsr.registers.diffusion import create, insert, strip


class LightningDiT(nn.Module):
    """One stack of blocks; the registers, if any, enter before block ``register_start``."""

    def __init__(self, spec: ModelSpec, network: Dit, *, train_all: bool = True) -> None:
        super().__init__()
        width, heads = network.hidden_size, network.num_heads
        self.input_size, self.in_channels, self.null_label = spec.grid, spec.channels, spec.classes
        self.registers, self.register_start = spec.registers, network.register_start
        self.pos_embed = nn.Parameter(position_table(width, spec.grid))
        fixed = [self.pos_embed]
        if spec.registers:
            self.register_tokens, self.register_pos_embed = create(spec.registers, width)
            fixed.append(self.register_pos_embed)
        self.x_embedder = LatentEmbedder(spec.channels, width)
        self.t_embedder = TimestepEmbedder(width)
        self.y_embedder = LabelEmbedder(spec.classes, width, null=network.class_dropout > 0)
        self.feat_rope = RotaryPositions(width // heads, spec.grid)
        if spec.registers:
            self.feat_rope_incontext = RotaryPositions(width // heads, spec.grid, spec.registers)
        self.run_blocks: Run = run_blocks
        self.blocks = nn.ModuleList(Block(width, heads, network.mlp_ratio) for _ in range(network.depth))
        self.final_layer = FinalLayer(width, spec.channels)
        initialise(self, linear="xavier")
        for parameter in [*fixed, self.t_embedder.W]:
            parameter.requires_grad_(train_all)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Noisy latents (B, C, S, S), times (B,), labels (B,) int64 -> prediction (B, C, S, S)."""
        condition = (self.t_embedder(t) + self.y_embedder(y)).unsqueeze(1)
        tokens, rope, blocks = self.x_embedder(x) + self.pos_embed, self.feat_rope, list(self.blocks)
        if self.registers:
            tokens = self.run_blocks(blocks[: self.register_start], tokens, condition, rope)
            tokens = insert(tokens, self.register_tokens, self.register_pos_embed)
            rope, blocks = self.feat_rope_incontext, blocks[self.register_start :]
        tokens = self.run_blocks(blocks, tokens, condition, rope)
        tokens = strip(tokens, self.registers)
        return to_grid(self.final_layer(tokens, condition), self.input_size)


class DiTDH(nn.Module):
    """An encoder stack whose tokens condition, one by one, a wide and shallow head (the DDT design).

    Registers enter the encoder before block ``register_start``, and a second set the head before its first block.
    """

    def __init__(self, spec: ModelSpec, network: DitDh, *, train_all: bool = True) -> None:
        super().__init__()
        (width, heads), (head_width, head_heads) = zip(network.hidden_size, network.num_heads, strict=True)
        self.input_size, self.in_channels, self.null_label = spec.grid, spec.channels, spec.classes
        self.registers, self.register_start = spec.registers, network.register_start
        self.encoder_depth, head_depth = network.depth
        self.pos_embed = nn.Parameter(position_table(width, spec.grid))
        fixed = [self.pos_embed]
        if spec.registers:
            self.enc_register_tokens, self.enc_register_pos_embed = create(spec.registers, width)
            self.dec_register_tokens, self.dec_register_pos_embed = create(spec.registers, head_width)
            fixed += [self.enc_register_pos_embed, self.dec_register_pos_embed]
        self.x_embedder = LatentEmbedder(spec.channels, head_width)
        self.s_embedder = LatentEmbedder(spec.channels, width)
        self.s_projector = nn.Linear(width, head_width) if width != head_width else nn.Identity()
        self.t_embedder = TimestepEmbedder(width)
        self.y_embedder = LabelEmbedder(spec.classes, width, null=network.class_dropout > 0)
        self.final_layer = FinalLayer(head_width, spec.channels)
        self.enc_feat_rope = RotaryPositions(width // heads, spec.grid)
        self.dec_feat_rope = RotaryPositions(head_width // head_heads, spec.grid)
        if spec.registers:
            self.enc_feat_rope_incontext = RotaryPositions(width // heads, spec.grid, spec.registers)
            self.dec_feat_rope_incontext = RotaryPositions(head_width // head_heads, spec.grid, spec.registers)
        self.run_blocks: Run = run_blocks
        self.blocks = nn.ModuleList(
            [Block(width, heads, network.mlp_ratio) for _ in range(self.encoder_depth)]
            + [Block(head_width, head_heads, network.mlp_ratio) for _ in range(head_depth)]
        )
        initialise(self, linear="default")
        for parameter in [*fixed, self.t_embedder.W]:
            parameter.requires_grad_(train_all)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Noisy latents (B, C, S, S), times (B,), labels (B,) int64 -> prediction (B, C, S, S)."""
        guide = self._encode(x, self.t_embedder(t), self.y_embedder(y))
        tokens, rope = self.x_embedder(x), self.dec_feat_rope
        if self.registers:
            tokens = insert(tokens, self.dec_register_tokens, self.dec_register_pos_embed)
            rope = self.dec_feat_rope_incontext
        tokens = self.run_blocks(list(self.blocks)[self.encoder_depth :], tokens, guide, rope)
        tokens = strip(tokens, self.registers)
        guide = strip(guide, self.registers)
        return to_grid(self.final_layer(tokens, guide), self.input_size)

    def _encode(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        """Return what conditions the head, (B, R + N, D_head); registers condition registers."""
        # Every modulation starts with a SiLU of its own: the released model activates its conditions twice.
        condition = F.silu(time + label).unsqueeze(1)
        blocks = list(self.blocks)[: self.encoder_depth]
        tokens, rope = self.s_embedder(x) + self.pos_embed, self.enc_feat_rope
        if self.registers:
            tokens = self.run_blocks(blocks[: self.register_start], tokens, condition, rope)
            tokens = insert(tokens, self.enc_register_tokens, self.enc_register_pos_embed)
            rope, blocks = self.enc_feat_rope_incontext, blocks[self.register_start :]
        tokens = self.run_blocks(blocks, tokens, condition, rope)
        # The head sees the time once more, but not the label.
        guide: Tensor = self.s_projector(F.silu(time.unsqueeze(1) + tokens))
        return guide


Denoiser = LightningDiT | DiTDH


def build_denoiser(spec: ModelSpec, *, train_all: bool = True) -> Denoiser:
    """Build the denoiser of ``spec`` with initial weights drawn from torch's global generator."""
    match spec.denoiser:
        case Dit() as network:
            return LightningDiT(spec, network, train_all=train_all)
        case DitDh() as network:
            return DiTDH(spec, network, train_all=train_all)


def load_denoiser(spec: ModelSpec, weights: Path, device: torch.device, origin: WeightsSpec | None = None) -> Denoiser:
    """Build the denoiser of ``spec`` with the weights of a safetensors file, frozen and in evaluation mode.

    Raises:
        UserError: if the file records another ``origin``, or does not hold exactly the tensors that the denoiser has.
    """
    if origin is not None:
        record = read_record(weights)
        # Of what is fetched the manifest tells more than is asked for here.
        require(weights, record.get("spec", {"artifact": record.get("artifact")}), origin)
    with Blank():
        model = build_denoiser(spec)
    assign(model, read(weights, device), weights)
    return model.eval().requires_grad_(False)
