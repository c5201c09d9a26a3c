# What tables, figures and the record of their origin are made of.
DRAWN = list(CONFIG.figures.rows or CONFIG.rows)
# Sets of images whose samples and maps are drawn.
DRAWN_ENTRIES = [one for one in unguided(DRAWN) if one.epoch == CONFIG.drawn_epoch(one.row)]
# Runs of the trainer: those of the weights after the last epoch.
RUNS = [one for one in unguided(DRAWN) if one.record and one.epoch == final_epoch(one.row)]
# Images whose token maps can be asked for, by folder.
IMAGES = {f"image-{index}/": index for index in CONFIG.figures.images}
# Entries of every moving average of the weights, the reported one first, of rows that have several.
AVERAGED = [row for row in DRAWN if len(CONFIG.averages(row)) > 1]
AVERAGES = unguided(AVERAGED) + [one for one in ENTRIES if one.row in AVERAGED and one.decay]
# Trained rows at every epoch.
PROGRESS = [one for one in unguided(DRAWN) if one.row in TRAINED]
# Encoders as the rows use them, and what they make of the validation images.
RECONSTRUCTIONS = [
    Entry(
        encoder=encoder,
        ttr=ttr,
        metrics=Path(CONFIG.results, f"reconstruction/{encoder}-{ttr}/metrics.json"),
        samples=Path(CONFIG.results, f"reconstruction/{encoder}-{ttr}/samples.npz"),
        maps=Path(CONFIG.results, f"maps/encoders/{encoder}-{ttr}.npz"),
    )
    for encoder, ttr in ENCODINGS
]
DRAWN_ENCODINGS = {(CONFIG.rows[row].encoder, CONFIG.rows[row].ttr) for row in DRAWN}
ENCODER_ENTRIES = [one for one in RECONSTRUCTIONS if (one.encoder, one.ttr) in DRAWN_ENCODINGS]
# The validation images themselves, above what is made of them.
RECONSTRUCTED = [Entry(samples=Path(CONFIG.results, "evaluator/reference-validation.npz")), *RECONSTRUCTIONS]
# The encoders side by side, and the rows that have the first row's denoiser, at an epoch of the tables.
ALIKE = [name for name in TRAINED if CONFIG.rows[name].denoiser == next(iter(CONFIG.rows.values())).denoiser]
COMPARED = unguided(ALIKE, epoch=80 if 80 in EPOCHS else EPOCHS[-1])
BACKBONES = [*RECONSTRUCTIONS, *(one.model_copy(update={"maps": None}) for one in COMPARED)]
MAP_KINDS = ["norms", "components", "attention", "outliers"]


def config_file(wildcards):
    """The whole configuration as a file, for whatever needs more of it than a specification holds."""
    return write_asked("<results>/config", CONFIG.model_dump_json(exclude_defaults=True))


def table_entries(table):
    """Entries of one of the configuration's tables; those of its overlay are there to be asked for."""
    section = CONFIG.tables[table]
    entries, others = reported(section.rows, guidance=UNGUIDED), overlay_rows(table)
    # The demo has nothing to replace what an overlay adds.
    if section.overlay and CONFIG.data.source != "digits":
        entries += [
            entry(row, epoch, UNGUIDED, **FIRST, overlays=[section.overlay])
            for row in section.rows
            for epoch in section.epochs or EPOCHS
            if row not in CONFIG.rows and row in others
        ]
    return [one for one in entries if one.epoch in (section.epochs or [one.epoch])]


def table_files(entries, *kinds):
    """Files of the entries whose rows, if they have any, are in this configuration."""
    return files_of([one for one in entries if one.row in ("", *CONFIG.rows)], *kinds)


# What says which scores an entry has.
SCORE_FIELDS = "row epoch guidance seed reference metrics"


def times_written(files):
    """When each of these files was written, of those that exist while the plan is made."""
    paths = map(Path, files)
    return {str(path): path.stat().st_mtime_ns for path in paths if path.exists()}


