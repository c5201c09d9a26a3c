"""Images to latents and back: a frozen encoder, latent statistics, and a decoder."""

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from dsr.base.errors import UserError
from dsr.base.files import read_record
from dsr.base.positions import position_table
from dsr.base.tensors import Blank, assign, read
from dsr.config.encoders import Decoder
from dsr.config.specs import AutoencoderSpec, EncoderSpec, require
from dsr.encoder.dinov2 import Dinov2Encoder
from dsr.encoder.siglip2 import Siglip2Encoder
from dsr.encoder.statistics import Normaliser
from dsr.encoder.ttr import read_neurons, with_registers
from dsr.encoder.vit import VitEncoder

FAMILIES: Mapping[str, type[VitEncoder]] = {"siglip2": Siglip2Encoder, "dinov2": Dinov2Encoder}
"""By `encoders.*.family`. To add one: a file with a class beside these, and its name in
`dsr.config.encoders.Encoder.family`."""

_DECODER_EPS = 1e-12
"""Epsilon of every LayerNorm of the decoder."""


def quantised(pixels: torch.Tensor) -> torch.Tensor:
    """Convert pixels (B, 3, H, W), floats, to uint8 images (B, H, W, 3) on the same device: clamped, then truncated."""
    scaled = pixels.float().clamp(0, 1) * 255
    return scaled.to(torch.uint8).permute(0, 2, 3, 1).contiguous()


