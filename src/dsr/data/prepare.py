"""Prepared images: an ImageFolder, cropped and stored losslessly in shards that are made independently.

A shard is an uncompressed zip of PNG files and its own manifest; `unzip` reads it. The index lists where in which
shard the bytes of every image lie, so that training reads an image with one system call.
"""

from __future__ import annotations

import json
import logging
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dsr.base.errors import UserError
from dsr.base.files import atomic, atomic_stream
from dsr.data import png
from dsr.data.crop import center_crop
from dsr.data.folder import Listing, UnreadableImageError, list_folder, load_rgb
from dsr.data.index import write_folder_index
from dsr.data.order import rank_slice

MANIFEST = "manifest.json"
_LOCAL_HEADER = struct.Struct("<26xHH")
_TIMESTAMP = (1980, 1, 1, 0, 0, 0)

Manifest = dict[str, Any]
"""A shard's own description: image_size, shard, shards, total, classes, images (member names) and labels."""

logger = logging.getLogger(__name__)


def write_shard(
    source: Path,
    size: int,
    shard: int,
    shards: int,
    output: Path,
    *,
    images: int | None = None,
    classes: int | None = None,
) -> None:
    """Crop one contiguous slice of an ImageFolder's sorted images to ``size`` and write it as a zip file.

    The same images give the same bytes, whenever and wherever the shard is made.

    Raises:
        UserError: naming every unreadable image of the slice, or that the slice does not exist; or if the folder
            does not hold as many ``images`` and ``classes`` as expected (None expects nothing).
    """
    if not 0 <= shard < shards:
        raise UserError(f"--shard {shard}: expected a number from 0 to {shards - 1}")
    listing = _listed(source, images, classes)
    part = range(len(listing.paths))[rank_slice(len(listing.paths), shard, shards)]
    bad: list[str] = []
    names: list[str] = []
    with atomic(output) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for index in part:
            path = listing.paths[index]
            try:
                encoded = png.encode(np.asarray(center_crop(load_rgb(path), size)))
            except UnreadableImageError as error:
                bad.append(f"  {error}")
                continue
            names.append(f"{path.relative_to(source).as_posix()}.png")
            archive.writestr(_member(names[-1]), encoded)
        if bad:
            raise UserError(
                f"{len(bad)} of {len(part)} images of shard {shard} cannot be read; replace them and run this"
                " shard again:\n" + "\n".join(bad)
            )
        manifest = {
            "image_size": size,
            "shard": shard,
            "shards": shards,
            "total": len(listing.paths),
            "classes": listing.classes,
            "images": names,
            "labels": listing.labels[part.start : part.stop].tolist(),
        }
        archive.writestr(_member(MANIFEST), json.dumps(manifest))
    logger.info("shard %d of %d: %d images of %d pixels", shard, shards, len(part), size)


def write_index(inputs: Sequence[Path], output: Path, *, images: int | None = None, classes: int | None = None) -> None:
    """Write the index of shards that lie in the index's folder, in any order.

    The file holds, per image, shard (int32), offset and length in bytes (int64) and label (int32); and the names
    and sizes of the shards, the side of an image and the names of the classes.

    Raises:
        UserError: if a shard is missing, double, damaged, elsewhere, or made from other images; or if there are
            not as many ``images`` and ``classes`` as expected (None expects nothing).
    """
    for path in inputs:
        if path.resolve().parent != output.resolve().parent:
            raise UserError(f"{path}: the shards must lie beside the index {output}")
    shards = sorted(((path, _manifest(path)) for path in inputs), key=lambda entry: entry[1]["shard"])
    _check_complete(shards, output, {"total": images, "classes": classes})
    spans = [span for path, manifest in shards for span in _spans(path, manifest["images"])]
    with atomic_stream(output) as stream:
        np.savez(
            stream,
            shard=np.repeat(np.arange(len(shards), dtype=np.int32), [len(entry["images"]) for _, entry in shards]),
            offset=np.array([offset for offset, _ in spans], np.int64),
            length=np.array([length for _, length in spans], np.int64),
            label=np.array([label for _, manifest in shards for label in manifest["labels"]], np.int32),
            shards=np.array([path.name for path, _ in shards]),
            shard_bytes=np.array([path.stat().st_size for path, _ in shards], np.int64),
            image_size=np.int64(shards[0][1]["image_size"]),
            classes=np.array(shards[0][1]["classes"]),
        )
    logger.info("%s: %d images in %d shards", output, len(spans), len(shards))


