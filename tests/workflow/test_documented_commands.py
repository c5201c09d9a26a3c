"""The commands of README.md and docs can be typed in as they stand there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from string import Template

from snakemake.cli import get_argument_parser

from .conftest import ROOT, Checkout, job_counts

PLACEHOLDER = re.compile(r"[{<]|\.\.\.")
DRY = ("-n", "--dry-run")
OWN_FILES = dict.fromkeys(("four-gpus.yaml", "my-images.yaml", "overlay.yaml"), "execution: {processes: 4}")
DSR = "{encoder: siglip2-b, ttr: single, denoiser: dit-xl, registers: 36, recipe: dit}"
OWN_FILES["flowers.yaml"] = f"{{results: results/flowers, evaluation: {{epochs: [60, 2223]}}, rows: {{dsr: {DSR}}}}}"
"""Configuration files that documents let users write, and what they hold here."""
NEVER_DRY = {"--unlock", "--conda-create-envs-only", "--report"}


def documents() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(text: str) -> Iterator[tuple[str, ...]]:
    """Arguments of every Snakemake command, in the bash blocks and between backticks, as a shell would split them."""
    for line in re.findall(r"`(snakemake [^`]+)`", text):
        if not PLACEHOLDER.search(line):
            yield tuple(shlex.split(line)[1:])
    for block in re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        variables: dict[str, str] = {}
        for line in block.splitlines():
            if assignment := re.fullmatch(r"(\w+)=(\S+)", line):
                variables[assignment[1]] = assignment[2]
            if line.startswith("snakemake ") and not PLACEHOLDER.search(line):
                line = Template(line.partition(" > ")[0]).substitute(variables)
                yield tuple(shlex.split(line, comments=True)[1:])


def test_every_command_can_be_planned(fresh: Checkout) -> None:
    found = {
        tuple(argument for argument in command if argument not in DRY)
        for document in documents()
        for command in commands(document.read_text(encoding="utf-8"))
        if not NEVER_DRY & {*command}
    }
    assert ("--profile", "slurm", "results/table1.md") in found
    for name, content in OWN_FILES.items():
        (fresh.folder / name).write_text(content, encoding="utf-8")
    # Targets of equal options in one plan.
    plans: dict[tuple[str, ...], set[str]] = {}
    for command in found:
        options, targets = parted(command)
        plans.setdefault(options, set()).update(targets)
    assert "results/table1.md" in plans["--profile", "slurm"]
    runs = {options: fresh.snakemake("-n", *sorted(targets), *options) for options, targets in plans.items()}
    failed = {options: run.stdout[-500:] for options, run in runs.items() if run.returncode}
    assert not failed
    assert job_counts(runs["--profile", "slurm"].stdout)["train"] == 18


def parted(command: tuple[str, ...]) -> tuple[tuple[str, ...], list[str]]:
    """Options and targets of a command; how many cores it has changes no plan."""
    targets = get_argument_parser().parse_args(command).targets
    options = list(command)
    if "--cores" in options:
        del options[(place := options.index("--cores")) : place + 2]
    return tuple(option for option in options if option not in targets), targets or ["all"]


def test_every_path_exists() -> None:
    folders = "src|rules|docs|tests|profiles|envs|slurm|examples|benchmarks|launch"
    missing = []
    for document in documents():
        text = document.read_text(encoding="utf-8")
        links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
        named = re.findall(rf"`((?:{folders})/[\w./-]+)`", text)
        paths = [document.parent / link for link in links] + [ROOT / name for name in named]
        missing += [f"{document.name}: {path}" for path in paths if not path.exists()]
    assert not missing
