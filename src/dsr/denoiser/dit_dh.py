"""DiT-DH: an encoder stack whose tokens condition, one by one, a wide and shallow head (the DDT design)."""

import torch.nn.functional as F
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


class DiTDH(nn.Module):
    """Predicts the clean latent from a noisy one; parameters are named as in the released checkpoints.

    ``hidden_size``, ``depth`` and ``num_heads`` are pairs (encoder stack, head). ``registers`` tokens (0: none) enter
    the encoder before block ``register_start`` and a second set enters the head before its first block.
    ``class_dropout_prob`` above 0 adds the null label; dropping labels is the trainer's task. ``train_all`` also
    trains position tables and Fourier frequencies.
    """

    def __init__(
        self,
        *,
        input_size: int,
        in_channels: int,
        hidden_size: tuple[int, int],
        depth: tuple[int, int],
        num_heads: tuple[int, int],
        num_classes: int,
        mlp_ratio: float = 4.0,
        class_dropout_prob: float = 0.1,
        registers: int = 0,
        register_start: int = 0,
        train_all: bool = True,
    ) -> None:
        super().__init__()
        (width, head_width), (encoder_heads, head_heads) = hidden_size, num_heads
        self.input_size, self.in_channels = input_size, in_channels
        self.encoder_depth = depth[0]
        self.registers, self.register_start = registers, register_start
        self.null_label = num_classes
        self.pos_embed = nn.Parameter(position_table(width, input_size))
        fixed = [self.pos_embed]
        if registers:
            self.enc_register_tokens, self.enc_register_pos_embed = diffusion_registers.create(registers, width)
            self.dec_register_tokens, self.dec_register_pos_embed = diffusion_registers.create(registers, head_width)
            fixed += [self.enc_register_pos_embed, self.dec_register_pos_embed]
        self.x_embedder = LatentEmbedder(in_channels, head_width)
        self.s_embedder = LatentEmbedder(in_channels, width)
        self.s_projector = nn.Linear(width, head_width) if width != head_width else nn.Identity()
        self.t_embedder = TimestepEmbedder(width)
        self.y_embedder = LabelEmbedder(num_classes, width, null=class_dropout_prob > 0)
        self.final_layer = FinalLayer(head_width, in_channels)
        self.enc_feat_rope = RotaryPositions(width // encoder_heads, input_size)
        self.dec_feat_rope = RotaryPositions(head_width // head_heads, input_size)
        if registers:
            self.enc_feat_rope_incontext = RotaryPositions(width // encoder_heads, input_size, registers)
            self.dec_feat_rope_incontext = RotaryPositions(head_width // head_heads, input_size, registers)
        self.run_blocks: Run = run_blocks
        self.blocks = nn.ModuleList(
            [Block(width, encoder_heads, mlp_ratio) for _ in range(depth[0])]
            + [Block(head_width, head_heads, mlp_ratio) for _ in range(depth[1])]
        )
        initialise(self, linear="default")
        for parameter in [*fixed, self.t_embedder.W]:
            parameter.requires_grad_(train_all)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Noisy latents (B, C, S, S), times (B,), labels (B,) int64 -> predicted clean latents (B, C, S, S)."""
        guide = self._encode(x, self.t_embedder(t), self.y_embedder(y))
        tokens, rope = self.x_embedder(x), self.dec_feat_rope
        if self.registers:
            tokens = diffusion_registers.insert(tokens, self.dec_register_tokens, self.dec_register_pos_embed)
            rope = self.dec_feat_rope_incontext
        tokens = self.run_blocks(list(self.blocks)[self.encoder_depth :], tokens, guide, rope)
        tokens = diffusion_registers.strip(tokens, self.registers)
        guide = diffusion_registers.strip(guide, self.registers)
        return to_grid(self.final_layer(tokens, guide), self.input_size)

    def _encode(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        """Return what conditions the head, (B, R + N, D_head); registers condition registers."""
        # Every modulation starts with a SiLU of its own: the released model activates its conditions twice.
        condition = F.silu(time + label).unsqueeze(1)
        blocks = list(self.blocks)[: self.encoder_depth]
        tokens, rope = self.s_embedder(x) + self.pos_embed, self.enc_feat_rope
        if self.registers:
            tokens = self.run_blocks(blocks[: self.register_start], tokens, condition, rope)
            tokens = diffusion_registers.insert(tokens, self.enc_register_tokens, self.enc_register_pos_embed)
            rope, blocks = self.enc_feat_rope_incontext, blocks[self.register_start :]
        tokens = self.run_blocks(blocks, tokens, condition, rope)
        # The head sees the time once more, but not the label.
        guide: Tensor = self.s_projector(F.silu(time.unsqueeze(1) + tokens))
        return guide
