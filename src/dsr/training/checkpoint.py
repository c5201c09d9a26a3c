"""What a run keeps on disk: training states, the newest two and checked, and the EMA weights of its milestones.

States are written beside training, which does not wait for them.
"""

import contextlib
import errno
import functools
import hashlib
import logging
import re
import shutil
import time
import zipfile
import zlib
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from dsr.base import files, tensors
from dsr.base.errors import UserError
from dsr.base.programs import git_state
from dsr.config.specs import TrainSpec, WeightsSpec, content, require

log = logging.getLogger(__name__)

KEPT = 2
"""States kept in a run directory: the newest, and one to fall back to."""

COMPUTING = (
    "flow.py", "base/positions.py", "base/randomness.py",
    "accel/*.py", "data/*.py", "denoiser/*.py", "encoder/*.py", "registers/*.py", "training/*.py",
)  # fmt: skip
"""The part of the package that weights depend on."""


@dataclass(frozen=True)
class TrainState:
    """Everything that training needs to go on as if it had never stopped.

    Random numbers and the position in the data are functions of ``step``, so neither is part of it.
    """

    step: int
    """Optimizer steps done."""
    model: dict[str, torch.Tensor]
    """Parameters and buffers."""
    averages: dict[str, dict[str, torch.Tensor]]
    """Moving averages of the parameters, by decay."""
    optimizer: dict[str, Any]
    """State of AdamW."""
    recipe: dict[str, Any]
    """What determines the weights: the specification, its hash, and hashes of the small input files."""
    versions: dict[str, str]
    """Versions of the software that wrote it."""
    loss_scale: float | None = None
    """What fp16 multiplies losses by before the backward pass; None in other precisions."""


@functools.cache
def code() -> str:
    """Short hash of the modules that weights depend on, as this process found them."""
    package = Path(__file__).parents[1]
    hashes = [files.sha256(path) for part in COMPUTING for path in sorted(package.glob(part))]
    return hashlib.sha256("".join(hashes).encode()).hexdigest()[:12]


def state_path(run: Path, step: int) -> Path:
    """File of the state after ``step`` steps."""
    return run / f"state-{step:08d}.pt"


def state_steps(run: Path) -> list[int]:
    """Steps of the states in a run directory, newest first; the files may be damaged."""
    found = (re.fullmatch(r"state-(\d+)\.pt", path.name) for path in run.glob("state-*.pt"))
    return sorted((int(match[1]) for match in found if match), reverse=True)


def save(run: Path, state: TrainState) -> Path:
    """Write a state atomically, then remove all but the newest two."""
    path = state_path(run, state.step)
    with files.atomic(path) as temporary, temporary.open("wb") as stream:
        torch.save(vars(state), stream)
    for step in state_steps(run)[KEPT:]:
        state_path(run, step).unlink()
    return path


