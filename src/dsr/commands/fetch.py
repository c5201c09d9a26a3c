"""Fetch one artifact of the manifest, or check and link to your own copy of it."""

from __future__ import annotations

import argparse
from pathlib import Path

from dsr.artifacts import manifest
from dsr.artifacts.fetch import fetch
from dsr.base.logs import command


@command
def main() -> None:
    """Provide the artifact as the output."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--artifact", required=True, help="id in the manifest")
    parser.add_argument("--output", type=Path, required=True, help="file or folder to publish")
    parser.add_argument("--local", type=Path, help="your own copy: checked and linked to instead of a download")
    parser.add_argument("--lock", type=Path, required=True, help="file with sizes and hashes of the first downloads")
    parser.add_argument(
        "--spec", help="JSON of an EncoderSpec, AutoencoderSpec, ModelSpec or ImageCount: what it is for"
    )
    parser.add_argument("--manifest", type=Path, default=manifest.PACKAGED, help="another manifest")
    arguments = parser.parse_args()
    fetch(
        arguments.artifact,
        arguments.output,
        locked=arguments.lock,
        local=arguments.local,
        specification=arguments.spec,
        listed=arguments.manifest,
    )


if __name__ == "__main__":
    main()
