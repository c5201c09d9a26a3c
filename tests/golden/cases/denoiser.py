"""Golden cases of denoisers, flow, sampler and balanced labels; and the full-size tensors of every released file."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dsr.base.randomness import balanced_labels
from dsr.config.encoders import Decoder
from dsr.config.sampling import Guidance
from dsr.config.specs import ModelSpec
from dsr.config.training import Dit, DitDh
from dsr.denoiser.dit import Denoiser, build_denoiser
from dsr.encoder.autoencoder import ViTDecoder
from dsr.flow import Flow
from dsr.sampling.sampler import guided, trajectory

from .common import Computed, Family, Golden, Tolerance, tensors

USED = dict.fromkeys(("use_swiglu", "use_rope", "use_rmsnorm", "use_pos_embed"), True)
FIXED = {**USED, "patch_size": 1, "use_qknorm": False, "wo_shift": False}
"""The release's switches that no configuration of it changes, and that our denoisers therefore do not have."""


def build(cls: str, kwargs: dict[str, Any], *, train_all: bool = True) -> Denoiser:
    """Build a denoiser from the release's class name and arguments."""
    own = dict(kwargs)
    for name, value in FIXED.items():
        if own.pop(name, value) != value:
            raise ValueError(f"{name}={kwargs[name]} is not used by any released configuration")
    registers = own.pop("register_len", 0)
    shape = {
        "registers": registers if own.pop("register_conditioning", False) else 0,
        "channels": own.pop("in_channels"),
        "grid": own.pop("input_size"),
        "classes": own.pop("num_classes"),
    }
    kind = {"LightningDiT": Dit, "DiTwDDTHead": DitDh}[cls.rsplit(".", 1)[-1]]
    # model_construct: vectors may use settings outside of what a configuration allows.
    network = kind.model_construct(class_dropout=own.pop("class_dropout_prob", 0.1), **own)
    return build_denoiser(ModelSpec.model_construct(denoiser=network, **shape), train_all=train_all)


def loaded(golden: Golden) -> Denoiser:
    """Build the denoiser of a vector file, with its parameters (strictly)."""
    model = build(golden.meta["cls"], golden.meta["kwargs"])
    model.load_state_dict(tensors(golden.params))
    return model.eval()


def model_case(golden: Golden) -> Computed:
    """Output, gradients of sum(output * cotangent), and guidance of a denoiser."""
    model, inputs = loaded(golden), tensors(golden.inputs)
    output = model(inputs["x"], inputs["t"], inputs["y"])
    (output * inputs["cotangent"]).sum().backward()
    computed = {"out": output.detach().numpy()}
    for name, parameter in model.named_parameters():
        computed[f"grad/{name}"] = parameter.grad.numpy()
        computed[f"grad_norm/{name}"] = parameter.grad.norm().numpy()
    return computed | (guidance_outputs(golden, model, inputs) if "cfg_x" in inputs else {})


