"""Prepared images: an ImageFolder, cropped and stored losslessly in shards that are made independently.

A shard is an uncompressed zip of PNG files, and its comment says what made it; `unzip` reads it. The index lists where
in which shard the bytes of every image lie, so that training reads an image with one system call.
"""

import hashlib
import itertools
import json
import logging
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import PIL

from dsr.base.errors import UserError
from dsr.base.files import atomic
from dsr.base.randomness import permutation, rank_slice
from dsr.data.images import center_crop, class_names, folder_arrays, list_folder, load_rgb, open_images
from dsr.data.npz import write_arrays, write_images

log = logging.getLogger(__name__)


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
    """Crop one contiguous slice of an ImageFolder's sorted images and write it as a zip file of PNGs.

    The same images give the same bytes, whenever and wherever the shard is made with the same version of Pillow.

    Args:
        source: ImageFolder, one sub-folder of images per class.
        size: Side of the square crops in pixels.
        shard: Number of this slice, from 0.
        shards: Number of slices.
        output: Zip file to write.
        images: Refuse a folder with another number of images.
        classes: Refuse a folder with another number of classes.

    Raises:
        UserError: naming every unreadable image of the slice, or that the slice does not exist; or if the folder
            holds other numbers of images and classes than expected.
    """
    if not 0 <= shard < shards:
        raise UserError(f"--shard {shard}: expected a number from 0 to {shards - 1}")
    listing = list_folder(source, images, classes)
    part = range(len(listing.paths))[rank_slice(len(listing.paths), shard, shards)]
    bad: list[str] = []
    with atomic(output) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for index in part:
            path = listing.paths[index]
            try:
                image = center_crop(load_rgb(path), size)
            except UserError as error:
                bad.append(f"  {error}")
                continue
            # A ZipInfo of its own has no time, which would make equal shards differ.
            member = zipfile.ZipInfo(f"{path.relative_to(source).as_posix()}.png")
            with archive.open(member, "w") as stream:
                image.save(stream, "PNG")
        if bad:
            raise UserError(
                f"{len(bad)} of {len(part)} images of shard {shard} cannot be read; replace them and run this"
                " shard again:\n" + "\n".join(bad)
            )
        # Of which images there are; they are not read for it.
        names = b"\0".join(os.fsencode(path.relative_to(source)) for path in listing.paths)
        about = {"image_size": size, "shard": shard, "shards": shards, "pillow": PIL.__version__}
        archive.comment = json.dumps(about | {"listing": hashlib.sha256(names).hexdigest()[:16]}).encode()
    log.info("shard %d of %d: %d images of %d pixels", shard, shards, len(part), size)


def write_index(inputs: Sequence[Path], output: Path, *, other: Path | None = None) -> None:
    """List where in the shards every image lies.

    The file holds, per image, shard (int32), offset and length in bytes (int64) and label (int32); and the names
    and sizes of the shards, the side of an image, the names of the classes and the version of Pillow.

    Args:
        inputs: All shards, beside the index, in any order.
        output: Npz file to write.
        other: Index of another split, which must have the same classes in the same order where it exists.

    Raises:
        UserError: if a shard is missing, double, damaged, elsewhere, or made from other images or by another Pillow;
            or if the other split has other classes.
    """
    for path in inputs:
        if path.resolve().parent != output.resolve().parent:
            raise UserError(f"{path}: the shards must lie beside the index {output}")
    shards = sorted(((path, *_read(path)) for path in inputs), key=lambda entry: entry[1]["shard"])
    about = _check_complete([(path, about) for path, about, _ in shards], output)
    members = [(number, *member) for number, (*_, found) in enumerate(shards) for member in found]
    numbers, names, offsets, lengths = zip(*members, strict=True)
    classes, labels = np.unique([PurePosixPath(name).parts[0] for name in names], return_inverse=True)
    _check_classes(classes.tolist(), output, other)
    index = {
        "shard": np.array(numbers, np.int32),
        "offset": np.array(offsets, np.int64),
        "length": np.array(lengths, np.int64),
        "label": labels.astype(np.int32),
        "shards": [path.name for path, *_ in shards],
        "shard_bytes": np.array([path.stat().st_size for path, *_ in shards], np.int64),
        "image_size": np.int64(about["image_size"]),
        "classes": classes,
        "pillow": about["pillow"],
    }
    write_arrays(output, index)
    log.info("%s: %d images in %d shards", output, len(members), len(shards))


