"""Choose the guidance with the lowest FID among those that a sweep tried."""

from pathlib import Path

from dsr.base.command import command
from dsr.base.errors import UserError
from dsr.base.files import read_json, write_json
from dsr.config.sampling import Sweep
from dsr.config.specs import require


def choose(sweep: Sweep, metrics: tuple[Path, ...], chosen: Path, others: Path) -> None:
    """Choose the guidance with the lowest FID among those that a sweep tried; of equal ones the weaker guidance.

    Args:
        sweep: the search.
        metrics: metrics files of what it tries, in the order of the sweep.
        chosen: JSON file to write: the chosen guidance.
        others: JSON file to write: everything that was tried and its scores, the best first.

    Raises:
        UserError: if there are not as many files, or one is of another number of images or guidance.
    """
    if len(metrics) != len(sweep.candidates):
        raise UserError(f"{len(metrics)} metrics files of {len(sweep.candidates)} candidates: all are needed to choose")
    attempts = []
    for (name, guidance), path in zip(sweep.candidates.items(), metrics, strict=True):
        found = read_json(path)
        if found["images"] != sweep.images:
            raise UserError(
                f"{path}: {found['images']} images, expected sweep.images ({sweep.images}); FIDs of different"
                " numbers of images must not be compared: sample and evaluate it again"
            )
        require(path, found["guidance"], guidance)
        scores = {key: found[key] for key in ("fid", "inception_score", "images")}
        attempts.append({"name": name, "guidance": guidance.model_dump(mode="json"), **scores})
    attempts.sort(key=lambda attempt: (attempt["fid"], attempt["guidance"]["scale"]))
    write_json(others, attempts)
    write_json(chosen, attempts[0]["guidance"])


if __name__ == "__main__":
    command(choose)()
