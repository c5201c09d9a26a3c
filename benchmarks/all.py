"""All stages in one process on one GPU, beside the goals: `PYTHONPATH=src python -m benchmarks.all`."""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import blocks, data, encode, inputs, kernels, machine, parity, sample, train
from dsr.base import files

log = logging.getLogger(__name__)

DIT, SO400M, DIT_DH = "dit-siglip2b-dsr", "dit-so400m-dsr", "ditdh-siglip2b-dsr"

REFERENCES = {
    "train-bf16": (388, 540),
    "train-bf16-half": (388, 540),
    "train-tf32": (155, 230),
    "train-tf32-128": (None, None),
    "sample": (10.4, 40),
    "sample-fp8": (10.4, 40),
    "sample-dh": (8.4, 30),
    "sample-dh-fp8": (8.4, 30),
    "encode-b": (2450, 5600),
    "encode-b-half": (2450, 5600),
    "encode-so400m": (662, 1500),
    "encode-so400m-half": (662, 1500),
    "data": (None, 4500),
}
"""Images/s of the public release on one H100, and the goal."""


def stages(
    folder: Path, index: Path, ceiling: dict[str, float], options: argparse.Namespace
) -> dict[str, Callable[[], Any]]:
    """Return what each stage measures."""
    common: dict[str, Any] = {"ceiling": ceiling, "fast": not options.eager}

    def trained(name: str, row: str, precision: str, batch: int, *, half: bool = False) -> dict[str, Any]:
        settings: dict[str, Any] = {"precision": precision, "batch": batch, "micro_batch": None, "encoder_half": half}
        states = Path(tempfile.gettempdir()) if options.checkpoint and name == "train-bf16" else None
        return train.measure(
            row, index, **settings, **common, steps=options.steps, checkpoint=states, profile=name in options.profile
        )

    def sampled(name: str, row: str, precision: str = "bf16") -> dict[str, Any]:
        settings: dict[str, Any] = {"precision": precision, "batch": options.sample_batch, "shards": options.shards}
        return sample.measure(row, folder, **settings, **common, profile=name in options.profile)

    def encoded(name: str, row: str, **settings: Any) -> dict[str, Any]:
        return encode.measure(row, batch=128, **settings, **common, profile=name in options.profile)

    return {
        "blocks": blocks.measure,
        "kernels": kernels.measure,
        "train-bf16": lambda: trained("train-bf16", DIT, "bf16", 128),
        "train-bf16-half": lambda: trained("train-bf16-half", DIT, "bf16", 128, half=True),
        "train-tf32": lambda: trained("train-tf32", DIT, "tf32", 64),
        "train-tf32-128": lambda: trained("train-tf32-128", DIT, "tf32", 128),
        "train-dh-bf16-half": lambda: trained("train-dh-bf16-half", DIT_DH, "bf16", 128, half=True),
        "train-dh-tf32": lambda: trained("train-dh-tf32", DIT_DH, "tf32", 64),
        "sample": lambda: sampled("sample", DIT),
        "sample-fp8": lambda: sampled("sample-fp8", DIT, "fp8"),
        "sample-dh": lambda: sampled("sample-dh", DIT_DH),
        "sample-dh-fp8": lambda: sampled("sample-dh-fp8", DIT_DH, "fp8"),
        "encode-b": lambda: encoded("encode-b", DIT),
        "encode-b-plain": lambda: encoded("encode-b-plain", DIT, ttr=False),
        "encode-b-half": lambda: encoded("encode-b-half", DIT, half=True),
        "encode-b-half-plain": lambda: encoded("encode-b-half-plain", DIT, ttr=False, half=True),
        "encode-so400m": lambda: encoded("encode-so400m", SO400M),
        "encode-so400m-plain": lambda: encoded("encode-so400m-plain", SO400M, ttr=False),
        "encode-so400m-half": lambda: encoded("encode-so400m-half", SO400M, half=True),
        "encode-so400m-half-plain": lambda: encoded("encode-so400m-half-plain", SO400M, ttr=False, half=True),
        "data": lambda: data.measure(index, batch=128, workers=16),
        "parity": lambda: [*parity.denoiser(DIT), *parity.encoder(DIT)],
        "parity-dh": lambda: parity.denoiser(DIT_DH),
        "parity-so400m": lambda: parity.encoder(SO400M),
    }


def compared(name: str, result: dict[str, Any]) -> dict[str, Any]:
    """Put a stage's speed beside the release's and the goal."""
    release, goal = REFERENCES.get(name, (None, None))
    line = {key: result[key] for key in ("images/s", "of ceiling", "peak GiB") if key in result}
    if release is not None:
        line |= {"release": release, "ratio": result["images/s"] / release}
    return {"stage": name, **line, **({} if goal is None else {"goal": goal})}


def main() -> None:
    """Measure the stages in the order given; one that fails does not stop the others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--stages", nargs="+", help="names of stages (default: all)")
    parser.add_argument("--eager", action="store_true", help="do not compile")
    parser.add_argument("--profile", nargs="*", default=[], help="stages whose kernels to list")
    parser.add_argument("--checkpoint", action="store_true", help="also time checkpoints, in the temporary folder")
    parser.add_argument("--steps", type=int, default=12, help="training steps to measure")
    parser.add_argument("--shards", type=int, default=2, help="shards of 500 images to sample")
    parser.add_argument("--sample-batch", type=int, default=125, help="images that are sampled together")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no stage after this long")
    machine.add_output(parser)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    began, results, lines = time.monotonic(), {}, []
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        index = inputs.prepared_images(Path(folder) / "images", 2048)
        machine.one_gpu()
        ceiling = machine.ceilings()
        log.info("%s, ceilings %s TFLOP/s", machine.about(), {key: round(v / 1e12) for key, v in ceiling.items()})
        known = stages(Path(folder), index, ceiling, options)
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
            machine.report(found if isinstance(found, list) else [found], None)
            log.info("%s done after %.0f s", name, time.monotonic() - began)
            if isinstance(found, dict):
                lines.append(compared(name, found))
            if options.json is not None:
                files.write_json(options.json, {"machine": machine.about(), "ceilings": ceiling, "results": results})
    machine.report(lines, None)


if __name__ == "__main__":
    main()