class ViTDecoder(nn.Module):
    """Pixels from latent tokens: linear, CLS token, fixed positions, pre-norm blocks, linear to patches.

    Parameter names are those of the published decoders; ``patch_size`` is in pixels, and ``grid`` tokens are along one
    side.
    """

    def __init__(self, shape: Decoder, *, in_channels: int, patch_size: int, grid: int) -> None:
        super().__init__()
        hidden_size = shape.hidden_size
        self.patch_size = patch_size
        self.grid = grid
        self.decoder_embed = nn.Linear(in_channels, hidden_size)
        self.trainable_cls_token = nn.Parameter(torch.zeros(1, 1, hidden_size))
        # A zero row for CLS, then the patches' positions.
        positions = F.pad(position_table(hidden_size, grid), (0, 0, 1, 0))
        self.decoder_pos_embed = nn.Parameter(positions, requires_grad=False)
        self.decoder_layers = nn.ModuleList(_Layer(shape) for _ in range(shape.depth))
        self.decoder_norm = nn.LayerNorm(hidden_size, eps=_DECODER_EPS)
        self.decoder_pred = nn.Linear(hidden_size, patch_size**2 * 3)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Decode latent tokens (B, grid², C) to standardised pixels (B, 3, grid * patch, grid * patch)."""
        x = self.decoder_embed(tokens)
        x = torch.cat([self.trainable_cls_token.expand(len(x), -1, -1), x], dim=1) + self.decoder_pos_embed
        for layer in self.decoder_layers:
            x = layer(x)
        patches = self.decoder_pred(self.decoder_norm(x))[:, 1:]
        # A token's channels are rows, columns and colours of its patch.
        split: torch.Tensor = patches.reshape(len(x), self.grid, self.grid, self.patch_size, self.patch_size, 3)
        return split.permute(0, 5, 1, 3, 2, 4).reshape(len(x), 3, *[self.grid * self.patch_size] * 2)


class _Layer(nn.Module):
    def __init__(self, shape: Decoder) -> None:
        super().__init__()
        width, self.heads = shape.hidden_size, shape.num_heads
        self.layernorm_before = nn.LayerNorm(width, eps=_DECODER_EPS)
        projections = nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value")})
        self.attention = nn.ModuleDict({"attention": projections, "output": _dense(width, width)})
        self.layernorm_after = nn.LayerNorm(width, eps=_DECODER_EPS)
        self.intermediate = _dense(width, shape.intermediate_size)
        self.output = _dense(shape.intermediate_size, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, D) -> (B, T, D)."""
        normed = self.layernorm_before(x)
        q, k, v = (
            part(normed).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.attention["attention"].children()
        )
        x = x + self.attention["output"](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        update: torch.Tensor = self.output(F.gelu(self.intermediate(self.layernorm_after(x))))
        return x + update


def _dense(inputs: int, outputs: int) -> nn.Sequential:
    """One linear layer under the name ``dense``."""
    return nn.Sequential(OrderedDict(dense=nn.Linear(inputs, outputs)))


class Autoencoder(nn.Module):
    """Encoder, normaliser and decoder; each may be absent, and what is there is frozen.

    Without a normaliser latents stay raw. Without an encoder, ``family`` says whose processors scale pixels as the
    decoder returns them.
    """

    pixel_mean: torch.Tensor
    pixel_std: torch.Tensor

    def __init__(
        self,
        *,
        encoder: VitEncoder | None,
        decoder: ViTDecoder | None,
        normaliser: Normaliser | None,
        family: str = "siglip2",
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.normaliser = normaliser
        self.in_half = False
        """Whether the encoder's matmuls take float16, which has TF32's mantissa of 10 bits, at twice its speed.

        Sums, normalisations and residual streams stay float32. A value beyond float16's range, 65504, makes the latents
        infinite or NaN.
        """
        # The decoder returns pixels in the scale that the encoder saw.
        for name in ("pixel_mean", "pixel_std"):
            published = torch.tensor(getattr(FAMILIES[family], name.upper())).view(3, 1, 1)
            self.register_buffer(name, getattr(encoder, name).clone() if encoder else published, persistent=False)
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Encode pixels (B, 3, H, W), floats in [0, 1], to latents (B, C, S, S), normalised if statistics are there."""
        latents = self.raw(pixels)
        return latents if self.normaliser is None else self.normaliser(latents)

    @torch.no_grad()
    def raw(self, pixels: torch.Tensor) -> torch.Tensor:
        """Encode pixels to latents that are not normalised.

        Autocast does not reach the encoder: it computes in float32, or as ``in_half`` says, whatever surrounds it.
        """
        if self.encoder is None:
            raise ValueError("this autoencoder was loaded without an encoder and can only decode")
        with torch.autocast(pixels.device.type, torch.float16, enabled=self.in_half):
            tokens = self.encoder(self.encoder.preprocess(pixels.float()))
            side = self.encoder.input_size // self.encoder.patch_size
            latents: torch.Tensor = tokens.transpose(1, 2).unflatten(2, (side, side))
            return latents

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode latents (B, C, S, S) to pixels (B, 3, H, W); [0, 1] is black to white, and nothing is clamped."""
        if self.decoder is None:
            raise ValueError("this autoencoder was loaded without a decoder and can only encode")
        raw = latents if self.normaliser is None else self.normaliser.inverse(latents)
        pixels: torch.Tensor = self.decoder(raw.flatten(2).transpose(1, 2))
        return pixels * self.pixel_std + self.pixel_mean


def load_autoencoder(
    spec: EncoderSpec, *, encoder: Path | None, neurons: Path | None, statistics: Path | None, decoder: Path | None
) -> Autoencoder:
    """Load an autoencoder in eval mode, frozen, on the CPU.

    Without ``encoder``, a Hugging Face folder, it can only decode, and without ``decoder`` only encode; without
    ``statistics`` latents stay raw. ``neurons`` are needed exactly where there is an encoder and ``spec.ttr_options``
    is set. With a decoder, ``spec`` is an ``AutoencoderSpec``.

    Raises:
        UserError: if a file is missing, damaged, or does not fit the specification or the other files.
    """
    return Autoencoder(
        encoder=load_encoder(spec, encoder=encoder, neurons=neurons) if encoder else None,
        decoder=load_decoder(cast(AutoencoderSpec, spec), decoder) if decoder else None,
        normaliser=_load_normaliser(spec, statistics) if statistics else None,
        family=spec.encoder.family,
    )


def _load_normaliser(spec: EncoderSpec, path: Path) -> Normaliser:
    """Read statistics that were computed here with the same encoder, or by others."""
    if made := read_record(path).get("spec"):
        asked = EncoderSpec.model_validate(spec.model_dump(include=set(EncoderSpec.model_fields)))
        require(path, made["encoding"], asked)
    return Normaliser.load(path, spec.latent_shape)


def load_encoder(spec: EncoderSpec, *, encoder: Path, neurons: Path | None) -> VitEncoder:
    """Load the encoder of a specification, with test-time registers where ``spec.ttr_options`` is set.

    Raises:
        UserError: if a file is missing, damaged, or does not fit the specification.
    """
    loaded = FAMILIES[spec.encoder.family].load(encoder, spec.encoder.input_size)
    for key in ("width", "patch_size"):
        found, expected = getattr(loaded, key), getattr(spec.encoder, key)
        if found != expected:
            raise UserError(
                f"{encoder}: {key} is {found}, but the configuration's encoder says {expected}; correct one"
            )
    if (neurons is None) != (spec.ttr_options is None):
        given = neurons or "no neuron file"
        raise UserError(
            f"{given}: a neuron file is needed where the specification has test-time registers, and only there"
        )
    if neurons is None or spec.ttr_options is None:
        return loaded
    return with_registers(loaded, read_neurons(neurons).layers, spec.ttr_options)


def build_decoder(spec: AutoencoderSpec) -> ViTDecoder:
    """Build the decoder of a specification, untrained; its patches fill ``spec.image_size`` exactly."""
    grid = spec.encoder.grid
    return ViTDecoder(spec.decoder, in_channels=spec.encoder.width, patch_size=spec.image_size // grid, grid=grid)


def load_decoder(spec: AutoencoderSpec, path: Path) -> ViTDecoder:
    """Load decoder weights; every tensor must be known, present, and of the right shape.

    Raises:
        UserError: naming the tensors that are not.
    """
    with Blank():
        decoder = build_decoder(spec)
    assign(decoder, read(path), path)
    return decoder
