"""Measure the token maps of an encoder or of a row's denoiser, block by block."""

import contextlib
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from dsr.analysis.maps import OUTPUT, Floats, TokenMaps
from dsr.base.distributed import own_device
from dsr.base.errors import UserError
from dsr.base.randomness import noise
from dsr.config.specs import DenoiserMapsSpec, EncoderMapsSpec
from dsr.data.images import Images, ListedImages, folder_arrays, list_folder, open_images
from dsr.denoiser.dit import load_denoiser
from dsr.denoiser.layers import Block
from dsr.encoder.autoencoder import Autoencoder, load_autoencoder, quantised
from dsr.encoder.vit import VitEncoder
from dsr.flow import Flow

Layer = dict[str, npt.NDArray[np.float32]]


def map_encoder(
    spec: EncoderMapsSpec,
    encoder: Path,
    decoder: Path,
    images: Path,
    output: Path,
    neurons: Path | None = None,
    threads: int = 1,
) -> None:
    """Map a frozen encoder, with or without TTR: run images through it and measure the stream after every block.

    The last layer is the feature after the final LayerNorm without affine, whose norms are all sqrt(D); the
    reconstruction of the raw feature is kept too.

    Args:
        spec: Encoder, TTR, decoder and images.
        encoder: Hugging Face folder of the encoder.
        decoder: Decoder weights.
        images: Index of the prepared validation images, or a folder of class folders that have labels for names.
        output: Npz file to write.
        neurons: Register neurons, with TTR.
        threads: CPU threads.
    """
    autoencoder, shown, _, pixels = _open(
        spec, images, threads, encoder=encoder, neurons=neurons, statistics=None, decoder=decoder
    )
    network = autoencoder.encoder
    if network is None:
        raise ValueError("an encoder's maps need an encoder")
    TokenMaps(
        indices=np.array(spec.images),
        images=shown,
        times=np.zeros(1, np.float32),
        decoded=quantised(autoencoder.decode(autoencoder.encode(pixels))).cpu().numpy()[:, None],
        **_stack_layers([trace_encoder(network, network.preprocess(pixels))]),
    ).save(output, spec)


def map_denoiser(
    spec: DenoiserMapsSpec,
    encoder: Path,
    decoder: Path,
    statistics: Path,
    weights: Path,
    images: Path,
    output: Path,
    neurons: Path | None = None,
    threads: int = 1,
) -> None:
    """Map the denoiser of a row: encode images, noise them to every t, run it once, and measure every block.

    The last layer is the predicted clean latents, which are also decoded. Noise is drawn on the CPU, from the seed and
    the image's index, so every row of the same latent shape sees the same noise, at every time.

    Args:
        spec: Autoencoder, denoiser, images and times.
        encoder: Hugging Face folder of the encoder.
        decoder: Decoder weights.
        statistics: Latent statistics.
        weights: Moving average of the row's weights.
        images: Index of the prepared validation images, or a folder of class folders that have labels for names.
        output: Npz file to write.
        neurons: Register neurons, with TTR.
        threads: CPU threads.
    """
    autoencoder, shown, classes, pixels = _open(
        spec, images, threads, encoder=encoder, neurons=neurons, statistics=statistics, decoder=decoder
    )
    if max(classes) >= spec.model.classes:
        raise UserError(f"{images}: label {max(classes)} is none of the denoiser's {spec.model.classes} classes")
    model = load_denoiser(spec.model, weights, device := own_device(), spec.weights)
    flow = Flow.from_config(spec.flow)
    latents = autoencoder.encode(pixels)
    # Equal at every time and for every row of the same latent shape.
    noises = noise(0, "maps", spec.images, latents.shape[1:]).to(device)
    labels = torch.from_numpy(classes).to(device)
    passes, decoded = [], []
    for time in spec.times:
        times = torch.full((len(latents),), time, device=device)
        layers, prediction = trace_denoiser(model, flow, flow.interpolate(latents, noises, times), times, labels)
        passes.append(layers)
        decoded.append(quantised(autoencoder.decode(prediction)).cpu().numpy())
    TokenMaps(
        indices=np.array(spec.images),
        images=shown,
        times=np.array(spec.times, np.float32),
        decoded=np.stack(decoded, 1),
        **_stack_layers(passes),
    ).save(output, spec)


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


