"""Score several sets of images against the same reference images, one after the other; starting takes longer than that
where they are small."""

from pathlib import Path

from dsr.base.command import command
from dsr.base.files import write_json
from dsr.config.specs import EvaluateSpec
from dsr.evaluation.evaluate import Job, evaluate


@command
def main(
    samples: tuple[Path, ...],
    spec: tuple[EvaluateSpec, ...],
    output: tuple[Path, ...],
    reference: Path,
    graph: Path,
    cache: Path | None = None,
    threads: int = 1,
) -> None:
    """Score several sets of images against the same reference images.

    Args:
        samples: npz of each set.
        spec: what each set's own record must say.
        output: JSON file to write of each set.
        reference: npz of the reference images.
        graph: frozen Inception graph.
        cache: folder for what depends on one set of images alone.
        threads: CPU threads.
    """
    for one, asked, path in zip(samples, spec, output, strict=True):
        write_json(path, evaluate(Job(one, reference, graph, cache, threads, keep=True), asked))


if __name__ == "__main__":
    main()
