"""Every stage of the work in one process on one GPU: `PYTHONPATH=src python -m benchmarks.all`."""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import data, encode, inputs, machine, parity, sample, train
from dsr.base import files
from dsr.config.load import Config

log = logging.getLogger(__name__)

DIT, SO400M, DIT_DH = "dit-siglip2b-dsr", "dit-so400m-dsr", "ditdh-siglip2b-dsr"


def stages(
    config: Config, folder: Path, index: Path, ceiling: dict[str, float], options: argparse.Namespace
) -> dict[str, Callable[[], Any]]:
    """Return what each stage measures; `images/s` is its speed."""
    small = options.small
    common: dict[str, Any] = {"ceiling": ceiling, "fast": not (options.eager or small)}

    def trained(row: str, precision: str, batch: int, *, checkpoint: bool = False) -> Any:
        return train.measure(
            config, row, index, precision=precision, batch=8 if small else batch, steps=options.steps,
            deterministic=options.deterministic, workers=0 if small else 14, profile=options.profile,
            checkpoint=Path(tempfile.gettempdir()) if checkpoint else None, **common,
        )  # fmt: skip

    def sampled(row: str, precision: str = "bf16") -> Any:
        batch, shards = options.sample_batch, options.shards
        return sample.measure(
            config, row, folder, precision=precision, batch=batch, shards=shards, profile=options.profile, **common
        )

    def encoded(row: str, **settings: Any) -> Any:
        return encode.measure(config, row, batch=8 if small else 128, profile=options.profile, **settings, **common)

    return {
        "train-bf16": lambda: trained(DIT, "bf16", 128),
        "train-fp16": lambda: trained(DIT, "fp16", 128),
        "train-tf32": lambda: trained(DIT, "tf32", 64),
        "train-tf32-128": lambda: trained(DIT, "tf32", 128),
        "train-dh-bf16": lambda: trained(DIT_DH, "bf16", 128),
        "train-dh-fp16": lambda: trained(DIT_DH, "fp16", 128),
        "train-dh-tf32": lambda: trained(DIT_DH, "tf32", 64),
        "train-so400m-bf16": lambda: trained(SO400M, "bf16", 128),
        "train-so400m-fp16": lambda: trained(SO400M, "fp16", 128),
        "train-so400m-tf32": lambda: trained(SO400M, "tf32", 64),
        "checkpoint": lambda: trained(DIT, "bf16", 128, checkpoint=True),
        "sample": lambda: sampled(DIT),
        "sample-fp16": lambda: sampled(DIT, "fp16"),
        "sample-dh": lambda: sampled(DIT_DH),
        "sample-dh-fp16": lambda: sampled(DIT_DH, "fp16"),
        "encode-b": lambda: encoded(DIT),
        "encode-b-plain": lambda: encoded(DIT, ttr=False),
        "encode-b-half": lambda: encoded(DIT, half=True),
        "encode-b-half-plain": lambda: encoded(DIT, ttr=False, half=True),
        "encode-so400m": lambda: encoded(SO400M),
        "encode-so400m-plain": lambda: encoded(SO400M, ttr=False),
        "encode-so400m-half": lambda: encoded(SO400M, half=True),
        "encode-so400m-half-plain": lambda: encoded(SO400M, ttr=False, half=True),
        "data": lambda: data.measure(config, index, batch=128, workers=16),
        "parity": lambda: [*parity.denoiser(config, DIT), *parity.encoder(config, DIT)],
        "parity-outliers": lambda: parity.denoiser(config, DIT, outliers=True),
        "parity-dh": lambda: parity.denoiser(config, DIT_DH),
        "parity-so400m": lambda: parity.encoder(config, SO400M),
    }


def main() -> None:
    """Measure the stages in the order given; one that fails does not stop the others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--stages", nargs="+", help="names of stages (default: all)")
    parser.add_argument("--eager", action="store_true", help="do not compile")
    parser.add_argument("--no-deterministic", dest="deterministic", action="store_false", help="not as the rules train")
    parser.add_argument("--profile", action="store_true", help="list kernels")
    parser.add_argument("--steps", type=int, default=12, help="training steps to measure")
    parser.add_argument("--shards", type=int, default=2, help="shards of 500 images to sample")
    parser.add_argument("--sample-batch", type=int, default=125, help="images that are sampled together")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no stage after this long")
    parser.add_argument("--small", action="store_true", help="the demo's models, eager, also on CPUs: tests this")
    machine.add_output(parser)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    began, results = time.monotonic(), {}
    config = inputs.configuration(small=options.small)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        index = inputs.prepared_images(
            Path(folder) / "images", 64 if options.small else 2048, size=config.data.image_size
        )
        machine.one_gpu(needed=not options.small)
        ceiling = machine.ceilings()
        log.info("%s, ceilings %s TFLOP/s", machine.about(), {key: v / 1e12 for key, v in ceiling.items()})
        known = stages(config, Path(folder), index, ceiling, options)
        for name in options.stages or known:
            if time.monotonic() - began > options.seconds:
                log.warning("%s: not begun, the time is up", name)
                continue
            try:
                found = known[name]()
            except Exception:
                log.exception("%s failed", name)
                continue
            results[name] = found
            machine.report(found if isinstance(found, list) else [found])
            log.info("%s done after %.0f s", name, time.monotonic() - began)
            if options.json is not None:
                files.write_json(options.json, {"machine": machine.about(), "ceilings": ceiling, "results": results})


if __name__ == "__main__":
    main()
