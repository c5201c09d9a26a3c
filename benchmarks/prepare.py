"""What preparing images costs, and what the formats cost that they could be prepared into, on one core.

    PYTHONPATH=src python -m benchmarks.prepare

Photographs are stood in for by JPEG files of ImageNet's usual size (500 x 375, quality 90) that show noise with as
much power in every octave and a little grain; they compress about as photographs do. Needs no GPU.
"""

from __future__ import annotations

import argparse
import io
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_png

from benchmarks import machine
from dsr.data import png
from dsr.data.crop import center_crop
from dsr.data.folder import load_rgb
from dsr.data.prepare import write_shard

SIZE = 256
OCTAVES = (4, 8, 16, 32, 64, 128)
"""Sides of the noise images that are enlarged and added."""


@dataclass(frozen=True)
class Candidate:
    """A lossless form of a prepared image."""

    name: str
    encode: Callable[[Image.Image], bytes]
    decode: Callable[[bytes], torch.Tensor]
    """To uint8 (3, H, W)."""


def main() -> None:
    """Measure and print one line a candidate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100, help="images (default: 100)")
    parser.add_argument("--repeats", type=int, default=3, help="the fastest of so many runs counts (default: 3)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        paths = photographs(Path(folder), options.images)
        rows = [measure_shard(Path(folder), options.images, options.repeats), measure_crop(paths, options.repeats)]
        images = [center_crop(load_rgb(path), SIZE) for path in paths]
        rows += [measure(candidate, images, options.repeats) for candidate in candidates()]
        rows += containers(Path(folder), [pil_png(1)(image) for image in images], options.repeats)
    machine.report(rows, None)


def photographs(folder: Path, count: int) -> list[Path]:
    """Write JPEG files like ImageNet's."""
    paths = []
    for number in range(count):
        generator = np.random.default_rng(number)
        width, height = (500, 375) if number % 4 else (375, 500)
        pixels = np.full((height, width, 3), 128.0)
        for side in OCTAVES:
            octave = Image.fromarray(generator.integers(0, 256, (side, side, 3), dtype=np.uint8))
            pixels += 0.35 * (np.asarray(octave.resize((width, height), Image.Resampling.BICUBIC)) - 128.0)
        pixels += generator.normal(0, 3, pixels.shape)
        paths.append(folder / "raw" / f"n{number % 4:08d}" / f"{number:04d}.JPEG")
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(paths[-1], quality=90)
    return paths


def candidates() -> list[Candidate]:
    """What a prepared image could be stored as."""
    found = [Candidate("PNG, one filter (dsr.data.png)", lambda image: png.encode(np.asarray(image)), _decode_png)]
    found += [Candidate(f"PNG, level {level}", pil_png(level), _decode_png) for level in (1, 3, 6, 9)]
    found.append(Candidate("PNG, level 6, read by PIL", pil_png(6), _decode_pil))
    found += [Candidate(f"WebP lossless, method {method}", _webp(method), _decode_pil) for method in (0, 4)]
    found.append(Candidate("raw uint8", lambda image: np.asarray(image).tobytes(), _decode_raw))
    return found


def measure_shard(folder: Path, images: int, repeats: int) -> dict[str, Any]:
    """Prepare a shard as the workflow does."""
    path = folder / "shard.zip"
    seconds = fastest(lambda: write_shard(folder / "raw", SIZE, 0, 1, path), repeats)
    return {"what": "prepare shard", "kB": path.stat().st_size / images / 1000, "write/s": images / seconds}


def measure_crop(paths: Sequence[Path], repeats: int) -> dict[str, Any]:
    """Decode and crop, as training straight from an ImageFolder does; encoding comes on top."""
    seconds = fastest(lambda: [center_crop(load_rgb(path), SIZE) for path in paths], repeats)
    size = sum(path.stat().st_size for path in paths) / len(paths)
    return {"what": "JPEG to crop, in memory", "kB": size / 1000, "read/s": len(paths) / seconds}


def measure(candidate: Candidate, images: Sequence[Image.Image], repeats: int) -> dict[str, Any]:
    """Encode and decode images in memory; what comes out must be what went in."""
    encoded = [candidate.encode(image) for image in images]
    for image, data in zip(images, encoded, strict=True):
        assert np.array_equal(candidate.decode(data).permute(1, 2, 0).numpy(), np.asarray(image))
    writing = fastest(lambda: [candidate.encode(image) for image in images], repeats)
    reading = fastest(lambda: [candidate.decode(data) for data in encoded], repeats)
    return {
        "what": candidate.name,
        "kB": sum(map(len, encoded)) / len(encoded) / 1000,
        "read/s": len(images) / reading,
        "write/s": len(images) / writing,
    }


def containers(folder: Path, encoded: Sequence[bytes], repeats: int) -> list[dict[str, Any]]:
    """Read the bytes of images, in another order than they lie, out of one file; it is in the page cache."""
    order = np.random.default_rng(0).permutation(len(encoded)).tolist()
    with zipfile.ZipFile(folder / "images.zip", "w", zipfile.ZIP_STORED) as archive:
        for number, data in enumerate(encoded):
            archive.writestr(f"{number}.png", data)
    with tarfile.open(folder / "images.tar", "w") as tar:
        for number, data in enumerate(encoded):
            member = tarfile.TarInfo(f"{number}.png")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    rows = []
    with zipfile.ZipFile(folder / "images.zip") as archive, tarfile.open(folder / "images.tar") as tar:
        members = {member.name: member for member in tar}
        offsets = [(members[f"{number}.png"].offset_data, len(data)) for number, data in enumerate(encoded)]

        def from_tar(number: int) -> bytes:
            stream = tar.extractfile(members[f"{number}.png"])
            assert stream is not None
            return stream.read()

        with (folder / "images.tar").open("rb", buffering=0) as stream:

            def from_offset(number: int) -> bytes:
                stream.seek(offsets[number][0])
                return stream.read(offsets[number][1])

            for name, read, path in (
                ("zip through zipfile", lambda number: archive.read(f"{number}.png"), "images.zip"),
                ("tar through tarfile", from_tar, "images.tar"),
                ("zip or tar by offset, one read", from_offset, "images.tar"),
            ):
                assert [read(number) for number in order] == [encoded[number] for number in order]
                seconds = fastest(lambda read=read: [read(number) for number in order], repeats)
                size = (folder / path).stat().st_size / len(encoded) / 1000
                rows.append({"what": name, "kB": size, "read/s": len(order) / seconds})
    return rows


def fastest(action: Callable[[], Any], repeats: int) -> float:
    """Seconds of CPU time of the fastest run: other processes on this machine do not count."""
    times = []
    for _ in range(repeats):
        began = time.process_time()
        action()
        times.append(time.process_time() - began)
    return min(times)


def pil_png(level: int) -> Callable[[Image.Image], bytes]:
    """Encoder of PNG at a level of compression; 6 is PIL's default."""
    return lambda image: _saved(image, format="PNG", compress_level=level)


def _webp(method: int) -> Callable[[Image.Image], bytes]:
    return lambda image: _saved(image, format="WEBP", lossless=True, method=method)


def _saved(image: Image.Image, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, **options)
    return stream.getvalue()


def _decode_png(data: bytes) -> torch.Tensor:
    pixels: torch.Tensor = decode_png(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)
    return pixels


def _decode_pil(data: bytes) -> torch.Tensor:
    with Image.open(io.BytesIO(data)) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()


def _decode_raw(data: bytes) -> torch.Tensor:
    pixels = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    return pixels.view(SIZE, SIZE, 3).permute(2, 0, 1).contiguous()


if __name__ == "__main__":
    main()
