"""Token maps of a frozen encoder, block by block, with or without test-time registers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from dsr.analysis.images import read_chosen, to_images, to_pixels
from dsr.analysis.maps import OUTPUT, TokenMaps
from dsr.analysis.measure import LayerMaps, measure_layer, stack_layers
from dsr.analysis.specs import EncoderMapsSpec
from dsr.data.images import Images
from dsr.encoder.autoencoder import load_autoencoder
from dsr.encoder.blocks import Block
from dsr.encoder.vit import VitEncoder


def map_encoder(
    spec: EncoderMapsSpec,
    *,
    images: Images,
    encoder: Path,
    neurons: Path | None,
    decoder: Path | None,
    device: torch.device,
) -> TokenMaps:
    """Run the chosen images through the encoder and measure the stream after every block.

    The last layer is the feature after the final LayerNorm without affine, whose norms are all sqrt(D). With a decoder
    the reconstruction of the raw feature is kept too.

    Raises:
        UserError: if a file does not fit the specification, or an image does not exist.
    """
    autoencoder = load_autoencoder(spec.autoencoder, encoder=encoder, neurons=neurons, statistics=None, decoder=decoder)
    autoencoder = autoencoder.to(device)
    chosen = read_chosen(images, spec.images)
    pixels = to_pixels(chosen.images, device)
    network = autoencoder.encoder
    if network is None:
        raise ValueError("an encoder's maps need an encoder")
    arrays = stack_layers([trace_encoder(network, network.preprocess(pixels))])
    decoded = np.empty((0, 0, 0, 0, 0), np.uint8)
    if decoder is not None:
        decoded = to_images(autoencoder.decode(autoencoder.encode(pixels)))[:, None]
    return TokenMaps(
        indices=chosen.indices,
        images=chosen.images,
        times=np.zeros(1, np.float32),
        layers=np.array([*map(str, range(1, len(network.blocks) + 1)), OUTPUT]),
        decoded=decoded,
        **arrays,
    )


@torch.no_grad()
def trace_encoder(network: VitEncoder, inputs: torch.Tensor) -> list[LayerMaps]:
    """Measure the stream of preprocessed images (B, 3, H, W) after every block, and the final feature."""
    stream = network.embed(inputs)
    image = network.image_tokens(stream.shape[1])
    layers = []
    for block in network.blocks:
        if not isinstance(block, Block):
            raise TypeError(f"expected encoder blocks, got {type(block).__name__}")
        weights = attention_weights(block, stream)
        stream = block(stream)
        layers.append(measure_layer(stream, image, weights))
    feature = network(inputs)
    return [*layers, measure_layer(feature, slice(0, feature.shape[1]))]


def attention_weights(block: Block, stream: torch.Tensor) -> torch.Tensor:
    """Attention weights (B, heads, T, T) of a block that reads the stream (B, T, D); rows sum to 1.

    The encoder itself uses a fused kernel that does not return them.
    """
    return block.attention.weights(block.norm1(stream))
