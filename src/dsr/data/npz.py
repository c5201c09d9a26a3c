"""Sets of images as one `arr_0` inside an npz, written and read in batches: memory stays flat at any count."""

import contextlib
import json
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from dsr.base import files
from dsr.base.errors import UserError
from dsr.base.files import MEMBER

IMAGES_KEY = "arr_0"
"""Name of the images in the archive; NumPy's for the first unnamed array."""


def write_images(path: Path, batches: Iterable[npt.NDArray[np.uint8]], count: int, shape: tuple[int, int, int]) -> None:
    """Write uint8 batches (n, *shape) as the uncompressed `arr_0` of ``path``, atomically; equal images, equal bytes.

    Raises:
        ValueError: if a batch is not uint8 (n, *shape), or the batches do not hold exactly ``count`` images.
    """
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)}
    written = 0
    with (
        files.atomic(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive,
        archive.open(zipfile.ZipInfo(f"{IMAGES_KEY}.npy"), "w", force_zip64=True) as output,
    ):
        np.lib.format.write_array_header_1_0(output, header)  # type: ignore[no-untyped-call]
        for batch in batches:
            if batch.dtype != np.uint8 or batch.shape[1:] != shape:
                raise ValueError(f"{path}: got {batch.dtype} images {batch.shape[1:]}, expected uint8 {shape}")
            written += len(batch)
            output.write(np.ascontiguousarray(batch).data)
        if written != count:
            raise ValueError(f"{path}: expected {count} images, the batches hold {written}")


def write_arrays(
    path: Path, arrays: Mapping[str, Any], record: Mapping[str, Any] | None = None, *, compress: bool = False
) -> None:
    """Write arrays as an npz, atomically, with a record of how they were made (`dsr.base.files`) if there is one.

    Equal content gives equal bytes. NumPy's own function leaves its archive open when a disk is full.
    """
    method = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with files.atomic(path) as temporary, zipfile.ZipFile(temporary, "w", method) as archive:
        for name, values in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(  # type: ignore[no-untyped-call]
                    member, np.asarray(values), allow_pickle=False
                )
        if record is not None:
            with archive.open(MEMBER, "w") as member:
                member.write(json.dumps(record, sort_keys=True).encode())


@dataclass(frozen=True)
class Header:
    """What an `.npy` member announces."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    fortran_order: bool


def keys(path: Path) -> list[str]:
    """Return the names of the arrays in an npz.

    Raises:
        UserError: if the file is missing, a folder, empty, truncated or not an npz.
    """
    with _opened(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def read_header(path: Path) -> Header:
    """Return shape and dtype of the images without reading them."""
    with _images(path) as (header, _):
        return header


def read_array(path: Path, key: str) -> npt.NDArray[Any]:
    """Read one (small) array of an npz whole."""
    with _opened(path), np.load(path, allow_pickle=False) as arrays:
        return np.asarray(arrays[key])


def read_images(path: Path, batch: int = 64) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield the images of ``path``, which are uint8 in C order, as (n, H, W, C) with n <= batch; stored or deflated.

    Raises:
        UserError: if the data is shorter or longer than its header says, or fails its checksum.
    """
    with _images(path) as (header, stream):
        count, shape = header.shape[0], header.shape[1:]
        size = int(np.prod(shape, dtype=np.int64))
        for start in range(0, count, batch):
            rows = min(batch, count - start)
            data = stream.read(rows * size)
            if len(data) < rows * size:
                raise UserError(
                    f"{path}: the header announces {count} images, the data ends within image "
                    f"{start + len(data) // size}; make the file again"
                )
            yield np.frombuffer(data, np.uint8).reshape(rows, *shape)
        # Reading to the end is also what makes zipfile compare the checksum.
        if stream.read(1):
            raise UserError(f"{path}: there is data after the {count} images of the header; make the file again")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open an npz; whatever is wrong with its bytes until it is closed is a UserError."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder, expected an npz file") from None
    except UserError:
        raise
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f"{path} ({path.stat().st_size} bytes) is not an npz, or was cut off, or fails its checksum ({error}); copy"
            " or make it again"
        ) from None


@contextlib.contextmanager
def _images(path: Path) -> Iterator[tuple[Header, IO[bytes]]]:
    """Open the images of an npz: what the array announces, and the stream of its values."""
    with _opened(path) as archive:
        if f"{IMAGES_KEY}.npy" not in archive.namelist():
            found = ", ".join(name.removesuffix(".npy") for name in archive.namelist()) or "nothing"
            raise UserError(
                f"{path}: no array {IMAGES_KEY} (found: {found}); save the images as the only, unnamed array of"
                " numpy.savez"
            )
        with archive.open(f"{IMAGES_KEY}.npy") as stream:
            version = np.lib.format.read_magic(stream)  # type: ignore[no-untyped-call]
            if version != (1, 0):
                raise UserError(f"{path}: npy format {version} is not supported; save plain arrays with numpy.savez")
            shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)  # type: ignore[no-untyped-call]
            yield Header(shape, dtype, fortran_order), stream
