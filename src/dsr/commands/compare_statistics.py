"""Compare the released latent statistics of an encoder with computed ones."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from dsr.base.files import write_json, write_text
from dsr.base.logs import command
from dsr.config.specs import EncoderSpec
from dsr.encoder.compare_statistics import compare, markdown


@command
def main() -> None:
    """Write the differences as JSON and as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", required=True, help="EncoderSpec as JSON")
    parser.add_argument("--title", required=True, help="encoder and test-time registers, for the heading")
    parser.add_argument("--released", type=Path, required=True, help="statistics of the release")
    parser.add_argument("--computed", type=Path, required=True, help="statistics of `dsr.commands.statistics`")
    parser.add_argument("--json", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--markdown", type=Path, required=True, help="Markdown file to write")
    arguments = parser.parse_args()
    spec = EncoderSpec.model_validate_json(arguments.spec)
    comparison = compare(arguments.released, arguments.computed, spec.latent_shape)
    write_json(arguments.json, asdict(comparison))
    write_text(arguments.markdown, markdown(comparison, arguments.title))


if __name__ == "__main__":
    main()