@torch.no_grad()
def guidance_outputs(golden: Golden, model: Denoiser, inputs: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """Guidance of one doubled batch; both halves of a recorded output are equal.

    The release's LightningDiT cannot take an interval (low, high). Its two list forms are composed of the same
    primitive here: an empty list guides everywhere, and a list of one pair guides outside of the pair only. That was
    recorded at one time inside of the pair and one outside, whatever the given times are.
    """
    half = len(inputs["cfg_x"]) // 2
    x, t, y = (inputs[f"cfg_{name}"][:half] for name in "xty")
    low, high = golden.meta["cfg_interval"]
    inside, outside = torch.full_like(t, 0.5), torch.full_like(t, 0.95)

    def run(t: Tensor, interval: tuple[float, float]) -> np.ndarray:
        # model_construct: vectors may use settings outside of what a configuration allows.
        guidance = Guidance.model_construct(scale=golden.meta["cfg_scale"], interval=interval)
        return guided(model, x, t, y, model.null_label, guidance).repeat(2, 1, 1, 1).numpy()

    everywhere, nowhere = (0.0, 1.0), (2.0, 2.0)
    return {
        "cfg_out": run(t, (low, high)),
        "cfg_ddt_semantics_out": run(t, (low, high)),
        "cfg_emptylist_out": run(t, everywhere),
        "cfg_pairlist_inside_out": run(inside, nowhere),
        "cfg_pairlist_outside_out": run(outside, everywhere),
    }


def flow_of(golden: Golden) -> Flow:
    """Return the flow of a vector file."""
    return Flow(shift=golden.meta["time_dist_shift"], t_eps=golden.meta.get("t_eps", 0.05))


def transport(golden: Golden) -> Computed:
    """Path, loss, velocity, time law and time grid."""
    flow, given = flow_of(golden), tensors(golden.inputs)
    clean, noise, t, prediction = given["x1"], given["x0"], given["t"], given["model_output"]
    computed = {
        "xt": flow.interpolate(clean, noise, t),
        "model_t": t,
        "ut": noise - clean,
        "loss": flow.loss(prediction, clean, noise, t),
        "final_loss": flow.squared_error(prediction, clean, noise, t),
        "drift": flow.velocity(given["drift_x"], prediction, t),
        "shift_grid_t": flow.shifted(given["shift_grid_u"]),
        "ode_time_grid": flow.time_grid(len(golden.outputs["ode_time_grid"])),
        "check_interval": torch.tensor(flow.interval),
    }
    # The release draws noise first, from the same generator as the uniform numbers of the times.
    torch.manual_seed(golden.meta["sample_seed"])
    computed["sample_x0"] = torch.randn_like(given["sample_x1"])
    computed["sample_t"] = flow.times(torch.rand(len(given["sample_x1"])))
    return {key: value.numpy() for key, value in computed.items()} | quantiles(golden, flow)


def quantiles(golden: Golden, flow: Flow) -> dict[str, np.ndarray]:
    """Quantiles of the times before and after the shift: of many draws, and in closed form."""
    q, draws = golden.outputs["quantile_q"], golden.meta["quantile_draws"]
    unshifted = Flow(shift=1.0, t_eps=flow.t_eps)
    torch.manual_seed(golden.meta["quantile_seed"])
    before = unshifted.times(torch.rand(draws))
    torch.randn(draws)  # the release draws one number of noise per sample before the second set of times
    after = flow.times(torch.rand(draws))
    exact = torch.from_numpy(q)
    return {
        "quantile_q": np.linspace(0, 1, len(q) + 2, dtype=np.float32)[1:-1],
        "quantile_before": np.quantile(before.numpy(), q),
        "quantile_after": np.quantile(after.numpy(), q),
        "quantile_before_exact": unshifted.times(exact).numpy(),
        "quantile_after_exact": flow.times(exact).numpy(),
    }


@torch.no_grad()
def sampler(golden: Golden) -> Computed:
    """States of the sampler, and what the network saw and said."""
    model, inputs, meta = loaded(golden), tensors(golden.inputs), golden.meta
    times: list[Tensor] = []
    predictions: list[Tensor] = []

    def observed(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        times.append(t[0])
        predictions.append(model(x, t, y))
        return predictions[-1]

    guidance = Guidance.model_construct(
        scale=meta.get("cfg_scale", 1.0), interval=tuple(meta.get("cfg_interval", (0.0, 1.0)))
    )
    states = trajectory(
        observed, flow_of(golden), inputs["z"], inputs["y"],
        null_label=meta.get("null_label", model.null_label),
        steps=meta["ode_kwargs"]["num_steps"], guidance=guidance,
    )  # fmt: skip
    path = [state.numpy() for state in states]
    return {
        **{f"traj_{index}": state for index, state in enumerate(path)},
        "final": path[-1],
        "final_second_half": path[-1],
        "last_prediction": predictions[-1].numpy(),
        "eval_times": torch.stack(times).numpy(),
        "n_states": len(path),
    }


def equal_labels(golden: Golden) -> Computed:
    """Balanced labels, dealt to the release's ranks; raises if a recorded hash of a full pool differs."""
    small, ragged, large = (golden.meta[name] for name in ("small", "ragged", "large"))
    computed = {f"small_w{world}": dealt(small, world, golden.meta["seed"]) for world in small["world"]}
    computed["ragged"] = dealt(ragged, ragged["world"], golden.meta["seed"])
    for seed in large["seeds"]:
        pool = balanced_labels(large["num_classes"], large["num_fid_samples"], seed).numpy()
        found, recorded = hashlib.sha256(pool.astype("<i8").tobytes()).hexdigest(), golden.meta["sha256"][str(seed)]
        if found != recorded:
            raise ValueError(f"labels of seed {seed} have sha256 {found}, expected {recorded}")
        computed[f"large_first100_seed{seed}"] = pool[:100]
    return computed


def dealt(setting: dict[str, int], world: int, seed: int) -> np.ndarray:
    """Labels (world, iterations, batch): every rank of the release takes a contiguous part of the pool."""
    images, batch = setting["num_fid_samples"], setting["batch"]
    total = -(-images // (world * batch)) * world * batch
    return balanced_labels(setting["num_classes"], images, seed, total).reshape(world, -1, batch).numpy()


def check_full_size_keys(path: Path) -> tuple[int, str]:
    """Compare names, shapes, types and counts of every full-size model; return the tensors compared and a problem."""
    compared, problems = 0, []
    for name, record in json.loads(path.read_text(encoding="utf-8")).items():
        compared += len(record["keys"])
        with torch.device("meta"):
            # Position tables and Fourier frequencies of denoisers are frozen, as the release builds them.
            decoder = name.startswith("decoder/")
            model = full_size_decoder(record) if decoder else build(record["target"], record["params"], train_all=False)
        problems += [f"{name}: {problem}" for problem in differences(model, record)]
    return compared, "; ".join(problems[:3])


def full_size_decoder(record: dict[str, Any]) -> ViTDecoder:
    """Build the decoder of an entry. Its sizes are read from the shapes; heads leave no trace in them."""
    shapes = {key: value["shape"] for key, value in record["keys"].items()}
    width, channels = shapes["decoder_embed.weight"]
    shape = Decoder.model_construct(
        hidden_size=width,
        depth=1 + max(int(key.split(".")[1]) for key in shapes if key.startswith("decoder_layers.")),
        num_heads=16,
        intermediate_size=shapes["decoder_layers.0.intermediate.dense.weight"][0],
    )
    return ViTDecoder(
        shape,
        in_channels=channels,
        patch_size=math.isqrt(shapes["decoder_pred.weight"][0] // 3),
        grid=math.isqrt(shapes["decoder_pos_embed"][1] - 1),
    )


def differences(model: torch.nn.Module, record: dict[str, Any]) -> list[str]:
    """Return every difference between a model and its entry."""
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    buffers = dict(model.named_buffers())
    got = {
        key: {
            "shape": list(value.shape),
            "dtype": str(value.dtype).removeprefix("torch."),
            "kind": "buffer" if key in buffers else "parameter",
            "trainable": key in trainable,
        }
        for key, value in model.state_dict().items()
    }
    want = record["keys"]
    problems = [
        f"{key}: {got.get(key)}, expected {want.get(key)}" for key in {**want, **got} if got.get(key) != want.get(key)
    ]
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    counts = {"n_keys": len(got), "n_params_total": sum(sizes.values())}
    counts["n_params_trainable_as_constructed"] = sum(sizes[name] for name in trainable)
    wrong = {key: value for key, value in counts.items() if value != record[key]}
    return problems + [f"{key} {value}, expected {record[key]}" for key, value in wrong.items()]


MODEL = Tolerance(rtol=1e-4, atol=2e-5)
EXACT = Tolerance()

FAMILIES: dict[str, Family] = {
    # RMSNorm's eps shows by 1.7e-5 only.
    r"lightning_dit_.*": Family(model_case, Tolerance(rtol=1e-4, atol=5e-6)),
    r"ddt_.*": Family(model_case, MODEL),
    r"transport": Family(transport, MODEL, {"ode_time_grid": EXACT, "check_interval": EXACT, "model_t": EXACT}),
    r"sampler_.*": Family(sampler, MODEL, {"eval_times": EXACT, "n_states": EXACT}),
    r"equal_labels": Family(equal_labels, EXACT),
}
