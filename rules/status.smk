# Where the files of every row are, for `make status`: written when a run starts, read while it goes. Snakemake itself
# locks the folder then, and could only be asked with --nolock.
from dsr.base.files import write_text
from dsr.plan.status import Milestone, RowFiles, StatusSpec


def row_files(row):
    """Files that say where a row stands."""
    trained = CONFIG.rows[row].recipe is not None
    folder = Path(state_folder(row)).absolute() if trained else None
    spec = CONFIG.train(row) if trained else None
    return RowFiles(
        record=f"{folder}/metrics.jsonl" if trained else None,
        states=f"{folder}/state-*.pt" if trained else None,
        milestones=tuple(
            Milestone(epoch=epoch, weights=in_full(weights_file(row, epoch)))
            for epoch in CONFIG.epochs(row)
        ),
        images_per_epoch=spec.steps_per_epoch * spec.recipe.batch if trained else None,
        batch=spec.recipe.batch if trained else None,
        scores=tuple(map(in_full, files_of(reported([row], **FIRST), "metrics"))),
    )


def weights_file(row, epoch):
    """Weights of a row after an epoch."""
    return f"<results>/rows/{row}/epoch-{epoch}/ema.safetensors"


def in_full(path):
    """Absolute path of a file of the workflow."""
    return str(Path(in_results(path)).absolute())


onstart:
    write_text(
        Path(CONFIG.results, "status.json"),
        StatusSpec(
            title=CONFIG.name,
            folder=str(Path.cwd()),
            rows={row: row_files(row) for row in CONFIG.rows},
        ).model_dump_json(indent=2),
    )
