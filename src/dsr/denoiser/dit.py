"""LightningDiT: one stack of rotary, SwiGLU, RMS-normalised blocks, with or without diffusion registers."""

from torch import Tensor, nn

from dsr.base.positions import position_table
from dsr.denoiser import registers as diffusion_registers
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


class LightningDiT(nn.Module):
    """Predicts the clean latent from a noisy one; parameters are named as in the released checkpoints.

    ``registers`` tokens (0: none) enter before block ``register_start``. ``class_dropout_prob`` above 0 adds the null
    label; dropping labels is the trainer's task. ``train_all`` also trains position tables and Fourier frequencies.
    """

    def __init__(
        self,
        *,
        input_size: int,
        in_channels: int,
        hidden_size: int,
        depth: int,
        num_heads: int,
        num_classes: int,
        mlp_ratio: float = 4.0,
        class_dropout_prob: float = 0.1,
        registers: int = 0,
        register_start: int = 0,
        train_all: bool = True,
    ) -> None:
        super().__init__()
        self.input_size, self.in_channels = input_size, in_channels
        self.registers, self.register_start = registers, register_start
        self.null_label = num_classes
        self.pos_embed = nn.Parameter(position_table(hidden_size, input_size))
        fixed = [self.pos_embed]
        if registers:
            self.register_tokens, self.register_pos_embed = diffusion_registers.create(registers, hidden_size)
            fixed.append(self.register_pos_embed)
        self.x_embedder = LatentEmbedder(in_channels, hidden_size)
        self.t_embedder = TimestepEmbedder(hidden_size)
        self.y_embedder = LabelEmbedder(num_classes, hidden_size, null=class_dropout_prob > 0)
        self.feat_rope = RotaryPositions(hidden_size // num_heads, input_size)
        if registers:
            self.feat_rope_incontext = RotaryPositions(hidden_size // num_heads, input_size, registers)
        self.run_blocks: Run = run_blocks
        self.blocks = nn.ModuleList(Block(hidden_size, num_heads, mlp_ratio) for _ in range(depth))
        self.final_layer = FinalLayer(hidden_size, in_channels)
        initialise(self, linear="xavier")
        for parameter in [*fixed, self.t_embedder.W]:
            parameter.requires_grad_(train_all)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Noisy latents (B, C, S, S), times (B,), labels (B,) int64 -> predicted clean latents (B, C, S, S)."""
        condition = (self.t_embedder(t) + self.y_embedder(y)).unsqueeze(1)
        tokens, rope, blocks = self.x_embedder(x) + self.pos_embed, self.feat_rope, list(self.blocks)
        if self.registers:
            tokens = self.run_blocks(blocks[: self.register_start], tokens, condition, rope)
            tokens = diffusion_registers.insert(tokens, self.register_tokens, self.register_pos_embed)
            rope, blocks = self.feat_rope_incontext, blocks[self.register_start :]
        tokens = self.run_blocks(blocks, tokens, condition, rope)
        tokens = diffusion_registers.strip(tokens, self.registers)
        return to_grid(self.final_layer(tokens, condition), self.input_size)
