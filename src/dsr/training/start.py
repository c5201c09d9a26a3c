"""Where a run begins: at its newest state, at the start, or not at all because its result exists."""

import functools
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dsr.base import files
from dsr.base.distributed import World
from dsr.base.errors import UserError
from dsr.config.encoders import ENCODER_FILES
from dsr.config.execution import Execution
from dsr.config.specs import ModelSpec, StartSpec, TrainSpec, content, differing_keys, spec_hash
from dsr.data.images import check_index, fingerprint
from dsr.denoiser.dit import Denoiser, load_denoiser
from dsr.training import checkpoint
from dsr.training.batches import Share

log = logging.getLogger(__name__)

SPEC = "spec.json"


@dataclass(frozen=True)
class Job:
    """A milestone to train to. Only ``spec`` and the contents of the input files determine the weights."""

    spec: TrainSpec
    """What determines the weights, besides the contents of the files."""
    epoch: int
    """Train to the end of this epoch."""
    images: Path
    """Index of the prepared training images."""
    encoder: Path
    """Folder of the encoder."""
    statistics: Path
    """Latent statistics."""
    # Not `run`: torchrun would take `--run` for an abbreviation of its own `--run-path`.
    run_dir: Path
    """Directory of the training state, kept between calls: state, averages of milestones, metrics."""
    output: Path
    """EMA weights of the milestone (first decay), written last."""
    execution: Execution
    """How the job runs."""
    after: int | Path | None = None
    """Milestone before this one, as epoch or EMA file: the run's state must be there. None may begin a new run."""
    neurons: Path | None = None
    """Neuron file, where the specification has test-time registers."""
    start: Path | None = None
    """Weights to begin with, where the specification has some."""
    minutes: float | None = None
    """Save and leave after this long; None has no limit."""

    @property
    def last_step(self) -> int:
        """Optimizer steps at the milestone."""
        return self.epoch * self.spec.steps_per_epoch

    @functools.cached_property
    def reached(self) -> int | None:
        """Epoch that an earlier job reached, if there was one."""
        if not isinstance(self.after, Path):
            return self.after
        try:
            return int(files.read_record(self.after)["spec"]["epoch"])
        except (UserError, KeyError):
            raise UserError(
                f"{self.after}: expected the EMA weights of a milestone; train that milestone first"
            ) from None

    @functools.cached_property
    def recipe(self) -> dict[str, Any]:
        """What must not change between two starts of a run: the specification, and the content of its inputs.

        Gigabytes are read for it, so it is computed once.
        """
        inputs = {"images": fingerprint(self.images), "statistics": files.sha256(self.statistics)}
        inputs |= {f"encoder/{name}": files.sha256(self.encoder / name) for name in ENCODER_FILES}
        if self.neurons is not None:
            inputs["neurons"] = files.sha256(self.neurons)
        if self.start is not None:
            inputs["start"] = files.sha256(self.start)
        return {"spec": content(self.spec), "hash": spec_hash(self.spec), "inputs": inputs}


def check(job: Job, world: World) -> None:
    """Compare the job with itself and with the files it names, before anything is written.

    Raises:
        UserError: naming the option or file that is wrong.
    """
    spec = job.spec
    if not (job.reached or 0) < job.epoch:
        raise UserError(f"--epoch {job.epoch} --after {job.reached}: expected 0 < after < epoch")
    if spec.steps_per_epoch == 0:
        raise UserError(f"recipe.batch: {spec.recipe.batch} is more than the {spec.images} training images")
    if (job.start is None) != (spec.start is None):
        raise UserError("--start: expected weights exactly where the specification says which ones to begin with")
    Share.of(world, spec.recipe.batch, job.execution.micro_batch)
    for path in filter(None, (job.images, job.encoder, job.neurons, job.statistics, job.start)):
        if not path.exists():
            raise UserError(f"{path}: no such file or folder; run the rule that makes it first")
    if left := spec.recipe.initial_weights_left(job.last_step):
        log.warning(
            "After the %d steps to epoch %d the moving averages are still partly initial weights (%s): images will be"
            " noisy; train longer, or put a smaller decay first in recipe.ema",
            job.last_step, job.epoch, left,
        )  # fmt: skip
    check_index(job.images, images=spec.images, classes=spec.model.classes, image_size=spec.encoding.image_size)


