"""How jobs run and what they ask of a cluster."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, model_validator

from dsr.config.base import Positive, Section


class Execution(Section):
    """How jobs run. Nothing here changes what is computed beyond rounding, so nothing here reruns a job."""

    processes: Positive = 1
    """Processes (GPUs) per node of a torchrun job."""
    nodes: Positive = 1
    """Nodes of a training job."""
    micro_batch: Positive | None = None
    """Images per process and backward pass; null takes as many as fit into the GPU's memory."""
    sample_batch: Positive = 125
    """Images per process that are sampled together."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Data-loading workers per process."""
    threads: Positive = 1
    """CPU threads per process."""
    compile: bool = False
    """Compile encoder and denoiser, and on GPUs run them by fused kernels."""
    deterministic: bool = True
    """Train with GPU kernels that compute the same bits in every start, at some cost of speed; CPUs do so anyway."""
    checkpoint_minutes: Annotated[float, Field(gt=0)] = 10.0
    """Time between checkpoints of the training state."""
    log_every: Positive = 100
    """Steps between lines of the metrics file."""
    tensorboard: bool = True
    """Write TensorBoard files next to the metrics file."""


class Request(Section):
    """What one job asks of a cluster, on each of its nodes."""

    cpus: Positive
    """CPU cores; the only one that counts on a single machine, where it limits how many jobs run side by side."""
    gpus: Annotated[int, Field(ge=0)] = 0
    """GPUs."""
    gres: str | None = None
    """SLURM's name of the GPUs where `gpu:<gpus>` does not do, for example gpu:h100:8; Snakemake's SLURM plugin cannot
    ask for names with a dash."""
    mem_mb: Positive
    """Memory in MB."""
    minutes: Positive
    """Time limit; training and sampling are requeued at theirs and go on."""

    @model_validator(mode="after")
    def _gres_is_as_many(self) -> Request:
        # The plugin's own pattern: what it refuses is refused in a thread, and nobody sees it.
        match = None if self.gres is None else re.fullmatch(r"\w+(:[\w.]+)?:(\d+)", self.gres, re.ASCII)
        if self.gres is not None and match is None:
            raise ValueError(
                f"gres {self.gres!r}: expected name:number or name:type:number of letters, digits, '_' and '.', as in"
                f" gpu:h100:{self.gpus}. Leave it out and choose the GPUs by partition or constraint"
            )
        if match is not None and int(match[2]) != self.gpus:
            raise ValueError(f"gres {self.gres!r} is not gpus = {self.gpus}; expected for example gpu:h100:{self.gpus}")
        return self


class Resources(Section):
    """What the jobs of each rule ask of a cluster; rules that are not here get the profile's default-resources."""

    fetch_images: Request
    """Download and unpack ImageNet (`data.source: kaggle`); the two splits come one after the other."""
    prepare_shard: Request
    """Crop one shard of images."""
    discover_neurons: Request
    """Find an encoder's register neurons."""
    statistics: Request
    """Encode the training images for latent statistics."""
    train: Request
    """Train a row to a milestone."""
    sample: Request
    """Draw a row's images."""
    reference: Request
    """Collect the evaluation's reference images."""
    evaluate: Request
    """Score a row's images."""
    maps: Request
    """Look at an encoder's or a denoiser's tokens (encoder_maps, denoiser_maps)."""
