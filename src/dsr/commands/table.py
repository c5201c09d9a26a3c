"""Write a table: published, measured and the difference, for every row, epoch and guidance setting."""

from __future__ import annotations

import argparse
from pathlib import Path

from dsr.base.files import write_text
from dsr.base.logs import command
from dsr.commands.keyed import keyed_paths
from dsr.report.page import page
from dsr.report.published import Published
from dsr.report.render import latex, markdown
from dsr.report.specs import TableSpec
from dsr.report.table import Entry, collect
from dsr.report.variants import Variant, read_fids, with_variants


@command
def main() -> None:
    """Collect metrics and costs, and write the table in the formats asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", required=True, help="TableSpec as JSON")
    parser.add_argument(
        "--metrics",
        nargs="*",
        default=[],
        metavar="ROW:EPOCH[:GUIDANCE]=PATH",
        help="metrics files; one that does not exist is shown as not run",
    )
    parser.add_argument("--cost", nargs="*", default=[], metavar="ROW=PATH", help="files of `dsr.commands.cost`")
    parser.add_argument(
        "--variants",
        nargs="*",
        default=[],
        metavar="ROW:EPOCH:GUIDANCE:REFERENCE:SEED=PATH",
        help="metrics files of several sampling seeds or references; one that does not exist is left out",
    )
    parser.add_argument(
        "--chosen",
        nargs="*",
        default=[],
        metavar="ROW:EPOCH:GUIDANCE=PATH",
        help="guidance settings that sweeps chose; one that does not exist is left out",
    )
    parser.add_argument("--published", type=Path, help="published values (default: those of the package)")
    parser.add_argument("--markdown", type=Path, required=True, help="Markdown file to write")
    parser.add_argument("--csv", type=Path, required=True, help="CSV file to write, with more columns")
    parser.add_argument("--html", type=Path, help="page of its own to write")
    parser.add_argument("--latex", type=Path, help="LaTeX file to write")
    arguments = parser.parse_args()

    spec, published = TableSpec.model_validate_json(arguments.spec), Published.read(arguments.published)
    metrics, chosen = (
        {Entry.parse(key): path for key, path in keyed_paths(given).items()}
        for given in (arguments.metrics, arguments.chosen)
    )
    frame = collect(spec, metrics, keyed_paths(arguments.cost), published, chosen)
    fids = read_fids({Variant.parse(key): path for key, path in keyed_paths(arguments.variants).items()})
    text = markdown(spec, frame, published, fids)
    write_text(arguments.markdown, text)
    write_text(arguments.csv, with_variants(spec, frame, fids).to_csv(index=False, float_format="%.6g"))
    if arguments.html:
        write_text(arguments.html, page(text))
    if arguments.latex:
        write_text(arguments.latex, latex(spec, frame, published, fids))


if __name__ == "__main__":
    main()