class Writer(contextlib.AbstractContextManager["Writer"]):
    """Copies the training state to memory, where a thread writes it to disk while training goes on.

    The copy lives as long as the writer: a second state of the model's, its averages' and its optimizer's size, in
    pinned memory where training is on a GPU. As a context manager it waits for the disk before it is left.
    """

    def __init__(self, run: Path) -> None:
        self._run = run
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._copy: dict[str, Any] = {}
        self._pending: Future[None] | None = None

    def __exit__(self, *_: object) -> None:
        """Wait for the disk; an error of the writer is raised, on top of the one that is on its way, if any."""
        try:
            self.finish()
        finally:
            self._thread.shutdown()

    def save(self, state: TrainState) -> None:
        """Begin to save ``state``, which may change again afterwards; OSError if the state before was not written."""
        self.finish()
        began = time.monotonic()
        self._copy = _copied(vars(state), self._copy)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        log.debug("Copied the training state in %.2f s", time.monotonic() - began)
        self._pending = self._thread.submit(self._write, TrainState(**self._copy))

    def finish(self) -> None:
        """Wait until everything is on disk; OSError if it could not be written."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def idle(self) -> bool:
        """Whether nothing is being written."""
        return self._pending is None or self._pending.done()

    def _write(self, state: TrainState) -> None:
        began = time.monotonic()
        path = save(self._run, state)
        log.info("Saved %s in %.1f s", path, time.monotonic() - began)


def _copied(value: Any, previous: Any) -> Any:
    """Copy nested mappings and lists of tensors to the CPU, into the memory of an earlier copy where it fits."""
    if isinstance(value, torch.Tensor):
        if not (isinstance(previous, torch.Tensor) and previous.shape == value.shape and previous.dtype == value.dtype):
            previous = torch.empty_like(value, device="cpu", pin_memory=value.is_cuda)
        return previous.copy_(value.detach(), non_blocking=True)
    if isinstance(value, Mapping):
        earlier = previous if isinstance(previous, Mapping) else {}
        return {key: _copied(entry, earlier.get(key)) for key, entry in value.items()}
    if isinstance(value, list):
        before = previous if isinstance(previous, list) and len(previous) == len(value) else [None] * len(value)
        return [_copied(entry, old) for entry, old in zip(value, before, strict=True)]
    return value


def load(path: Path, *, mapped: bool = False) -> TrainState:
    """Read a state to the CPU; ``mapped`` leaves tensors in the file until they are used."""
    return TrainState(**torch.load(path, map_location="cpu", weights_only=True, mmap=mapped))


def newest(run: Path) -> Path | None:
    """Find the newest undamaged state; None if there is no state at all.

    Raises:
        UserError: if there are states and all of them are damaged, or one cannot be read.
    """
    steps = state_steps(run)
    for step in steps:
        path = state_path(run, step)
        if is_intact(path):
            return path
        log.warning("%s is damaged (truncated or altered); falling back to the state before it", path)
    if steps:
        raise UserError(
            f"{run}: every saved state is damaged ({', '.join(state_path(run, step).name for step in steps)});"
            " restore one from a backup, or delete them to train from the start"
        )
    return None


def is_intact(path: Path) -> bool:
    """Whether the file is complete, every record has the checksum that was written with it, and it can be loaded.

    ``torch.load`` notices a missing end and an altered list of records, but no altered bytes: it does not compare the
    checksums.

    Raises:
        UserError: if the storage does not hand it out, which says nothing about the file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                return False
        load(path, mapped=True)
    except OSError as error:
        # Damage can ask for impossible places of the file; every other error is the storage's.
        if error.errno not in (None, errno.EINVAL):
            raise UserError(
                f"{path}: cannot be read ({error}); no state was removed, run the same command again"
            ) from None
        return False
    except (zipfile.BadZipFile, zlib.error, UnpicklingError, EOFError, ValueError, RuntimeError):
        return False
    return True


def clean(run: Path, newest_step: int) -> None:
    """Remove damaged states (those after ``newest_step``) and what a killed writer left; for the lock's holder."""
    for step in state_steps(run):
        if step > newest_step:
            state_path(run, step).unlink()
    for leftover in (*run.glob(".state-*"), *run.glob(".ema-*")):
        leftover.unlink()


def snapshot_path(run: Path, epoch: int, decay: float) -> Path:
    """File of the averages with ``decay`` after ``epoch`` epochs."""
    return run / f"ema-{epoch}-{decay}.safetensors"


def write_averages(run: Path, state: TrainState, spec: TrainSpec, epoch: int) -> None:
    """Write the averages of every decay at a milestone, each a complete denoiser (the model's buffers included)."""
    versions = {name: version for name, version in state.versions.items() if name != "code"}
    made = {"versions": versions, **git_state(Path(__file__).parent)}
    for decay, average in state.averages.items():
        weights = WeightsSpec(train=spec, epoch=epoch, decay=float(decay))
        about = {"spec": content(weights), "step": state.step, "code": state.versions["code"], **made}
        tensors.write(snapshot_path(run, epoch, float(decay)), {**state.model, **average}, about)


def publish(spec: TrainSpec, epoch: int, decay: float, run_dir: Path, output: Path) -> None:
    """Publish one of the moving averages that the trainer keeps of a milestone; nothing is trained.

    Args:
        spec: What determines the weights.
        epoch: The milestone.
        decay: Decay of the average, one of the recipe's.
        run_dir: Directory of the training state.
        output: Weights to write, atomically.

    Raises:
        UserError: if there is no such average, or it was trained with another specification.
    """
    if decay not in spec.recipe.ema:
        raise UserError(
            f"decay {decay} is none of recipe.ema ({', '.join(map(str, spec.recipe.ema))}); an average cannot be had"
            " afterwards: add it to the recipe, which trains the row anew"
        )
    snapshot = snapshot_path(run_dir, epoch, decay)
    if not snapshot.exists():
        raise UserError(f"{snapshot}: no such file; restore the run directory, or train this milestone again")
    require(snapshot, files.read_record(snapshot).get("spec", {}), WeightsSpec(train=spec, epoch=epoch, decay=decay))
    with files.atomic(output) as temporary:
        shutil.copyfile(snapshot, temporary)
    log.info("Published %s", output)
