"""What the benchmarks work on: the paper's configuration, full-size random weights, and images of noise."""

from __future__ import annotations

import functools
import io
import multiprocessing
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from torch import nn

from dsr.base import files, tensors
from dsr.config.load import Config, load
from dsr.config.specs import EncoderSpec, ModelSpec
from dsr.data.prepare import write_index, write_shard
from dsr.demo.encoder import STAND_INS
from dsr.demo.made import write_encoder
from dsr.denoiser.dit import Denoiser, build_denoiser
from dsr.encoder.statistics import LatentStatistics
from dsr.encoder.ttr import NeuronList

ROOT = Path(__file__).resolve().parents[1]

NEURONS = {"single": "siglip2-b-single.json", "recursive": "siglip2-so400m-recursive.json"}
"""The released lists, by passes; each is of the one encoder that the paper uses it with."""

SPREAD = {1: 0.3, 2: 0.02}
"""Standard deviation of random vectors and matrices in place of zero initial weights."""


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def configuration(*, small: bool = False, overlay: str | None = None) -> Config:
    """Read the configuration of the paper, with an overlay, or the demo's, whose rows have the paper's names."""
    names = ["config.yaml", *filter(None, ["profiles/demo/config-overlay.yaml" if small else overlay])]
    parts = [yaml.safe_load((ROOT / name).read_text(encoding="utf-8")) for name in names]
    return load(functools.reduce(_overlaid, parts))


def _overlaid(base: Mapping[str, Any], top: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return ``base`` with the entries of ``top``, section by section."""
    merged = {
        key: _overlaid(base[key], value) if isinstance(value, dict) and isinstance(base.get(key), dict) else value
        for key, value in top.items()
    }
    return {**base, **merged}


def encoder(config: Config, spec: EncoderSpec, folder: Path) -> tuple[Path, Path | None]:
    """Write an encoder with random weights, where it is missing, and return its folder and its neuron file, if any.

    The demo's encoders have some neurons of no meaning.
    """
    place = folder / spec.encoder.hub.replace("/", "-")
    if not place.exists():
        write_encoder(spec, place, next(name for name, entry in config.encoders.items() if entry == spec.encoder))
    if spec.ttr_options is None:
        return place, None
    if spec.encoder.hub not in STAND_INS:
        return place, ROOT / "src/dsr/encoder/neurons" / NEURONS[spec.ttr]
    neurons = NeuronList(encoder="", layers={0: (0, 1), 1: (0,)}, source="benchmark")
    files.write_json(folder / "neurons.json", neurons.model_dump(mode="json", exclude_none=True))
    return place, folder / "neurons.json"


def statistics_file(spec: EncoderSpec, path: Path) -> Path:
    """Write latent statistics of noise."""
    statistics = LatentStatistics(spec.latent_shape)
    statistics.update(torch.randn(8, *spec.latent_shape))
    statistics.save(path)
    return path


def denoiser(spec: ModelSpec) -> Denoiser:
    """Make a denoiser with random weights, on the GPU if there is one; none is zero, as many initial ones are."""
    with torch.device(_device()):
        model = build_denoiser(spec)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=SPREAD[parameter.ndim])
    return model


def plant_outliers(model: Any, tokens: int = 4, norm: float = 500.0) -> dict[str, float]:
    """Let a neuron of a middle block make outlier tokens of some positions, to which keys of the later blocks respond.

    A mark in one channel of the position table makes the neuron fire; it writes another channel. Returns the norms of
    the stream after that block, as they came out.
    """
    mark, outlier, block = 3, 5, model.blocks[len(model.blocks) // 2]
    heads, width = block.attn.heads, block.mlp.w12.in_features
    with torch.no_grad():
        model.pos_embed[0, ::64][:tokens, mark] = 40.0
        for layer in model.blocks:
            # The mark and the outlier pass all modulations as they are, and only the planted neuron reads the mark.
            adaln = layer.adaLN_modulation[1]
            for channel in (mark, outlier):
                adaln.weight[channel :: adaln.out_features // 6] = 0.0
                for part in range(6):
                    adaln.bias[part * (adaln.out_features // 6) + channel] = float(part == 5)
            if adaln.out_features // 6 == width:
                layer.attn.qkv.weight[width : 2 * width : width // heads, outlier] += 0.2
                layer.attn.qkv.bias[: width : width // heads] += 1.0
        neuron, hidden = 7, block.mlp.w3.in_features
        block.mlp.w12.weight[[neuron, hidden + neuron]] = 0.0
        block.mlp.w12.weight[[neuron, hidden + neuron], mark] = 1.0
        block.mlp.w12.bias[neuron], block.mlp.w12.bias[hidden + neuron] = -8.0, 0.0
        block.mlp.w3.weight[:, neuron] = 0.0
        block.mlp.w3.weight[outlier, neuron] = 1.0
        for _ in range(2):
            norms = _norms_after(model, block)
            block.mlp.w3.weight[outlier, neuron] *= norm / norms.max()
    norms = _norms_after(model, block)
    return {"largest norm": float(norms.max()), "median norm": float(norms.median())}


@torch.no_grad()
def _norms_after(model: Any, block: nn.Module) -> torch.Tensor:
    found: list[torch.Tensor] = []
    handle = block.register_forward_hook(lambda *given: found.append(given[2].float().norm(dim=-1)))
    x = torch.randn(2, model.in_channels, model.input_size, model.input_size, device=_device())
    model(x, torch.full((2,), 0.5, device=x.device), torch.zeros(2, dtype=torch.int64, device=x.device))
    handle.remove()
    return found[0]


def denoiser_file(spec: ModelSpec, path: Path) -> Path:
    """Write a denoiser with random weights."""
    tensors.write(path, denoiser(spec).state_dict(), {})
    return path


def prepared_images(folder: Path, images: int, classes: int = 8, size: int = 256) -> Path:
    """Write prepared images that compress like photographs and return their index; call it before the GPU is used."""
    raw, shards = folder / "raw", 8
    paths = [raw / f"class{number % classes}" / f"{number:06d}.png" for number in range(images)]
    with multiprocessing.get_context("fork").Pool() as pool:
        pool.starmap(_write_image, [(path, number, size) for number, path in enumerate(paths)], chunksize=32)
        outputs = [folder / f"shard-{number:05d}.zip" for number in range(shards)]
        pool.starmap(write_shard, [(raw, size, number, shards, output) for number, output in enumerate(outputs)])
    shutil.rmtree(raw)
    write_index(outputs, folder / "index.npz")
    return folder / "index.npz"


def _write_image(path: Path, seed: int, size: int) -> None:
    """Write noise with as much power in every octave, and a little grain: about 100 kB at 256 pixels."""
    generator = np.random.default_rng(seed)
    pixels = np.full((size, size, 3), 128.0)
    for side in (4, 8, 16, 32, 64):
        octave = Image.fromarray(generator.integers(0, 256, (side, side, 3), dtype=np.uint8))
        pixels += 0.4 * (np.asarray(octave.resize((size, size), Image.Resampling.BICUBIC)) - 128.0)
    pixels += generator.normal(0, 3, pixels.shape)
    stream = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(stream, format="PNG", compress_level=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(stream.getvalue())
