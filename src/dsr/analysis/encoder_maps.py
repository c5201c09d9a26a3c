"""Token maps of a frozen encoder, block by block, with or without test-time registers."""

from __future__ import annotations

import numpy as np
import torch

from dsr.analysis.maps import TokenMaps
from dsr.analysis.measure import Layer, measure_layer, read_chosen, stack_layers, to_images, to_pixels
from dsr.analysis.specs import EncoderMapsSpec, MapsFiles
from dsr.base.distributed import own_device
from dsr.data.images import open_images
from dsr.encoder.autoencoder import load_autoencoder
from dsr.encoder.vit import VitEncoder


def map_encoder(spec: EncoderMapsSpec, files: MapsFiles) -> None:
    """Map a frozen encoder, with or without TTR: run images through it and measure the stream after every block.

    The last layer is the feature after the final LayerNorm without affine, whose norms are all sqrt(D); the
    reconstruction of the raw feature is kept too.

    Args:
        spec: Encoder, TTR, decoder and images.
        files: What the maps are made from.

    Raises:
        UserError: if a file does not fit the specification, or an image does not exist.
    """
    torch.set_num_threads(files.threads)
    device = own_device()
    autoencoder = load_autoencoder(
        spec.autoencoder, encoder=files.encoder, neurons=files.neurons, statistics=None, decoder=files.decoder
    ).to(device)
    images = read_chosen(open_images(files.images), spec.images)
    pixels = to_pixels(images, device)
    network = autoencoder.encoder
    if network is None:
        raise ValueError("an encoder's maps need an encoder")
    TokenMaps(
        indices=np.array(spec.images),
        images=images,
        times=np.zeros(1, np.float32),
        decoded=to_images(autoencoder.decode(autoencoder.encode(pixels)))[:, None],
        **stack_layers([trace_encoder(network, network.preprocess(pixels))]),
    ).save(files.output, spec)


@torch.no_grad()
def trace_encoder(network: VitEncoder, inputs: torch.Tensor) -> list[Layer]:
    """Measure the stream of preprocessed images (B, 3, H, W) after every block, and the final feature."""
    stream = network.embed(inputs)
    image = network.image_tokens(stream.shape[1])
    layers = []
    for block in network.blocks:
        # The block itself uses a fused kernel that does not return its weights.
        weights = block.attention.weights(block.norm1(stream))
        stream = block(stream)
        layers.append(measure_layer(stream, image, weights))
    feature = network(inputs)
    return [*layers, measure_layer(feature, slice(0, feature.shape[1]))]
