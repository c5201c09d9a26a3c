# Sets of images: which there are of every row, and where what is known about each of them lies.
#
# <results>/rows/{row}/epoch-{epoch}/{set}/samples.npz and metrics.json, where {set} is
#   {guidance}-seed{seed}               reported
#   chosen-seed{seed}                   reported, with the guidance setting that a sweep chose
#   sweep/{candidate}                   fewer images, with a setting that the sweep tries
#   ema-{decay}/{guidance}-seed{seed}   of another moving average than the reported one
from dsr.config.sampling import CHOSEN

SWEEP = CONFIG.sampling.sweep
CANDIDATES = SWEEP.candidates if SWEEP else {}
SWEPT = SWEEP.rows if SWEEP else []
FIRST_SEED, *OTHER_SEEDS = CONFIG.sampling.seeds
FIRST_REFERENCE, *OTHER_REFERENCES = CONFIG.evaluation.references
DECAYS = sorted({str(decay) for row in CONFIG.rows for decay in CONFIG.averages(row)})


wildcard_constraints:
    candidate=one_of(CANDIDATES),
    decay=one_of(DECAYS),
    set=(
        rf"(?:ema-(?:{one_of(DECAYS)})/)?(?:{one_of([*CONFIG.sampling.guidance, CHOSEN])})-seed\d+"
        rf"|sweep/(?:{one_of(CANDIDATES)})"
    ),


def final_epoch(row):
    """Epoch at which a row is finished."""
    return CONFIG.epochs(row)[-1]


def settings(row, epoch):
    """Guidance settings of the reported sets of a row at an epoch."""
    swept = row in SWEPT and epoch == final_epoch(row)
    return [*CONFIG.sampling.guidance, *([CHOSEN] if swept else [])]


def of_set(row, epoch, images, name):
    """A file about one set of images."""
    return f"<results>/rows/{row}/epoch-{epoch}/{images}/{name}"


def reported(rows):
    """Sets that tables report, as (row, epoch, guidance setting); the first sampling seed and average of each."""
    return [
        (row, epoch, setting)
        for row in rows
        for epoch in CONFIG.epochs(row)
        for setting in settings(row, epoch)
    ]


def metrics_files(rows):
    """Metrics files of these rows by 'row:epoch:guidance', as tables report them."""
    return {
        f"{row}:{epoch}:{setting}": of_set(
            row, epoch, f"{setting}-seed{FIRST_SEED}", "metrics.json"
        )
        for row, epoch, setting in reported(rows)
    }


def variant_files(rows):
    """Metrics files by 'row:epoch:guidance:reference:seed', if there are several references or sampling seeds."""
    if not OTHER_SEEDS and not OTHER_REFERENCES:
        return {}
    return {
        f"{row}:{epoch}:{setting}:{reference}:{seed}": of_set(
            row, epoch, f"{setting}-seed{seed}", metrics_name(reference)
        )
        for row, epoch, setting in reported(rows)
        for reference in CONFIG.evaluation.references
        for seed in CONFIG.sampling.seeds
    }


def metrics_name(reference):
    """Name of the metrics file of a set against one reference."""
    return (
        "metrics.json" if reference == FIRST_REFERENCE else f"metrics-{reference}.json"
    )


def chosen_files(rows):
    """Chosen guidance settings by 'row:epoch:guidance'."""
    return {
        f"{row}:{epoch}:{setting}": f"<results>/rows/{row}/epoch-{epoch}/guidance.json"
        for row, epoch, setting in reported(rows)
        if setting == CHOSEN
    }


def average_files(row):
    """Unguided metrics files of a row by 'row:epoch:decay', for every moving average."""
    first, *others = CONFIG.averages(row)
    images = f"unguided-seed{FIRST_SEED}"
    folders = {first: images} | {decay: f"ema-{decay}/{images}" for decay in others}
    return {
        f"{row}:{epoch}:{decay}": of_set(row, epoch, folder, "metrics.json")
        for epoch in CONFIG.epochs(row)
        for decay, folder in folders.items()
    }


def all_sets(row, epoch):
    """Every set of images of a row at an epoch: seeds, moving averages, and what the sweep tries."""
    names = settings(row, epoch)
    sets = [f"{name}-seed{seed}" for name in names for seed in CONFIG.sampling.seeds]
    sets += [
        f"ema-{decay}/unguided-seed{FIRST_SEED}" for decay in CONFIG.averages(row)[1:]
    ]
    return sets + [f"sweep/{name}" for name in CANDIDATES if CHOSEN in names]


def in_results(path):
    """The path itself, where Snakemake would put it in."""
    return path.replace("<results>", CONFIG.results)


def keyed(names, paths):
    """Arguments 'name=path', in order."""
    return " ".join(f"{name}={path}" for name, path in zip(names, paths, strict=True))


def keyed_files(files):
    """Arguments 'name=path' of planned files."""
    return keyed(files, map(in_results, files.values()))


def sample_spec(wildcards):
    """Everything but the weights that determines the images of a reported set, as JSON."""
    return spec_json(
        CONFIG.sample(wildcards.row, wildcards.guidance, int(wildcards.seed))
    )


def candidate_spec(wildcards):
    """The same of a set with a guidance setting that the sweep tries."""
    return spec_json(
        CONFIG.sample(
            wildcards.row, CANDIDATES[wildcards.candidate], SWEEP.seed, SWEEP.images
        )
    )


def guided_spec(wildcards):
    """The same of a set whose guidance is in a file."""
    return spec_json(CONFIG.sample(wildcards.row, "unguided", int(wildcards.seed)))


def sample_inputs(wildcards, decay="", guidance=()):
    """Files that a set of images is made from."""
    row = f"<results>/rows/{wildcards.row}/epoch-{wildcards.epoch}"
    return {
        "weights": f"{row}/ema{decay}.safetensors",
        "guidance": list(guidance),
        "statistics": row_inputs(wildcards)["statistics"],
        "decoder": f"<results>/decoders/{encoder_of(wildcards)}.safetensors",
    }


def evaluate_spec(wildcards):
    """The protocol's free numbers, and how many images there must be, as JSON."""
    tried = wildcards.set.startswith("sweep/")
    protocol = CONFIG.evaluation.model_dump(include={"neighbours", "split"})
    images = SWEEP.images if tried else CONFIG.sampling.images
    return json.dumps(protocol | {"images": images})


# It takes `input` so that Snakemake counts it among what follows from other things, which reruns nothing.
def keep_samples(wildcards, input):
    """Option that keeps what depends on the samples alone: of the sets that are scored against several references."""
    aside = wildcards.set.startswith(("sweep/", "ema-"))
    return "--keep" if OTHER_REFERENCES and not aside else ""
