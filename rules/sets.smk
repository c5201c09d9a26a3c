# Sets of images: which there are of every row, and where what is known about each of them lies.
#
# <results>/rows/{row}/epoch-{epoch}/{set}/samples.npz and metrics.json, where {set} is
#   {guidance}-seed{seed}               reported
#   chosen-seed{seed}                   reported, with the guidance that a sweep chose
#   sweep/{candidate}                   fewer images, with a guidance that the sweep tries
#   ema-{decay}/{guidance}-seed{seed}   of another moving average than the reported one
from dsr.config.sampling import CHOSEN
from dsr.report.entries import UNGUIDED, Entry, entries_json

SWEEP = CONFIG.sampling.sweep
CANDIDATES = SWEEP.candidates if SWEEP else {}
SWEPT = SWEEP.rows if SWEEP else []
FIRST_SEED = CONFIG.sampling.seeds[0]
FIRST_REFERENCE, *OTHER_REFERENCES = CONFIG.evaluation.references
FIRST = {"seed": FIRST_SEED, "reference": FIRST_REFERENCE}
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


def command_with(*overlays):
    """How something is asked for: as this run was, with its configuration files and more of them."""
    files = [*map(os.path.relpath, workflow.overwrite_configfiles), *overlays]
    options = ["--profile profiles/demo"] * DEMO + ["--configfile"] * bool(files)
    return " ".join(["snakemake", *options, *files, "--cores all --"])


def entry(row, epoch, guidance, seed, reference, decay=None, overlays=()):
    """A set of images and its scores against one reference, as tables and figures know it."""
    images = f"{'' if decay is None else f'ema-{decay}/'}{guidance}-seed{seed}"
    again = "" if reference == FIRST_REFERENCE else f"-{reference}"
    folder = Path(CONFIG.results, "rows", row, f"epoch-{epoch}")
    metrics = folder / images / f"metrics{again}.json"
    # Lines of a table are those of the first seed and reference.
    first = (seed, reference) == (FIRST_SEED, FIRST_REFERENCE)
    return Entry(
        row=row,
        epoch=epoch,
        guidance=guidance,
        seed=seed,
        reference=reference,
        decay=decay,
        set_id=images,
        metrics=metrics,
        samples=folder / images / "samples.npz",
        maps=Path(CONFIG.results, f"maps/rows/{row}-{epoch}.npz"),
        weights=folder / "ema.safetensors",
        record=Path(state_folder(row), "metrics.jsonl") if row in TRAINED else None,
        chosen=folder / "guidance.json" if guidance == CHOSEN else None,
        run=f"{command_with(*overlays)} {metrics}" if first else "",
    )


# Everything that tables and figures show of the rows, in this order.
ENTRIES = [
    entry(row, epoch, guidance, seed, reference)
    for row in CONFIG.rows
    for epoch in CONFIG.epochs(row)
    for guidance in [*CONFIG.sampling.guidance, *[CHOSEN] * (row in SWEPT and epoch == final_epoch(row))]
    for seed in CONFIG.sampling.seeds
    for reference in CONFIG.evaluation.references
] + [
    entry(row, epoch, UNGUIDED, decay=decay, **FIRST)
    for row in CONFIG.rows
    for epoch in CONFIG.epochs(row)
    for decay in CONFIG.averages(row)[1:]
]


def reported(rows, **values):
    """Entries of these rows, in their order, with the reported moving average and these values."""
    return [
        one for row in rows for one in ENTRIES if {"row": row, "decay": None, **values}.items() <= dict(one).items()
    ]


def unguided(rows, **values):
    """Entries that figures show: without guidance, of the first seed and reference, and with these values."""
    return reported(rows, guidance=UNGUIDED, **FIRST, **values)


def matching(entries, wildcards):
    """Those of the entries that are of the row, epoch and so on of the wildcards, as far as there are such."""
    known = {key: value for key, value in wildcards.items() if key in Entry.model_fields}
    return [one for one in entries if all(str(getattr(one, key)) == value for key, value in known.items())]


def files_of(entries, *kinds):
    """Files of these entries of these kinds (fields of an entry), as inputs of a rule."""
    paths = (getattr(one, kind) for one in entries for kind in kinds)
    return list(dict.fromkeys(str(path) for path in paths if path is not None))


def average_of(set):
    """Decay of the moving average that a set is drawn with; None is the reported one."""
    name = set.split("/")[0]
    return name.removeprefix("ema-") if name.startswith("ema-") else None


def sample_spec(row, epoch, set):
    """Everything that determines a set of images."""
    decay = average_of(set)
    weights = CONFIG.weights(row, epoch, float(decay) if decay else None)
    *folder, name = set.split("/")
    if folder == ["sweep"]:
        return CONFIG.sample(row, CANDIDATES[name], SWEEP.seed, SWEEP.images, weights=weights)
    guidance, seed = name.rsplit("-seed", 1)
    chosen = guidance == CHOSEN
    return CONFIG.sample(row, None if chosen else guidance, int(seed), weights=weights)


def sample_inputs(wildcards):
    """Files that a set of images is made from; the guidance is one of them where a sweep chose it."""
    folder = f"<results>/rows/{wildcards.row}/epoch-{wildcards.epoch}"
    decay = average_of(wildcards.set)
    chosen = wildcards.set.startswith(CHOSEN)
    return {
        "weights": f"{folder}/ema{f'-{decay}' if decay else ''}.safetensors",
        "guidance": [f"{folder}/guidance.json"] if chosen else [],
        "statistics": latent_inputs(wildcards)["statistics"],
        "decoder": decoder_of(wildcards),
    }


def evaluate_spec(reference=None, **wildcards):
    """Everything that determines the scores of a set but the reference."""
    return CONFIG.evaluate(sample_spec(**wildcards))


def board_option(wildcards, input):
    """Option that shows figures' sets of the rows that are trained in TensorBoard, as a run beside the trainer's.

    It takes `input` so that Snakemake counts it among what follows from other things, which reruns nothing.
    """
    shown = [one.set_id for one in unguided([wildcards.row]) if one.record]
    folder = f"{state_folder(wildcards.row)}/tensorboard/samples" if shown else ""
    return ["--board", folder] if wildcards.set in shown else []
