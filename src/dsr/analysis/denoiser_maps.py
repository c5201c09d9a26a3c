"""Token maps of a row's denoiser, block by block, at several noise levels."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dsr.analysis.maps import OUTPUT, TokenMaps
from dsr.analysis.measure import LayerMaps, measure_layer, read_chosen, stack_layers, to_images, to_pixels
from dsr.analysis.specs import DenoiserMapsSpec, MapsFiles
from dsr.base.randomness import noise
from dsr.data.images import open_images
from dsr.denoiser.build import load_denoiser
from dsr.denoiser.layers import Block
from dsr.encoder.autoencoder import load_autoencoder
from dsr.flow import Flow


def map_denoiser(
    spec: DenoiserMapsSpec, files: MapsFiles, statistics: Path, weights: Path, device: torch.device
) -> TokenMaps:
    """Encode the chosen images, noise them to every t, run the denoiser once, and measure every block.

    The last layer is the data prediction itself; it is also decoded. Noise is drawn on the CPU, from the seed and the
    image's index, so every row of the same latent shape sees the same noise, at every time.

    Raises:
        UserError: if a file does not fit the specification, or an image does not exist.
    """
    autoencoder = load_autoencoder(
        spec.autoencoder, encoder=files.encoder, neurons=files.neurons, statistics=statistics, decoder=files.decoder
    ).to(device)
    model = load_denoiser(spec.model, weights, device, spec.weights)
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
    return TokenMaps(
        indices=np.array(spec.images),
        images=images,
        times=np.array(spec.times, np.float32),
        layers=np.array([*map(str, range(1, len(passes[0]))), OUTPUT]),
        decoded=np.stack(decoded, 1),
        **stack_layers(passes),
    )


@torch.no_grad()
def trace_denoiser(
    model: nn.Module, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor
) -> tuple[list[LayerMaps], torch.Tensor]:
    """Measure the stream of one forward pass after every block; also return the data prediction (B, C, S, S).

    Registers lie before the image tokens.
    """
    count = x.shape[-1] * x.shape[-2]
    layers: list[LayerMaps] = []

    def read(block: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        if isinstance(block, Block):
            image = slice(output.shape[1] - count, output.shape[1])
            layers.append(measure_layer(output, image, block.attention_weights(*inputs)))

    with _reading(model, read):
        prediction: torch.Tensor = model(x, t, y)
    return [*layers, measure_layer(prediction.flatten(2).transpose(1, 2), slice(0, count))], prediction


@contextlib.contextmanager
def _reading(model: nn.Module, read: Callable[[nn.Module, tuple[Any, ...], torch.Tensor], None]) -> Iterator[None]:
    """Let ``read`` see inputs and output of every block, for one `with` statement."""
    handles = [module.register_forward_hook(read) for module in model.modules() if isinstance(module, Block)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