@torch.no_grad()
def trace_denoiser(
    model: nn.Module, flow: Flow, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor
) -> tuple[list[Layer], torch.Tensor]:
    """Measure the stream of one forward pass after every block; also return the predicted clean latents (B, C, S, S).

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
        prediction = flow.clean(x, model(x, t, y), t)
    return [*layers, measure_layer(prediction.flatten(2).transpose(1, 2), slice(0, count))], prediction


def _open(
    spec: EncoderMapsSpec, images: Path, threads: int, **files: Path | None
) -> tuple[Autoencoder, npt.NDArray[np.uint8], npt.NDArray[np.int64], torch.Tensor]:
    """Load the autoencoder; read the images (I, H, W, 3), their labels (I,), and them as floats in [0, 1]."""
    torch.set_num_threads(threads)
    autoencoder = load_autoencoder(spec.autoencoder, **files).to(own_device())
    shown, labels = read_chosen(images, spec)
    return autoencoder, shown, labels, torch.from_numpy(shown).to(own_device()).permute(0, 3, 1, 2).float() / 255


def read_chosen(images: Path, spec: EncoderMapsSpec) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Read images by index, in the order asked for: (I, H, W, 3), and their labels, (I,).

    ``images`` is an index, or a folder whose class folders have labels for names.

    Raises:
        UserError: if there are none, one is beyond the last, or a class folder has another name.
    """
    indices, size = list(spec.images), spec.autoencoder.image_size
    if images.is_dir():
        source: Images = ListedImages(images, folder_arrays(images, size, list_folder(images)))
        if wrong := [name for name in source.classes if not name.isdecimal()]:
            raise UserError(f"{images / wrong[0]}: expected class folders named by their labels, such as 207")
        labels = np.array(source.classes).astype(np.int64)[source.labels]
    else:
        source = open_images(images)
        labels = source.labels
    if not indices or max(indices) >= len(labels):
        raise UserError(f"figures.images {indices}: give at least one index below the {len(labels)} images of {images}")
    return np.stack([source.read(index) for index in indices]), labels[indices]


def measure_layer(stream: torch.Tensor, image: slice, weights: torch.Tensor | None = None) -> Layer:
    """Measure one layer: what :class:`TokenMaps` holds of it, by name, without the axes of times and layers.

    Args:
        stream: tokens after the layer, (B, T, D).
        image: which of the T tokens are image tokens (a square number of them); the rest are registers.
        weights: attention weights inside the layer, (B, heads, T, T); None where the layer has no attention.

    Raises:
        UserError: if a token is not finite.
    """
    tokens = stream.float().cpu().numpy()
    if not np.isfinite(tokens).all():
        raise UserError("tokens of the network are not finite: its weights have diverged, look at the training log")
    norms = np.linalg.norm(tokens.astype(np.float64), axis=-1).astype(np.float32)
    components = [first_component(one[image]) for one in tokens]
    others = np.delete(np.arange(tokens.shape[1]), image)
    received, register_attention = (np.full(shape, np.nan, np.float32) for shape in (tokens.shape[:2], len(tokens)))
    if weights is not None:
        # What every key receives, as a mean over heads and queries; registers count as both.
        received = weights.float().cpu().numpy().mean(axis=(1, 2), dtype=np.float64).astype(np.float32)
        register_attention = received[:, others].sum(1)
    side = math.isqrt(tokens.shape[1] - len(others))
    grid = (len(tokens), side, side)
    return {
        "norms": norms[:, image].reshape(grid),
        "components": np.stack([projection for projection, _ in components]).reshape(grid),
        "explained": np.array([share for _, share in components], np.float32),
        "attention": received[:, image].reshape(grid),
        "register_attention": register_attention,
        "register_norms": norms[:, others],
    }


def first_component(tokens: Floats) -> tuple[npt.NDArray[np.float32], float]:
    """Project the tokens of one image (N, D) on their first principal component.

    Returns the centred projection (N,), signed so that its largest absolute value is positive, and the share of the
    variance that it explains (0 when all tokens are equal). The (N, N) Gram matrix has the same leading component as
    the (D, D) covariance and is the smaller one here.
    """
    centred = tokens.astype(np.float64) - tokens.mean(axis=0, dtype=np.float64)
    values, vectors = np.linalg.eigh(centred @ centred.T)
    total, leading = values.clip(min=0.0).sum(), max(float(values[-1]), 0.0)
    projection = vectors[:, -1] * np.sqrt(leading)
    if projection[np.abs(projection).argmax()] < 0:
        projection = -projection
    return projection.astype(np.float32), float(leading / total) if total > 0 else 0.0


def _stack_layers(passes: Sequence[Sequence[Layer]]) -> dict[str, Any]:
    """Stack T forward passes of L layers to arrays (B, T, L, ...), and name the layers: fields of a maps file.

    A layer without registers has NaN register norms where another one has registers.
    """
    registers = max(layer["register_norms"].shape[1] for layers in passes for layer in layers)
    for layer in itertools.chain.from_iterable(passes):
        missing = registers - layer["register_norms"].shape[1]
        layer["register_norms"] = np.pad(layer["register_norms"], ((0, 0), (0, missing)), constant_values=np.nan)
    arrays = {
        name: np.stack([np.stack([layer[name] for layer in layers], 1) for layers in passes], 1)
        for name in passes[0][0]
    }
    return {**arrays, "layers": np.array([*map(str, range(1, len(passes[0]))), OUTPUT])}