def decide(job: Job) -> tuple[int | None, bool]:
    """Find out where to begin; for the process that holds the run's lock.

    Returns:
        Step of the state to go on from (None: the beginning), and whether nothing is left to train.

    Raises:
        UserError: if going on would mean to start over silently, to mix recipes, or to go back in time.
    """
    snapshot = checkpoint.snapshot_path(job.run_dir, job.epoch, job.spec.recipe.ema[0])
    path = checkpoint.newest(job.run_dir)
    if path is None:
        checkpoint.clean(job.run_dir, 0)
        if snapshot.exists():
            _check_finished(job, snapshot)
            return None, True
        if job.reached is not None:
            raise UserError(
                f"{job.run_dir}: epoch {job.epoch} continues from epoch {job.reached}, but there is no saved state;"
                f" restore the run directory, or train epoch {job.reached} again (its output removed, without --after)"
            )
        _explain_new_run(job)
        return None, False
    state = checkpoint.load(path, mapped=True)
    if differences := differing_keys(state.recipe, job.recipe):
        raise UserError(
            f"{path} belongs to another recipe and cannot be continued with this one (state -> asked for):\n  "
            + "\n  ".join(differences)
            + f"\nGo back to what the state was trained with, or move {path.parent} away to train afresh."
        )
    for name, present in (("torch", torch.__version__), ("code", checkpoint.code())):
        if state.versions.get(name) != present:
            log.warning(
                "%s was saved under %s %s; going on under %s may give other numbers",
                path, name, state.versions.get(name), present,
            )  # fmt: skip
    epoch = state.step / job.spec.steps_per_epoch
    if job.reached is not None and epoch < job.reached:
        raise UserError(
            f"{path} is at epoch {epoch:.2f}, but epoch {job.reached} should be done; train that milestone again first"
        )
    if state.step > job.last_step and not snapshot.exists():
        raise UserError(
            f"{job.run_dir} is already at epoch {epoch:.2f} and kept no averages of epoch {job.epoch};"
            f" remove {job.epoch} from evaluation.epochs, or remove the run directory to train from the start"
        )
    checkpoint.clean(job.run_dir, state.step)
    finished = state.step >= job.last_step and snapshot.exists()
    if finished:
        _check_finished(job, snapshot)
    return state.step, finished


def _check_finished(job: Job, snapshot: Path) -> None:
    """Say that nothing is left to train; refuse weights of other code, which may be asked for anew because of it."""
    if files.read_record(snapshot).get("code") != checkpoint.code():
        raise UserError(
            f"{snapshot} is finished, but the code that trains has changed since: move {job.run_dir} away to train"
            f" afresh, or copy the file to {job.output} to keep it"
        )
    log.warning(
        "%s is finished: published again, and nothing is trained; to train afresh, move %s away",
        snapshot, job.run_dir,
    )  # fmt: skip


def _explain_new_run(job: Job) -> None:
    """Say that training starts from the beginning, and what differs from the row's run before this one."""
    siblings = [path for path in job.run_dir.parent.glob(f"run-*/{SPEC}") if path.parent != job.run_dir]
    if not siblings:
        log.info("%s: a new run, starting from the beginning", job.run_dir)
        return
    newest = max(siblings, key=lambda path: path.stat().st_mtime)
    differences = differing_keys(files.read_json(newest), content(job.spec))
    log.warning(
        "%s: the recipe changed, so training starts from the beginning; compared with %s:\n  %s",
        job.run_dir, newest.parent.name, "\n  ".join(differences) or "no key differs",
    )  # fmt: skip


def begin_from(model: Denoiser, spec: StartSpec, own: ModelSpec, path: Path) -> None:
    """Overwrite initial weights with those of another training; another label table or other registers stay as drawn.

    Registers that are added attend and are attended to from the first step on, so predictions are not the old ones.

    Raises:
        UserError: if the file holds other tensors than the specification says.
    """
    given = load_denoiser(spec.model(own), path, torch.device("cpu")).state_dict()
    drawn = model.state_dict()
    kept = {name for name, value in drawn.items() if name not in given or given[name].shape != value.shape}
    model.load_state_dict({name: value if name in kept else given[name] for name, value in drawn.items()})
    log.info("Begins with %s%s", path, f"; anew: {', '.join(sorted(kept))}" if kept else "")
