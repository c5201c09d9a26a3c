"""Golden cases of crops, the encoder, test-time registers and their neurons, the autoencoder, and latent statistics."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from dsr.config.encoders import Decoder, TestTimeRegisters
from dsr.data.images import center_crop
from dsr.encoder.autoencoder import Autoencoder, ViTDecoder
from dsr.encoder.siglip2 import Shape, Siglip2Encoder
from dsr.encoder.statistics import LatentStatistics, Normaliser
from dsr.encoder.ttr import with_registers
from dsr.encoder.vit import resize
from dsr.registers.discovery import NeuronScores, Trace, rank

from .common import Computed, Family, Golden, Tolerance, tensors

TOLERANCE = Tolerance(rtol=1e-4, atol=2e-5)


def crops(golden: Golden) -> Computed:
    """Crop every recorded image, whatever its size."""
    return {
        name.replace("image", "crop"): np.asarray(center_crop(Image.fromarray(image), golden.meta["image_size"]))
        for name, image in golden.inputs.items()
    }


def build_encoder(golden: Golden, input_size: int, **preprocessing: Any) -> Siglip2Encoder:
    """Build the plain encoder of a file; its final LayerNorm and pooling head are not used and may be absent."""
    settings = {key: golden.meta[key] for key in ("hidden_act", "layer_norm_eps") if key in golden.meta}
    shape = Shape.model_validate({**settings, **golden.meta["vision_config"]})
    encoder = Siglip2Encoder(shape, input_size=input_size, **preprocessing)
    encoder.take(tensors(golden.params), Path("golden"))
    return encoder


def add_registers(encoder: Siglip2Encoder, meta: dict[str, Any]) -> Siglip2Encoder:
    """Intervene as the release does, on the file's neurons."""
    neurons = {int(layer): indices for layer, indices in meta["neurons"].items()}
    return with_registers(encoder, neurons, TestTimeRegisters(registers=meta["num_registers"]))


@torch.no_grad()
def features(golden: Golden) -> Computed:
    """Features, and hidden states where there are test-time registers."""
    plain = build_encoder(golden, golden.meta["fed_size"])
    images = torch.from_numpy(golden.inputs["images"])
    encoder = add_registers(plain, golden.meta) if "neurons" in golden.meta else plain
    computed = {
        "pre_ln": encoder.pre_norm(images).numpy(),
        "post_ln": encoder(images).numpy(),
        "no_intervention_post_ln": plain(images).numpy(),
    }
    states = encoder.trace(images).hidden_states
    return computed | {f"hidden_states_{number}": state.numpy() for number, state in enumerate(states)}


@torch.no_grad()
def autoencoder(golden: Golden) -> Computed:
    """Latents with and without statistics, their token norms, decoded pixels and the resized input."""
    meta = golden.meta
    size, given, width = meta["encoder_input_size"], tensors(golden.inputs), meta["vision_config"]["hidden_size"]
    encoder = build_encoder(golden, size, pixel_mean=meta["image_mean"], pixel_std=meta["image_std"])
    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    hidden, depth, heads, intermediate = (meta["decoder_config"][f"decoder_{name}"] for name in sizes)
    shape = Decoder.model_construct(hidden_size=hidden, depth=depth, num_heads=heads, intermediate_size=intermediate)
    grid = size // meta["vision_config"]["patch_size"]
    decoder = ViTDecoder(shape, in_channels=width, patch_size=meta["decoder_patch_size"], grid=grid)
    decoder.load_state_dict(tensors(golden.params, "decoder."))
    if "neurons" in meta:
        encoder = add_registers(encoder, meta)
    normaliser = Normaliser(given["latent_mean"], given["latent_var"])
    model = Autoencoder(encoder=encoder, decoder=decoder, normaliser=normaliser)
    latents, raw = model.encode(given["images"]), model.raw(given["images"])
    return {
        "z": latents.numpy(),
        "z_nostats": raw.numpy(),
        "token_norm": raw.norm(dim=1, keepdim=True).numpy(),
        "pixels": model.decode(latents).numpy(),
        "pixels_from_in": model.decode(given["z_in"]).numpy(),
        "resized": resize(given["images"][: len(golden.outputs.get("resized", ()))], size).numpy(),
    }