def index_folder(
    source: Path, size: int, output: Path, *, images: int | None = None, classes: int | None = None
) -> None:
    """Write the index of an ImageFolder whose images are cropped to ``size`` when they are read.

    They have the order, and the labels, that prepared ones have. Files are not opened: one that cannot be decoded is
    noticed when it is read.

    Raises:
        UserError: if there is no such folder, or not as many ``images`` and ``classes`` as expected.
    """
    listing = _listed(source, images, classes)
    write_folder_index(source, listing.paths, listing.labels, listing.classes, size, output)
    logger.info("%s: %d images of %s", output, len(listing.paths), source)


def _listed(source: Path, images: int | None, classes: int | None) -> Listing:
    """List an ImageFolder and refuse unexpected numbers; of classes first, because one that lacks takes its images."""
    listing = list_folder(source)
    names = f"classes ({listing.classes[0]} to {listing.classes[-1]})"
    for name, found, wanted in ((names, len(listing.classes), classes), ("images", len(listing.paths), images)):
        if wanted is not None and found != wanted:
            raise UserError(
                f"{source}: holds {found} {name}, but the configuration says {wanted}; correct the configuration, or"
                " give the right images"
            )
    return listing


def _check_complete(shards: list[tuple[Path, Manifest]], output: Path, expected: dict[str, int | None]) -> None:
    """Refuse shards that are not exactly the parts of one set of images, or that hold unexpectedly many."""
    if not shards:
        raise UserError("no shards given; write them with `python -m dsr.commands.prepare shard`")
    first_path, first = shards[0]
    for path, manifest in shards:
        for key in ("image_size", "shards", "total", "classes"):
            if manifest[key] != first[key]:
                raise UserError(
                    f"{path}: its {key} differs from that of {first_path}; prepare both from the same images"
                )
    numbers = [manifest["shard"] for _, manifest in shards]
    if numbers != list(range(first["shards"])):
        raise UserError(f"{output}: expected each of the shards 0 to {first['shards'] - 1} once, given {numbers}")
    for name, found, wanted in (
        ("images", first["total"], expected["total"]),
        ("classes", len(first["classes"]), expected["classes"]),
    ):
        if wanted is not None and found != wanted:
            raise UserError(
                f"{output}: the shards hold {found} {name}, but the configuration says {wanted}; correct the"
                " configuration, or prepare the right images"
            )


def _member(name: str) -> zipfile.ZipInfo:
    """Describe a member without the time and the system, which would make equal shards differ."""
    member = zipfile.ZipInfo(name, _TIMESTAMP)
    member.create_system = 3
    member.external_attr = 0o644 << 16
    return member


def _manifest(path: Path) -> Manifest:
    try:
        with zipfile.ZipFile(path) as archive:
            manifest: Manifest = json.loads(archive.read(MANIFEST))
            return manifest
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; write it with `python -m dsr.commands.prepare shard`") from None
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not a shard of prepared images ({error}); delete it and prepare it again") from None


def _spans(path: Path, names: Sequence[str]) -> list[tuple[int, int]]:
    """Return (offset, length) of the stored bytes of members, which start after each member's own header."""
    with zipfile.ZipFile(path) as archive, path.open("rb") as stream:
        spans = []
        for name in names:
            member = archive.getinfo(name)
            stream.seek(member.header_offset)
            lengths = _LOCAL_HEADER.unpack(stream.read(_LOCAL_HEADER.size))
            spans.append((member.header_offset + _LOCAL_HEADER.size + sum(lengths), member.file_size))
        return spans
