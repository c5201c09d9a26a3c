# Where the files of every row are, for `make status`: written when a run starts, read while it goes. Snakemake itself
# locks the folder then, and could only be asked with --nolock.
import socket

from dsr.base.errors import UserError
from dsr.base.files import write_text
from dsr.launch.slurm import check_submission
from dsr.plan.status import Failures, RowFiles, Score, StatusSpec, failed
from dsr.report.published import expected

FAILURES = Path(CONFIG.results, "failures.json").absolute()
# For the first page of the report; jobs, which read this file too, need no logs of others.
config["failed"] = failed(FAILURES, Path.cwd()) if workflow.is_main_process else ""


def in_full(path):
    """Absolute path of a file of the workflow."""
    return str(Path(in_results(path)).absolute())


def row_files(row):
    """Files that say where a row stands."""
    spec = CONFIG.train(row) if row in TRAINED else None
    scores = [
        Score(
            path=in_full(str(one.metrics)),
            epoch=one.epoch,
            spec=spec_hash(one.asked(CONFIG)[one.metrics]),
            expected=expected(CONFIG, row, one.epoch) if one.guidance == UNGUIDED else None,
        )
        for one in reported([row], **FIRST)
    ]
    weights = "<results>/rows/{}/epoch-{}/ema.safetensors"
    return RowFiles(
        run=in_full(state_folder(row)) if spec else None,
        images_per_epoch=spec.steps_per_epoch * spec.recipe.batch if spec else None,
        weights={epoch: in_full(weights.format(row, epoch)) for epoch in CONFIG.epochs(row)},
        scores=tuple(scores),
    )


onstart:
    try:
        check_submission(workflow)
    except UserError as error:
        raise WorkflowError(str(error)) from None
    dag = workflow.dag
    names = {dag.jobid(job): " ".join([job.rule.name, *job.wildcards_dict.values()]) for job in dag.jobs}
    logger.addHandler(Failures(FAILURES, names))
    write_text(
        Path(CONFIG.results, "status.json"),
        StatusSpec(
            title=CONFIG.name,
            folder=str(Path.cwd()),
            host=socket.gethostname(),
            pid=os.getpid(),
            log=" ".join(map(str, log)),
            failures=str(FAILURES),
            rows={row: row_files(row) for row in CONFIG.rows},
        ).model_dump_json(indent=2),
    )
