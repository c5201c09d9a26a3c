# Everything that the rules share: the checked configuration, wildcard constraints, input functions.
import functools
import json
import shlex
import time
from pathlib import Path

import yaml
from snakemake.common.configfile import load_configfile
from snakemake.exceptions import WorkflowError

from dsr.base.errors import UserError
from dsr.base.files import read_record, write_text
from dsr.config.load import load
from dsr.config.specs import differing_keys, spec_hash, spec_json

# Snakemake puts what an overlay changes first; tables and figures show rows in the order of config.yaml.
with open(workflow.source_path("../config.yaml"), encoding="utf-8") as stream:
    BASE = yaml.safe_load(stream)
config["rows"] = {name: config["rows"][name] for name in BASE["rows"]} | config["rows"]

try:
    CONFIG = load(config)
except UserError as error:
    raise WorkflowError(str(error)) from None


def overlay_rows(table):
    """Rows of the overlay of one of the tables; none without one."""
    overlay = CONFIG.tables[table].overlay
    path = overlay and Path(workflow.basedir, overlay)
    try:
        return load_configfile(path).get("rows", {}) if path else {}
    except (OSError, ValueError, WorkflowError) as error:
        raise WorkflowError(f"tables.{table}.overlay: {path}: {error}") from None


# The folder of a rehearsal holds made images and weights, which no result may be made of.
REHEARSAL = CONFIG.data.source == "made"
PAPER = BASE["results"]
MADE = Path(CONFIG.results, "data/raw/REHEARSAL")
if MADE.exists() is not REHEARSAL and (MADE.exists() or MADE.with_name("train.json").exists()):
    what = f"a rehearsal and no results ({MADE})" if MADE.exists() else f"other images than a rehearsal's (no {MADE})"
    raise WorkflowError(f"results: {CONFIG.results} holds {what}; name another folder")

EXECUTION = CONFIG.execution
EPOCHS = CONFIG.evaluation.epochs
TRAINED = [name for name, row in CONFIG.rows.items() if row.recipe]
FETCHED = [name for name, row in CONFIG.rows.items() if row.fetched]
STARTED = [name for name in TRAINED if CONFIG.rows[name].weights]

# Both environments run the package from this checkout, and nothing from ~/.local. Where TensorFlow is installed beside
# PyTorch, transformers would import it in every job for nothing. What PyTorch's compiler and Triton make is kept for the
# next job and start.
# A SLURM job that obeys the SIGTERM of a preemption has failed; one that stays until it is killed is requeued.
shell.prefix(
    "[ -z \"${{SLURM_STEP_ID:-}}\" ] || trap '' TERM;"
    f" export PYTHONPATH={shlex.quote(str(Path(workflow.basedir) / 'src'))} PYTHONNOUSERSITE=1 USE_TF=0"
    f" TORCHINDUCTOR_CACHE_DIR={shlex.quote(str(Path(CONFIG.results, 'cache/inductor').absolute()))}"
    f" TRITON_CACHE_DIR={shlex.quote(str(Path(CONFIG.results, 'cache/triton').absolute()))}; "
)


pathvars:
    results=CONFIG.results,
    logs=f"{CONFIG.results}/logs",
    benchmarks=f"{CONFIG.results}/benchmarks",


def one_of(names):
    """Regular expression for exactly these names (for none of them, one that never matches)."""
    return "|".join(map(re.escape, names)) or "(?!)"


wildcard_constraints:
    row=one_of(CONFIG.rows),
    encoder=one_of(CONFIG.encoders),
    ttr="none|single|recursive",
    epoch=r"\d+",
    split="train|validation",
    shard=r"\d{5}",
    reference="validation|train|adm",


def in_results(path):
    """The path itself, where Snakemake would put it in."""
    return path.replace("<results>", CONFIG.results)


def decoder_of(wildcards):
    """Decoder of a row's latents."""
    return f"<results>/decoders/{CONFIG.rows[wildcards.row].encoder}.safetensors"


def neurons(encoder, ttr):
    """Register-neuron file of an encoder; none without TTR."""
    return [] if ttr == "none" else f"<results>/encoders/{encoder}/neurons-{ttr}.json"


def latent_inputs(wildcards):
    """Files that turn images into the normalised latents of a row, or of an encoder with or without TTR."""
    used = CONFIG.rows.get(wildcards.get("row"), wildcards)
    return {
        "encoder": f"<results>/encoders/{used.encoder}/model.safetensors",
        "neurons": neurons(used.encoder, used.ttr),
        "statistics": f"<results>/latents/{used.encoder}-{used.ttr}.safetensors",
    }