@torch.no_grad()
def register_neurons(golden: Golden) -> Computed:
    """Token norms, and every ranking: on bare image tokens or with the mean token, with or without sparsity filter."""
    meta = golden.meta
    encoder = build_encoder(golden, meta["vision_config"]["image_size"])
    trace = encoder.trace(torch.from_numpy(golden.inputs["images"]))
    detected = trace.hidden_states[1:][meta["detect_outliers_layer"]]
    computed: dict[str, np.ndarray] = {"norms": detected.norm(dim=-1).numpy()}
    variants = {match[0] for key in golden.outputs if (match := re.match(r"ranked_(raw|meantok)(_sparse)?", key))}
    for variant in variants:
        sparse = "sparse" in variant or meta["apply_sparsity_filter"]
        # The release puts the mean token before the image tokens, where it counts like any other.
        tokens = with_mean_token if "meantok" in variant else torch.Tensor.clone
        shown = [only_sparse(layer, tokens(layer)) for layer in trace.activations] if sparse else trace.activations
        scores = NeuronScores(meta["register_norm_threshold"], meta["detect_outliers_layer"])
        scores.add(Trace([*map(tokens, trace.hidden_states)], [*map(tokens, shown)]))
        best = rank(scores.mean(), meta["top_k"])
        computed |= {
            f"{variant}_layer_neuron": np.array([(layer, neuron) for layer, neuron, _ in best]),
            f"{variant}_score": np.array([score for _, _, score in best]),
            f"{variant}_all_scores": scores.mean().numpy(),
        }
    return computed


def with_mean_token(values: torch.Tensor) -> torch.Tensor:
    """Put the mean of all tokens (B, T, D) before them."""
    return torch.cat([values.mean(dim=1, keepdim=True), values], dim=1)


def only_sparse(activations: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Silence a neuron (B, T, M) in images where fewer than half of ``tokens`` are below 0.5, the release's option."""
    return activations * ((tokens < 0.5).double().mean(dim=1, keepdim=True) >= 0.5)


def batches(golden: Golden) -> list[torch.Tensor]:
    """Return the recorded batches in order."""
    return [torch.from_numpy(golden.inputs[f"batch_{number}"]) for number in range(golden.meta["n_batches"])]


def latent_statistics(golden: Golden) -> Computed:
    """Mean, variance and count from our streaming statistics; sums and raw variance from the release's formula.

    ``sum``, ``sumsq`` and ``var_unclamped`` are intermediate values of running float32 sums, which our statistics do
    not have: they are computed here from the documented formula (per batch a sum over samples, then added; variance
    E[x²] - E[x]²), to show that the formula is understood.
    """
    given = batches(golden)
    statistics = LatentStatistics(tuple(given[0].shape[1:]))
    for batch in given:
        statistics.update(batch)
    total, squares = sum(batch.sum(0) for batch in given), sum(batch.square().sum(0) for batch in given)
    return {
        "mean": statistics.mean.numpy(),
        "var": statistics.variance.numpy(),
        "count": statistics.count,
        "sum": total.numpy(),
        "sumsq": squares.numpy(),
        "var_unclamped": (squares / statistics.count - (total / statistics.count).square()).numpy(),
    }


def latent_statistics_expected(golden: Golden) -> dict[str, np.ndarray]:
    """Return the recorded values, but the exact variance where the recorded one is rounding noise.

    E[x²] - E[x]² in float32 is uncertain by about n eps E[x²] (running sums of n values). Where that exceeds the
    tolerance, a position with a large mean and a small variance, the recorded variance is not the truth (a constant
    position gives -2, clamped to 0); our statistics are held to the two-pass variance in float64 there, and to the
    recorded variance everywhere else.
    """
    values = torch.cat(batches(golden)).double().numpy()
    exact = values.var(axis=0)
    uncertainty = len(values) * np.finfo(np.float32).eps * np.square(values).mean(axis=0)
    noise = uncertainty > TOLERANCE.atol + TOLERANCE.rtol * exact
    return {**golden.outputs, "var": np.where(noise, exact, golden.outputs["var"])}


FAMILIES: dict[str, Family] = {
    "center_crop": Family(crops, Tolerance()),
    r"siglip_(plain|ttr).*": Family(features, TOLERANCE),
    r"rae_.*": Family(autoencoder, TOLERANCE),
    r"register_neurons.*": Family(
        register_neurons,
        TOLERANCE,
        {f"ranked_{tokens}_layer_neuron": Tolerance() for tokens in ("raw", "raw_sparse", "meantok", "meantok_sparse")},
    ),
    r"latent_stats.*": Family(
        latent_statistics, TOLERANCE, {"count": Tolerance()}, expected=latent_statistics_expected
    ),
}
