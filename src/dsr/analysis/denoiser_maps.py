"""Token maps of a row's denoiser, block by block, at several noise levels."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import torch
from torch import nn

from dsr.analysis.maps import TokenMaps
from dsr.analysis.measure import Layer, measure_layer, read_chosen, stack_layers, to_images, to_pixels
from dsr.analysis.specs import DenoiserMapsFiles, DenoiserMapsSpec
from dsr.base.distributed import own_device
from dsr.base.randomness import noise
from dsr.data.images import open_images
from dsr.denoiser.build import load_denoiser
from dsr.denoiser.layers import Block
from dsr.encoder.autoencoder import load_autoencoder
from dsr.flow import Flow


def map_denoiser(spec: DenoiserMapsSpec, files: DenoiserMapsFiles) -> None:
    """Map the denoiser of a row: encode images, noise them to every t, run it once, and measure every block.

    The last layer is the data prediction itself; it is also decoded. Noise is drawn on the CPU, from the seed and the
    image's index, so every row of the same latent shape sees the same noise, at every time.

    Args:
        spec: Autoencoder, denoiser, images and times.
        files: What the maps are made from.

    Raises:
        UserError: if a file does not fit the specification, or an image does not exist.
    """
    torch.set_num_threads(files.threads)
    device = own_device()
    autoencoder = load_autoencoder(
        spec.autoencoder,
        encoder=files.encoder,
        neurons=files.neurons,
        statistics=files.statistics,
        decoder=files.decoder,
    ).to(device)
    model = load_denoiser(spec.model, files.weights, device, spec.weights)
    flow = Flow.from_config(spec.flow)
    source = open_images(files.images)
    images = read_chosen(source, spec.images)
    latents = autoencoder.encode(to_pixels(images, device))
    noises = noise(spec.seed, "maps", spec.images, latents.shape[1:]).to(device)
    labels = torch.from_numpy(source.labels[list(spec.images)]).to(device)
    passes, decoded = [], []
    for time in spec.times:
        times = torch.full((len(latents),), time, device=device)
        layers, prediction = trace_denoiser(model, flow.interpolate(latents, noises, times), times, labels)
        passes.append(layers)
        decoded.append(to_images(autoencoder.decode(prediction)))
    TokenMaps(
        indices=np.array(spec.images),
        images=images,
        times=np.array(spec.times, np.float32),
        decoded=np.stack(decoded, 1),
        **stack_layers(passes),
    ).save(files.output, spec)


@torch.no_grad()
def trace_denoiser(
    model: nn.Module, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor
) -> tuple[list[Layer], torch.Tensor]:
    """Measure the stream of one forward pass after every block; also return the data prediction (B, C, S, S).

    Registers lie before the image tokens.
    """
    count = x.shape[-1] * x.shape[-2]
    layers: list[Layer] = []

    def read(block: Block, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        image = slice(output.shape[1] - count, output.shape[1])
        layers.append(measure_layer(output, image, block.attention_weights(*inputs)))

    with contextlib.ExitStack() as hooks:
        for module in model.modules():
            if isinstance(module, Block):
                hooks.enter_context(module.register_forward_hook(read))
        prediction: torch.Tensor = model(x, t, y)
    return [*layers, measure_layer(prediction.flatten(2).transpose(1, 2), slice(0, count))], prediction
