"""Finished parts of a set of sampled images, so that an interrupted job goes on where it stopped."""

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from dsr.base import tensors
from dsr.base.errors import UserError
from dsr.base.files import read_record

log = logging.getLogger(__name__)

Images = npt.NDArray[np.uint8]

LARGEST = 500
"""Images in a shard at most: minutes of work, so an interruption loses no more."""
FEWEST = 16
"""Shards that a small set is split into all the same, for processes to share."""


def split(images: int) -> list[range]:
    """Split ``images`` into shards; the number of processes plays no part, so a resumed job may have another."""
    size = max(1, min(LARGEST, images // FEWEST))
    return [range(start, min(start + size, images)) for start in range(0, images, size)]


class Shards:
    """The shards of one set of images in ``folder``.

    ``origin`` names everything that determines the images; it is stored in every shard, and a shard of another
    origin is stale. ``shape`` is (H, W, 3).
    """

    def __init__(self, folder: Path, origin: Mapping[str, str], images: int, shape: tuple[int, int, int]) -> None:
        self.parts = split(images)
        self._folder, self._origin, self._shape = folder, dict(origin), shape

    def path(self, number: int) -> Path:
        """Return the file of shard ``number``."""
        return self._folder / f"shard-{number:05d}.safetensors"

    def done(self) -> int:
        """Count the images of the shards whose files exist."""
        return sum(len(part) for number, part in enumerate(self.parts) if self.path(number).exists())

    def write(self, number: int, images: Images) -> None:
        """Write shard ``number``, uint8 (n, H, W, 3), atomically."""
        about = {"origin": self._origin, "sha256": _digest(images)}
        tensors.write(self.path(number), {"images": torch.from_numpy(images)}, about)

    def read(self, number: int) -> Images:
        """Read the images of shard ``number``, uint8 (n, H, W, 3)."""
        return tensors.read(self.path(number))["images"].numpy()

    def verify_or_delete(self, number: int) -> bool:
        """Return whether shard ``number`` is complete; one that is damaged or of another origin is removed."""
        path = self.path(number)
        if not path.exists():
            return False
        if problem := self._problem(number):
            log.warning("%s %s; removed, and sampled again", path, problem)
            path.unlink()
        return not problem

    def remove_leftovers(self) -> None:
        """Remove shards beyond this set, and temporary files of a killed process."""
        known = {self.path(number) for number in range(len(self.parts))}
        for path in [*self._folder.glob("shard-*.safetensors"), *self._folder.glob(".shard-*")]:
            if path not in known:
                log.info("%s is left over from another job; removed", path)
                path.unlink()

    def remove(self) -> None:
        """Remove all shards, and the folder if nothing else is in it."""
        for number in range(len(self.parts)):
            self.path(number).unlink(missing_ok=True)
        if self._folder.is_dir() and not any(self._folder.iterdir()):
            self._folder.rmdir()

    def _problem(self, number: int) -> str:
        """Return what is wrong with a shard's file ('' if nothing is)."""
        try:
            about, images = read_record(self.path(number)), self.read(number)
        except UserError as error:
            return f"is damaged ({error})"
        if others := [key for key in self._origin if about["origin"].get(key) != self._origin[key]]:
            return f"was sampled with another {' and another '.join(others)}"
        if images.shape != (len(self.parts[number]), *self._shape) or images.dtype != np.uint8:
            return f"holds {images.dtype} {images.shape}, which is not this shard"
        return "" if _digest(images) == about["sha256"] else "is damaged (its pixels fail their checksum)"


def _digest(images: Images) -> str:
    return hashlib.sha256(np.ascontiguousarray(images).data).hexdigest()