def index_folder(
    source: Path,
    size: int,
    output: Path,
    *,
    images: int | None = None,
    classes: int | None = None,
    other: Path | None = None,
) -> None:
    """List an ImageFolder whose images are cropped when they are read.

    They have the order, and the labels, that prepared ones have. Files are not opened: one that cannot be decoded is
    noticed when it is read.

    Args:
        source: ImageFolder, one sub-folder of images per class.
        size: Side of the square crops in pixels.
        output: Npz file to write.
        images: Refuse a folder with another number of images.
        classes: Refuse a folder with another number of classes.
        other: Index of another split, which must have the same classes in the same order where it exists.

    Raises:
        UserError: if there is no such folder, or it holds other numbers of images and classes than expected, or other
            classes than the other split.
    """
    source = source.absolute()
    listing = list_folder(source, images, classes)
    _check_classes(listing.classes, source, other)
    write_arrays(output, folder_arrays(source, size, listing))
    log.info("%s: %d images of %s", output, len(listing.paths), source)


def write_reference(images: Path, output: Path, count: int | None = None) -> None:
    """Collect prepared images, or a random choice of them, in their order into one npz that samples are compared with.

    Args:
        images: Index of the prepared images.
        output: Npz file to write.
        count: Images chosen at random, the same ones every time (default: all).
    """
    source = open_images(images)
    count = len(source) if count is None else count
    if not 0 < count <= len(source):
        raise UserError(f"--count {count}: {images} holds {len(source)} images, expected 1..{len(source)}")
    chosen = np.sort(permutation(0, "reference", 0, len(source))[:count])
    size = source.image_size
    write_images(output, (source.read(int(index))[None] for index in chosen), count, (size, size, 3))


def _check_complete(shards: list[tuple[Path, dict[str, Any]]], output: Path) -> dict[str, Any]:
    """Refuse shards that are not exactly the parts of one set of images; return what made the first one."""
    if not shards:
        raise UserError("no shards given; write them with `python -m dsr.commands.prepare shard`")
    first_path, first = shards[0]
    for path, about in shards:
        for key in ("image_size", "shards", "listing", "pillow"):
            if about.get(key) != first.get(key):
                raise UserError(
                    f"{path}: its {key} is {about.get(key)}, but that of {first_path} is {first.get(key)}: the images"
                    " are others or changed in between, or another Pillow, which may round otherwise, cropped them;"
                    " delete both and prepare them again"
                )
    numbers = [about["shard"] for _, about in shards]
    if numbers != list(range(first["shards"])):
        raise UserError(f"{output}: expected each of the shards 0 to {first['shards'] - 1} once, given {numbers}")
    return first


def _check_classes(classes: list[str], place: Path, other: Path | None) -> None:
    """Refuse labels that mean other classes in the index of another split, if there is one."""
    if other is None or not other.exists():
        return
    for label, (ours, theirs) in enumerate(itertools.zip_longest(classes, class_names(other))):
        if ours != theirs:
            raise UserError(
                f"{place}: class {label} is {ours!r}, but {theirs!r} in {other}; name the classes of both splits alike,"
                " or delete that index if it is out of date"
            )


def _read(path: Path) -> tuple[dict[str, Any], list[tuple[str, int, int]]]:
    """Return what made a shard, and of every image name, offset and length of its bytes, which follow a header."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            about: dict[str, Any] = json.loads(archive.comment)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; write it with `python -m dsr.commands.prepare shard`") from None
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not a shard of prepared images ({error}); delete it and prepare it again") from None
    return about, [(one.filename, one.header_offset + len(one.FileHeader()), one.file_size) for one in members]
