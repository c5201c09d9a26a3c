"""Score images against reference images: FID, sFID, Inception Score, Precision and Recall (ADM protocol)."""

from dsr.base.command import command
from dsr.evaluation.evaluate import evaluate

main = command(evaluate)

if __name__ == "__main__":
    main()
