"""The record that the sampler writes beside its images, and what it must say about them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ValidationError

from dsr.base.errors import UserError
from dsr.config.base import Positive


class _Model(BaseModel):
    classes: Positive


class _Spec(BaseModel):
    model: _Model
    seed: int


class Record(BaseModel):
    """What the evaluation reads of the record."""

    pixels_sha256: str
    labels_sha256: str
    spec: _Spec

    @classmethod
    def read(cls, path: Path) -> Record:
        """Read a record.

        Raises:
            UserError: if the file is damaged or something else.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            problem = f"{place}: {first['msg']}" if place else first["msg"]
            raise UserError(
                f"{path}: not the sampler's record of the images beside it ({problem}); sample again, or move it away "
                "to score images of your own"
            ) from None


def check_record(samples: Path, images: int, pixels_sha256: str) -> None:
    """Compare ``images`` samples with the record beside them; files of other origin have none.

    Raises:
        UserError: if the record is of other images, or their classes are not the sampler's balanced ones.
    """
    path = samples.with_suffix(".json")
    if not path.is_file():
        return
    record = Record.read(path)
    if record.pixels_sha256 != pixels_sha256:
        raise UserError(
            f"{samples}: not the images that {path.name} beside it describes (pixels_sha256); one of the two was "
            "replaced: sample again, or move the record away to score images of your own"
        )
    classes, seed = record.spec.model.classes, record.spec.seed
    if images % classes:
        raise UserError(f"{samples}: {images} images cannot be balanced over {classes} classes; sample a multiple")
    labels = balanced_labels(classes, images, seed)
    if record.labels_sha256 != hashlib.sha256(labels.astype("<i8").tobytes()).hexdigest():
        raise UserError(
            f"{path}: its labels_sha256 is not that of {classes} classes balanced over {images} images with seed "
            f"{seed}; sample again"
        )


def balanced_labels(classes: int, images: int, seed: int) -> npt.NDArray[np.int64]:
    """Return the labels of :func:`dsr.sampling.labels.balanced_labels`, int64 (images,).

    Draw for draw PyTorch's permutation, without PyTorch, which the evaluator's environment does not have.
    """
    generator = np.random.RandomState(seed & 0xFFFFFFFF)
    order = list(range(images))
    for place, draw in enumerate(generator.randint(0, 2**32, images - 1, dtype=np.uint32).tolist()):
        other = place + draw % (images - place)
        order[place], order[other] = order[other], order[place]
    return np.repeat(np.arange(classes, dtype=np.int64), images // classes)[order]
