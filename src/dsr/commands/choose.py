"""Choose the guidance setting with the lowest FID among those that a sweep tried."""

from __future__ import annotations

import argparse
from pathlib import Path

from dsr.base.files import write_json
from dsr.base.logs import command
from dsr.commands.keyed import keyed_paths
from dsr.config.sampling import Sweep
from dsr.sampling.choose import tried


@command
def main() -> None:
    """Write the chosen setting, and all that were tried, the best first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", required=True, help="Sweep as JSON")
    parser.add_argument("--metrics", nargs="+", required=True, metavar="SETTING=PATH", help="metrics of every setting")
    parser.add_argument("--chosen", type=Path, required=True, help="JSON file to write: the chosen setting")
    parser.add_argument("--tried", type=Path, required=True, help="JSON file to write: all settings and their scores")
    arguments = parser.parse_args()
    attempts = tried(Sweep.model_validate_json(arguments.spec), keyed_paths(arguments.metrics))
    write_json(arguments.tried, [attempt._asdict() | {"guidance": attempt.setting()} for attempt in attempts])
    write_json(arguments.chosen, attempts[0].setting())


if __name__ == "__main__":
    main()
