"""Scaling over the GPUs of one host, by the commands of the rules: `PYTHONPATH=src python -m benchmarks.scaling`.

Work grows with the processes (128 training images each), so that perfect scaling keeps the time of a step. Training
reads its speed from the run's own record; sampling and statistics run twice, once with double the work, and the
difference of the times is free of the start.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import inputs, machine
from dsr.base import files
from dsr.config.load import Config
from dsr.config.specs import EncoderSpec
from dsr.demo.made import write_decoder

log = logging.getLogger(__name__)

IMAGES = 2048
"""Different images; statistics read them again and again."""
STAGES = ("train", "statistics", "sample")


@dataclass(frozen=True)
class Sizes:
    """How much work is measured."""

    batch: int
    """Training images per process."""
    steps: int
    """Training steps."""
    log_every: int
    """Steps between records; the first record is the start and does not count."""
    encoded: int
    """Images per process whose latents are measured."""
    compiled: bool
    workers: int


FULL = Sizes(batch=128, steps=60, log_every=10, encoded=50000, compiled=True, workers=12)
SMALL = Sizes(batch=32, steps=64, log_every=16, encoded=32768, compiled=False, workers=0)


class Bench:
    """Files of random content for the rows of a configuration, and the commands that work on them."""

    def __init__(self, config: Config, folder: Path, sizes: Sizes) -> None:
        self._config, self._folder, self._sizes = config, folder, sizes
        self._index = inputs.prepared_images(folder / "images", IMAGES, config.data.classes, config.data.image_size)

    def train(self, row: str, precision: str, processes: int) -> dict[str, Any]:
        """Train a row from its beginning."""
        spec, sizes, run = self._config.train(row), self._sizes, self._folder / "run"
        recipe = spec.recipe.model_copy(update={"batch": sizes.batch * processes, "precision": precision})
        spec = spec.model_copy(update={"recipe": recipe, "images": IMAGES})
        self._launch(
            processes, "dsr.commands.train", "--spec", spec.model_dump_json(), "--images", self._index,
            "--epoch", -(-sizes.steps // spec.steps_per_epoch),
            *self._encoder(spec.encoding), "--statistics", self._statistics(spec.encoding),
            "--run-dir", run, "--output", run / "ema.safetensors",
        )  # fmt: skip
        lines = files.read_json_lines(run / "metrics.jsonl")
        shutil.rmtree(run)
        memory = {"peak GiB": lines[-1]["peak_memory_gib"]} if "peak_memory_gib" in lines[-1] else {}
        return {"images/s": statistics.median(line["images_per_second"] for line in lines[1:-1]), **memory}

    def statistics(self, row: str, _: str, processes: int) -> dict[str, Any]:
        """Encode images for latent statistics."""
        entry = self._config.rows[row]
        spec = self._config.statistics(entry.encoder, entry.ttr)

        def encode(times: int) -> int:
            index = self._repeated(times)
            images = times * IMAGES
            self._launch(
                processes, "dsr.commands.statistics", *self._encoder(spec.encoding),
                "--spec", spec.model_copy(update={"images": images}).model_dump_json(),
                "--images", index,
                "--output", self._folder / "statistics.safetensors",
            )  # fmt: skip
            return images

        times = -(-self._sizes.encoded * processes // IMAGES)
        return {"images/s": _slope(encode, times)}

    def sample(self, row: str, _: str, processes: int) -> dict[str, Any]:
        """Sample images, from noise to files."""
        spec = self._config.sample(row, "unguided", 0)
        weights = inputs.denoiser_file(spec.model, self._folder / "denoiser.safetensors")
        decoder = self._folder / f"{spec.autoencoder.encoder.width}-decoder.safetensors"
        if not decoder.exists():
            write_decoder(spec.autoencoder, decoder)
        unit = int(np.lcm(self._config.data.classes, 500 * processes))

        def draw(times: int) -> int:
            images = times * unit
            self._launch(
                processes, "dsr.commands.sample",
                "--spec", spec.model_copy(update={"images": images}).model_dump_json(),
                "--weights", weights, "--statistics", self._statistics(spec.autoencoder), "--decoder", decoder,
                "--shards", self._folder / "shards", "--output", self._folder / "samples.npz",
            )  # fmt: skip
            return images

        return {"images/s": _slope(draw, 1)}

    def _launch(self, processes: int, module: str, *arguments: object) -> None:
        """Run a command as the rules do."""
        sizes = self._sizes
        execution = self._config.execution.model_copy(
            update={
                "workers": sizes.workers,
                "compile": sizes.compiled,
                "log_every": sizes.log_every,
                "checkpoint_minutes": 1e6,
                "tensorboard": False,
            }
        )
        command = [sys.executable, "-m", "dsr.commands.launch", "--processes", processes, module, *arguments]
        command += ["--execution", execution.model_dump_json()]
        environment = {**os.environ, "USE_TF": "0", "TORCHINDUCTOR_CACHE_DIR": f"{self._folder}/compiled"}
        done = subprocess.run(
            [str(part) for part in command], env=environment, stderr=subprocess.PIPE, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{module} on {processes} processes failed:\n{done.stderr[-3000:]}")

    def _encoder(self, spec: EncoderSpec) -> Iterator[object]:
        """Arguments for an encoder and its test-time registers, made where they are missing."""
        folder, neurons = inputs.encoder(self._config, spec, self._folder)
        yield from ("--encoder", folder)
        if neurons:
            yield from ("--neurons", neurons)

    def _statistics(self, spec: EncoderSpec) -> Path:
        path = self._folder / f"statistics-{spec.encoder.width}.safetensors"
        return path if path.exists() else inputs.statistics_file(spec, path)

    def _repeated(self, times: int) -> Path:
        """Write an index that lists the images ``times`` times."""
        path = self._index.with_name(f"index-{times}.npz")
        with np.load(self._index) as file:
            arrays = {key: file[key] for key in file.files}
        for key in ("shard", "offset", "length", "label"):
            arrays[key] = np.tile(arrays[key], times)
        np.savez(path, **arrays)
        return path


def _slope(work: Callable[[int], int], times: int) -> float:
    """Images/s of ``work(times)``, from its time and that of double the work."""
    work(times)  # Fills caches, the compiler's among them.
    measured = []
    for count in (times, 2 * times):
        began = time.perf_counter()
        images = work(count)
        measured.append((images, time.perf_counter() - began))
    (few, short), (many, long) = measured
    return (many - few) / (long - short)


def main() -> None:
    """Measure every stage and row on each number of processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", help="numbers of GPUs (default: 1, 2, 4, 8 as there are)")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--rows", nargs="+", help="rows of the table (default: all)")
    parser.add_argument("--precisions", nargs="+", help="arithmetic of training (default: tf32 bf16; --small: fp32)")
    parser.add_argument("--small", action="store_true", help="the demo's rows, also without GPUs: tests the benchmark")
    machine.add_output(parser)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    config = inputs.configuration(small=options.small)
    processes = options.processes or [n for n in (1, 2, 4, 8) if n <= max(1, torch.cuda.device_count())]
    precisions = options.precisions or (["fp32"] if options.small else ["tf32", "bf16"])
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        bench = Bench(config, Path(folder), SMALL if options.small else FULL)
        for stage in options.stages:
            for row in options.rows or config.rows:
                for precision in precisions if stage == "train" else [config.sampling.precision]:
                    for count in processes:
                        found = getattr(bench, stage)(row, precision, count)
                        about = {"stage": stage, "row": row, "precision": precision, "processes": count}
                        results.append(compared({**about, **found}, results, bench_batch(stage, options.small)))
                        log.info("%s", json.dumps(results[-1]))
                        if options.json is not None:
                            files.write_json(options.json, results)
    machine.report(results)


def bench_batch(stage: str, small: bool) -> int | None:
    """Images per process in a training step; other stages have none."""
    return (SMALL if small else FULL).batch if stage == "train" else None


def compared(result: dict[str, Any], before: list[dict[str, Any]], batch: int | None) -> dict[str, Any]:
    """Add the efficiency against the first number of processes, and what a step waits for the others."""
    keys = ("stage", "row", "precision")
    first = next((line for line in before if all(line[key] == result[key] for key in keys)), result)
    per_process = result["images/s"] / result["processes"]
    of_first = first["images/s"] / first["processes"]
    result = {**result, "efficiency": per_process / of_first}
    return result if batch is None else {**result, "exposed ms": 1000 * batch * (1 / per_process - 1 / of_first)}


if __name__ == "__main__":
    main()