def drawn(*names):
    """Files of these figures, as far as there is anything to show: of every row, or kind of map, that there is."""
    paths = []
    for figure in map(FIGURES.get, names):
        rows = list(dict.fromkeys(one.row for one in figure.entries))
        paths += expand(f"<results>/figures/{figure.file}.png", image="", kind=MAP_KINDS, row=rows) if rows else []
    return paths


def missing_metrics(wildcards):
    """A file that changes when a metrics file is missing: left to itself, Snakemake asks for missing files only when
    something after them has to run."""
    file = Path(CONFIG.results, "specs/table1-missing.txt")
    missing = [path for path in files_of(reported(CONFIG.rows), "metrics", "chosen") if not Path(path).exists()]
    if missing or not file.exists():
        # The time, because Snakemake also compares what small files hold.
        write_text(file, "\n".join([*missing, str(time.time_ns())]))
    return str(file)


def times(wildcards):
    """Snakemake's benchmarks and the trainer's records of every row and encoder, as JSON."""
    jobs = {}
    for e, t in ENCODINGS:
        jobs[f"{e}-{t}"] = {"statistics": [f"statistics/{e}-{t}"], "reconstruct": [f"reconstruct/{e}-{t}"]}
    jobs["reconstruction"] = {"evaluate": ["evaluate/reconstruction"]}
    for row in CONFIG.rows:
        known = [(one.epoch, one.set_id) for one in ENTRIES if one.row == row]
        known += [(final_epoch(row), f"sweep/{name}") for name in CANDIDATES if row in SWEPT]
        sets = list(dict.fromkeys(f"{row}-{epoch}-{name}" for epoch, name in known))
        again = [f"{name}-{other}" for name in sets for other in OTHER_REFERENCES]
        jobs[row] = {
            "train": [f"train/{row}-{epoch}" for epoch in CONFIG.epochs(row)],
            "sample": [f"sample/{images}" for images in sets],
            "evaluate": [f"evaluate/{images}" for images in [*sets, *again]],
        }
    records = {row: f"{state_folder(row)}/metrics.jsonl" for row in TRAINED}
    return json.dumps({"folder": f"{CONFIG.results}/benchmarks", "jobs": jobs, "records": records})


# What a rehearsal says of every row is taken from these.
REHEARSED = [one for one in unguided(CONFIG.rows) if one.epoch == final_epoch(one.row)]


def rehearsed_json(wildcards):
    """Where the records of a rehearsal's jobs are."""
    logs, benchmarks = f"{CONFIG.results}/logs", f"{CONFIG.results}/benchmarks"
    rows = {
        one.row: {
            "run": state_folder(one.row),
            "log": f"{logs}/train/{one.row}-{one.epoch}.log",
            "sample": f"{logs}/sample/{one.row}-{one.epoch}-{one.set_id}.log",
            "evaluate": f"{benchmarks}/evaluate/{one.row}-{one.epoch}-{one.set_id}.tsv",
        }
        for one in REHEARSED
    }
    made = {"evaluator's network": "<results>/evaluator/graph.pb", **ENCODER_ARTIFACTS}
    return json.dumps({"rows": rows, "made": {name: in_results(path) for name, path in made.items()}})


def rehearsal_option():
    """Option of the plan: what a rehearsal has measured, if there was one."""
    path = Path(CONFIG.results, "rehearsal/throughput.csv")
    return ["--measured", str(path)] if path.exists() else []


def reference_targets(wildcards):
    """Tables and figures of the fetched weights alone."""
    if not FETCHED or not set(DRAWN) <= set(FETCHED):
        raise WorkflowError(
            "reference_weights: add --configfile profiles/reference-weights/config-overlay.yaml, or name rows with"
            " `weights` under figures.rows"
        )
    return [
        *(f"<results>/tables/{name}.md" for name, table in CONFIG.tables.items() if set(table.rows) <= set(FETCHED)),
        "<results>/figures/samples.png",
        *drawn("denoiser", "times"),
    ]
