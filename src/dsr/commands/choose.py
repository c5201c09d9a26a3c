"""Choose the guidance with the lowest FID among those that a sweep tried."""

from __future__ import annotations

from pathlib import Path

from dsr.base.command import command
from dsr.base.files import write_json
from dsr.config.sampling import Sweep
from dsr.sampling.choose import tried


@command
def main(sweep: Sweep, metrics: tuple[Path, ...], chosen: Path, others: Path) -> None:
    """Write the chosen guidance, and all that were tried, the best first.

    Args:
        sweep: the search.
        metrics: metrics files of what it tries, in the order of the sweep.
        chosen: JSON file to write: the chosen guidance.
        others: JSON file to write: everything that was tried and its scores.
    """
    attempts = tried(sweep, metrics)
    write_json(others, attempts)
    write_json(chosen, attempts[0]["guidance"])


if __name__ == "__main__":
    main()