def previous_epoch(wildcards):
    """Weights of the milestone before this one: milestones of a row are trained in a chain.

    Weights that are there do not wait for a milestone that the configuration got later.
    """
    weights = f"<results>/rows/{wildcards.row}/epoch-{{}}/ema.safetensors".format
    earlier = [weights(epoch) for epoch in EPOCHS if epoch < int(wildcards.epoch)]
    if Path(in_results(weights(wildcards.epoch))).exists():
        earlier = [path for path in earlier if Path(in_results(path)).exists()]
    return earlier[-1:]


def asked(output, spec):
    """Input function: the file with the specification that is asked for of `output`, which `spec` makes of wildcards.

    It is newer than an output that records another specification and older than one that records this. So results are
    made anew also where Snakemake's own metadata is gone, and never because settings were changed and changed back.
    """
    types = {"epoch": int, "decay": float}

    def write(wildcards):
        values = {key: types.get(key, str)(text) for key, text in wildcards.items()}
        return write_asked(output.format(**wildcards), spec_json(spec(**values)))

    return write


@functools.cache
def write_asked(output, spec):
    """Write that file and return its name."""
    made = Path(in_results(output))
    file = Path(CONFIG.results, "specs", f"{made.relative_to(CONFIG.results)}.json")
    try:
        recorded = read_record(made).get("spec") if made.exists() else None
    except UserError:
        recorded = None
    differences = None if recorded is None else differing_keys(recorded, json.loads(spec))
    if differences:
        logger.warning(f"{made} has other settings ({'; '.join(differences)})")
    known = file.exists() and file.read_text(encoding="utf-8") == spec
    if differences or not known or (recorded is not None and file.stat().st_mtime):
        # Anew, because nobody but a file's owner may date it back.
        write_text(file, spec)
        os.utime(file, (0, 0) if differences == [] else None)
    return str(file)


def state_folder(row):
    """Folder of a row's training state. It carries the recipe's hash, so another recipe never meets this state."""
    return f"{CONFIG.results}/rows/{row}/run-{spec_hash(CONFIG.train(row))}"


# TERM two minutes before the time limit is the one notice that reaches the trainer, so it belongs to the jobs and not to
# the default resources, which the command line replaces; what a user's say comes after it.
DEFAULTS = workflow.resource_settings.default_resources or {}
OWN_EXTRA = DEFAULTS["slurm_extra"].raw if "slurm_extra" in DEFAULTS else ""
SLURM_EXTRA = " ".join(["--signal=TERM@120 --open-mode=append", *shlex.split(OWN_EXTRA)])


# On one machine, where every job takes the first GPUs, `gpu_jobs` lets one at a time have them (profiles/default). In a
# cluster each job has GPUs of its own, and this counts within a job only.
resource_scopes:
    gpu_jobs="local",


def resources_of(request, nodes=1):
    """What a job asks of a cluster besides CPU cores, as Snakemake's SLURM plugin wants it said."""
    entry = CONFIG.request(request)
    resources = {"mem_mb": entry.mem_mb, "runtime": entry.minutes, "slurm_extra": SLURM_EXTRA}
    if entry.gpus:
        # Without tasks_per_gpu the plugin would ask for all the CPU cores once per GPU.
        gres = entry.gres or f"gpu:{entry.gpus}"
        resources |= {"gres": gres, "tasks_per_gpu": 0, "gpu_jobs": 1}
        if "gpu_partition" in DEFAULTS:
            resources["slurm_partition"] = DEFAULTS["gpu_partition"].raw
    if nodes > 1:
        resources |= {"mpi": "srun", "nodes": nodes, "tasks": nodes}
    return resources


def launch(request, nodes=1):
    """Start of the shell line of a command that runs in several processes, and on several nodes if there are."""
    # A shell between SLURM and the launcher would die of SIGTERM and take the job with it, hence `exec`.
    srun = (
        f"srun --nodes {nodes} --ntasks {nodes} --ntasks-per-node 1 --kill-on-bad-exit=1"
        f" --cpus-per-task {CONFIG.request(request).cpus} "
    )
    return f"exec {srun if nodes > 1 else ''}python -m dsr.commands.launch --processes {EXECUTION.processes}"


# How a job runs is part of its command and not of its params: a change here must rerun nothing.
# Its braces are doubled because Snakemake formats shell lines.
EXECUTION_JSON = spec_json(EXECUTION).replace("{", "{{").replace("}", "}}")
EXECUTION_OPTION = f" --execution {shlex.quote(EXECUTION_JSON)}"


def named_files(wildcards, input):
    """Options of a command: every named input under its name, as far as there is one; of an encoder its folder."""
    files = {name: [given] if isinstance(given, str) else given for name, given in input.items()}
    if files.get("encoder"):
        files["encoder"] = [str(Path(*files["encoder"]).parent)]
    return [part for name in files if files[name] for part in (f"--{name}", *files[name])]


# Encoders as the rows use them, with and without TTR.
ENCODINGS = sorted({(row.encoder, row.ttr) for row in CONFIG.rows.values()})
