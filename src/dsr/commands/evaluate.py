"""Score samples against reference images: FID, sFID, Inception Score, Precision and Recall (ADM protocol)."""

from pathlib import Path

from dsr.base.command import command
from dsr.base.files import write_json
from dsr.config.specs import EvaluateSpec
from dsr.evaluation.evaluate import Job, evaluate


@command
def main(job: Job, output: Path, spec: EvaluateSpec = EvaluateSpec()) -> None:  # noqa: B008 (it is frozen)
    """Score samples against reference images: FID, sFID, Inception Score, Precision and Recall (ADM protocol).

    Args:
        output: JSON file to write.
        spec: what the samples' own record must say; by default anything.
    """
    write_json(output, evaluate(job, spec))


if __name__ == "__main__":
    main()
