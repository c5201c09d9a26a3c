"""What Snakemake's SLURM plugin would refuse or lose without a word, found out before the first job is submitted.

The plugin submits from a thread whose errors nobody sees: Snakemake would wait for ever for jobs that do not exist.
"""

import subprocess
from typing import Any

from dsr.base.errors import UserError
from dsr.base.programs import output_of


def check(workflow: Any) -> None:
    """Do for a job of each rule what the plugin does before it calls sbatch, and look at how SLURM tells of an end."""
    if workflow.executor_plugin.name != "slurm":
        return
    from snakemake_executor_plugin_slurm import get_submit_command, set_gres_string, validate_slurm_extra
    from snakemake_executor_plugin_slurm.job_status_query import get_min_job_age
    from snakemake_interface_common.exceptions import WorkflowError

    settings = workflow.executor_settings
    age, needed = get_min_job_age(), 3 * settings.init_seconds_before_status_checks
    if (age is None or age < needed) and output_of("sacct", "--noheader") is None:
        raise UserError(
            f"SLURM forgets finished jobs after {age} s (MinJobAge), sooner than Snakemake may look ({needed} s), and"
            " sacct does not answer either. Ask the cluster's administrators for one of the two"
        )
    jobs = {job.rule.name: job for job in workflow.dag.needrun_jobs() if not job.is_local}
    for rule, job in jobs.items():
        executor = workflow.scheduler.get_executor(job)
        try:
            validate_slurm_extra(job)
            chosen = {"account": next(executor.get_account_arg(job)), "partition": executor.get_partition_arg(job)}
            about = dict.fromkeys(("run_uuid", "slurm_logfile", "comment_str", "workdir"), "")
            get_submit_command(job, chosen | about, settings=settings)
            set_gres_string(job)
        except (WorkflowError, OSError, subprocess.SubprocessError) as error:
            raise UserError(f"rule {rule} cannot be submitted to SLURM: {error}") from error
