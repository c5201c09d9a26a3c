"""How jobs run and what they ask of a cluster."""

from dsr.config.base import Natural, Positive, PositiveFloat, Section


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
    workers: Natural = 0
    """Data-loading workers per process."""
    threads: Positive = 1
    """CPU threads per process."""
    compile: bool = False
    """Compile encoder and denoiser, and on GPUs run them by fused kernels."""
    deterministic: bool = True
    """Train with GPU kernels that compute the same bits in every start, at some cost of speed; CPUs do so anyway."""
    checkpoint_minutes: PositiveFloat = 10.0
    """Time between checkpoints of the training state."""
    log_every: Positive = 100
    """Steps between lines of the metrics file."""
    tensorboard: bool = True
    """Write TensorBoard files next to the metrics file."""


class _Request(Section):
    gres: str | None = None
    """SLURM's name of the GPUs where `gpu:<gpus>` does not do, for example gpu:h100:8; Snakemake's SLURM plugin cannot
    ask for names with a dash."""
    minutes: Positive
    """Time limit; training and sampling are requeued at theirs and go on."""


class Request(_Request):
    """What one job asks of a cluster, on each of its nodes."""

    cpus: Positive
    """CPU cores; the only one that counts on a single machine, where it limits how many jobs run side by side."""
    gpus: Natural = 0
    """GPUs."""
    mem_mb: Positive
    """Memory in MB."""


class ParallelRequest(_Request):
    """What a job of `execution.processes` processes asks, on each of its nodes; what is null follows from them."""

    cpus: Positive | None = None
    """CPU cores; null: `execution.threads` or `execution.workers` for every process, whichever is more."""
    gpus: Natural | None = None
    """GPUs; null: one for every process. 0 computes on CPUs."""
    mem_mb: Positive | None = None
    """Memory in MB; null: `mem_mb_per_process` for every process."""
    mem_mb_per_process: Positive
    """Memory in MB for each process."""

    def for_processes(self, run: Execution) -> Request:
        """Fill in what follows from the processes."""
        return Request(
            cpus=self.cpus or run.processes * max(run.threads, run.workers),
            gpus=run.processes if self.gpus is None else self.gpus,
            gres=self.gres,
            mem_mb=self.mem_mb or run.processes * self.mem_mb_per_process,
            minutes=self.minutes,
        )


class Resources(Section):
    """What the jobs of each rule ask of a cluster; rules that are not here get the profile's default-resources."""

    fetch_images: Request
    """Download and unpack ImageNet (`data.source: kaggle`); the two splits come one after the other."""
    prepare_shard: Request
    """Crop one shard of images."""
    discover_neurons: Request
    """Find an encoder's register neurons."""
    statistics: ParallelRequest
    """Encode the training images for latent statistics."""
    train: ParallelRequest
    """Train a row to a milestone."""
    sample: ParallelRequest
    """Draw a row's images."""
    reference: Request
    """Collect the evaluation's reference images."""
    evaluate: Request
    """Score a row's images."""
    maps: Request
    """Look at an encoder's or a denoiser's tokens (encoder_maps, denoiser_maps)."""
