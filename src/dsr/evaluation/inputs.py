"""Checks of sample and reference files before the network runs: what the official evaluator scores without a word.

Floats in [0, 1], other resolutions, swapped files, sample files that carry statistics or damaged archives all end in
one sentence that says what was found, what was expected and what to do.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dsr.base import files
from dsr.base.errors import UserError
from dsr.data import npz
from dsr.evaluation.frechet import Moments

STATISTICS = ("mu", "sigma", "mu_s", "sigma_s")
"""Means and covariances of the pooled and of the spatial features, as ADM's reference files store them."""

_SHOWN = 5  # indices listed in a message

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageFile:
    """A checked file of images."""

    path: Path
    images: int
    image_size: int
    sha256: str
    constant: tuple[int, ...]
    """Indices of images that are one colour all over, which is what NaN becomes."""

    def record(self) -> dict[str, object]:
        """What the metrics file says about it."""
        return {
            "name": self.path.stem,
            "images": self.images,
            "image_size": self.image_size,
            "sha256": self.sha256,
            "constant_images": len(self.constant),
        }


def check_samples(path: Path, *, expected: int | None, at_least: int) -> ImageFile:
    """Check the samples.

    Raises:
        UserError: if the file is not exactly one `arr_0` of uint8 images, undamaged, and of the expected number.
    """
    present = npz.keys(path)
    if statistics := sorted(set(present) & set(STATISTICS)):
        raise UserError(
            f"{path}: a sample file must not hold statistics ({', '.join(statistics)}): they would be scored instead "
            "of the images; are samples and reference swapped? Otherwise save arr_0 alone"
        )
    header = _check_header(path, at_least)
    if foreign := sorted(set(present) - {npz.IMAGES_KEY}):
        raise UserError(f"{path}: unknown arrays {', '.join(foreign)} beside arr_0; save arr_0 alone")
    if expected is not None and header.shape[0] != expected:
        raise UserError(f"{path}: {header.shape[0]} images, expected {expected}; was sampling cut short?")
    return _scan(path, header)


def check_reference(path: Path, *sets: ImageFile, at_least: int) -> ImageFile:
    """Check the reference images against sets of samples.

    Raises:
        UserError: if it has no undamaged `arr_0` of uint8 images as large as the samples.
    """
    header = _check_header(path, at_least)
    if foreign := sorted(set(npz.keys(path)) - {npz.IMAGES_KEY, *STATISTICS}):
        log.warning("%s: the arrays %s are not used", path, ", ".join(foreign))
    for samples in sets:
        if header.shape[1] != samples.image_size:
            raise UserError(
                f"{path}: reference images are {header.shape[1]} pixels wide, the samples of {samples.path} "
                f"{samples.image_size}; use the reference of the same resolution"
            )
    reference = _scan(path, header)
    for samples in sets:
        if reference.sha256 == samples.sha256:
            log.warning("%s and %s are the same file: the scores will be perfect", path, samples.path)
    return reference


def read_moments(path: Path, mean_key: str, sigma_key: str, width: int) -> Moments | None:
    """Read the stored statistics of features of ``width``; None if the file has none.

    Raises:
        UserError: if only one of the two arrays is there, or they are not of that width.
    """
    present = [key for key in (mean_key, sigma_key) if key in npz.keys(path)]
    if not present:
        return None
    if len(present) == 1:
        raise UserError(f"{path}: {present[0]} without its counterpart; expected both {mean_key} and {sigma_key}")
    mean, sigma = npz.read_array(path, mean_key), npz.read_array(path, sigma_key)
    if mean.dtype.kind != "f" or sigma.dtype.kind != "f" or mean.shape != (width,) or sigma.shape != (width, width):
        raise UserError(
            f"{path}: {mean_key} is {mean.dtype} {mean.shape} and {sigma_key} {sigma.dtype} {sigma.shape}, expected "
            f"floats ({width},) and ({width}, {width}) for this graph"
        )
    return Moments(mean, sigma, f"{path}: {mean_key}, {sigma_key}")


def _check_header(path: Path, at_least: int) -> npz.Header:
    header = npz.read_header(path)
    shape, expected = header.shape, "expected uint8 N x H x W x 3 with values 0..255"
    if header.dtype != np.uint8:
        raise UserError(f"{path}: arr_0 is {header.dtype}, {expected}")
    if len(shape) != 4 or shape[-1] != 3:
        hint = "; move the channels last" if len(shape) == 4 and shape[1] == 3 else ""
        raise UserError(f"{path}: arr_0 is {' x '.join(map(str, shape))}, {expected}{hint}")
    if shape[1] != shape[2] or not shape[1]:
        raise UserError(f"{path}: images of {shape[1]} x {shape[2]} pixels, expected square ones of at least 1 x 1")
    if header.fortran_order:
        raise UserError(f"{path}: arr_0 is in Fortran order; save numpy.ascontiguousarray of it")
    if shape[0] < at_least:
        raise UserError(f"{path}: {shape[0]} images are too few, expected at least {at_least}")
    return header


def _scan(path: Path, header: npz.Header) -> ImageFile:
    """Read all images once: length, checksum, range of values and images of one colour."""
    between, constant, start = False, [], 0
    for batch in npz.read_images(path):
        between = between or bool(((batch > 1) & (batch < 255)).any())
        flat = batch.reshape(len(batch), -1, batch.shape[-1])
        constant += (np.nonzero((flat == flat[:, :1]).all(axis=(1, 2)))[0] + start).tolist()
        start += len(batch)
    if not between:
        raise UserError(
            f"{path}: no value is between 2 and 254, expected 0..255; images in [0, 1] or [-1, 1] must be brought to "
            "0..255 and rounded before they become uint8"
        )
    if constant:
        shown = ", ".join(map(str, constant[:_SHOWN])) + (" ..." if len(constant) > _SHOWN else "")
        log.warning("%s: %d images are one colour all over (%s): did sampling give NaN?", path, len(constant), shown)
    return ImageFile(path, header.shape[0], header.shape[1], files.sha256(path), tuple(constant))
