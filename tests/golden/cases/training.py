"""Golden cases of training: optimizer steps with clipping, schedule and moving average, and the schedule alone."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch
from torch import nn

from dsr.base.distributed import World
from dsr.config.training import Recipe
from dsr.flow import Flow
from dsr.training.batches import MicroBatch
from dsr.training.learner import Learner, MovingAverage, learning_rate

from .common import Computed, Family, Golden, Tolerance, tensors
from .denoiser import build

STEPS_PER_EPOCH = 1251
COMMON: dict[str, Any] = {"lr": 2e-4, "precision": "fp32"}
RECIPES: dict[str, dict[str, Any]] = {
    "DiT": {**COMMON, "ema": (0.9999,)},
    "DiTDH": {**COMMON, "ema": (0.9995,), "clip": 1.0, "final_lr": 2e-5, "decay_epochs": (40, 800)},
}
"""The two released recipes, as `config.yaml` has them."""


def train_steps(golden: Golden) -> Computed:
    """Take the trainer's own steps on given latents, noise, times and labels."""
    # As recorded: Adam turns the rounding of a gradient near zero, which depends on threads, into a whole step.
    torch.set_num_threads(1)
    meta, x1 = golden.meta, golden.inputs["x1"]
    flow = Flow(shift=meta["time_dist_shift"])
    recipe = Recipe(**RECIPES[meta["recipe"]], batch=x1.shape[1], train_all=meta["all_parameters_trainable"])
    model = build(meta["cls"], meta["kwargs"], train_all=recipe.train_all)
    model.load_state_dict(tensors(golden.params))
    world = World(rank=0, size=1, device=torch.device("cpu"))
    learner = Learner(model, flow, recipe, world, steps_per_epoch=meta.get("steps_per_epoch", STEPS_PER_EPOCH))
    computed: dict[str, list[Any]] = {"loss": [], "grad_norm_before_clip": [], "lr": [], "per_sample_loss": []}
    for step in range(len(x1)):
        batch = MicroBatch(*(torch.from_numpy(golden.inputs[key][step]) for key in ("x1", "x0", "t", "y")))
        with torch.no_grad():
            prediction = model(flow.interpolate(batch.clean, batch.noise, batch.t), batch.t, batch.y)
            computed["per_sample_loss"].append(flow.loss(prediction, batch.clean, batch.noise, batch.t).numpy())
        result = learner.update([batch], stop=lambda: False)
        for key, value in (("loss", result.loss), ("grad_norm_before_clip", result.grad_norm), ("lr", result.lr)):
            computed[key].append(value)
    average = learner.averages[str(recipe.ema[0])].state_dict()
    return {
        **{key: np.array(values) for key, values in computed.items()},
        **{f"final/{name}": parameter.detach().numpy() for name, parameter in model.named_parameters()},
        **{f"ema/{name}": value.numpy() for name, value in average.items()},
    }


def lr_schedule(golden: Golden) -> Computed:
    """Learning rates at given steps for every recipe in the file, and a moving average of given values."""
    per_epoch = golden.meta["steps_per_epoch"]
    computed: dict[str, np.ndarray] = {}
    for name in (key.removeprefix("lr_") for key in golden.outputs if key.startswith("lr_")):
        said = dict(re.findall(r"(\w+)=([\d.e+-]+)", golden.meta[f"resolved_{name}"]["sched_msg"]))
        recipe = Recipe(
            batch=1,
            lr=float(said["base_lr"]),
            final_lr=float(said["final_lr"]),
            decay_epochs=(int(said["warmup_steps"]) // per_epoch, int(said["decay_end_steps"]) // per_epoch),
            ema=(golden.meta["ema_decay"],),
            precision="fp32",
        )
        rates = [learning_rate(recipe, step, per_epoch) for step in golden.inputs["steps"].tolist()]
        computed[f"lr_{name}"] = np.array(rates)
    for name in (key.removeprefix("ema_") for key in golden.outputs if key.startswith("ema_")):
        value = nn.ParameterDict({"value": torch.from_numpy(golden.inputs[f"ema_init_{name}"].copy())})
        average = MovingAverage(value, golden.meta["ema_decay"])
        updates = sum(bool(re.fullmatch(rf"ema_model\d+_{re.escape(name)}", key)) for key in golden.inputs)
        for update in range(updates):
            value["value"].data = torch.from_numpy(golden.inputs[f"ema_model{update}_{name}"])
            average.update()
        computed[f"ema_{name}"] = average.state_dict()["value"].numpy()
    return computed


FAMILIES: dict[str, Family] = {
    r"train_steps(_.*)?": Family(
        train_steps,
        Tolerance(rtol=1e-4, atol=1e-5),
        special={
            "lr": Tolerance(),
            "loss": Tolerance(rtol=1e-5),
            "per_sample_loss": Tolerance(rtol=1e-5),
            "grad_norm_before_clip": Tolerance(rtol=1e-5),
        },
    ),
    r"lr_schedule(_.*)?": Family(
        lr_schedule, Tolerance(), special={f"ema_p{index}": Tolerance(atol=1e-7) for index in range(8)}
    ),
}
