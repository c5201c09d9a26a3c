"""Say what a configuration costs before anything is run: time, GPU-hours, downloads."""

from pathlib import Path

from dsr.artifacts import manifest
from dsr.base.command import command
from dsr.base.files import write_text
from dsr.config.load import Config
from dsr.plan import throughput
from dsr.plan.costs import markdown


@command
def main(spec: Config, output: Path, measured: Path | None = None) -> None:
    """Write the plan as Markdown.

    Args:
        spec: the whole configuration.
        output: Markdown file to write.
        measured: what a rehearsal measured on this cluster; used before what comes with the package.
    """
    write_text(output, markdown(spec, manifest.load(), throughput.known(measured)))


if __name__ == "__main__":
    main()
