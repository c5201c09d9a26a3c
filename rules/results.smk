# What tables, figures and the record of their origin are made of.
DRAWN = list(CONFIG.figures.rows or CONFIG.rows)
# Images whose token maps can be asked for, by folder.
IMAGES = {f"image-{index}/": index for index in CONFIG.figures.images}
# Rows with several moving averages of the weights.
AVERAGED = [row for row in DRAWN if len(CONFIG.averages(row)) > 1]
# Encoders as the rows use them.
SHOWN = sorted({(CONFIG.rows[row].encoder, CONFIG.rows[row].ttr) for row in DRAWN})
ENCODING_NAMES = [f"{encoder}:{ttr}" for encoder, ttr in SHOWN]
MAP_KINDS = "norms|components|attention|outliers"


def unguided_files(rows):
    """Metrics files of these rows by 'row:epoch:unguided'."""
    files = metrics_files(rows)
    return {key: path for key, path in files.items() if key.endswith(":unguided")}


def figure_spec(wildcards, denoisers=()):
    """How a figure of one image is drawn, as JSON."""
    image = IMAGES.get(wildcards.image)
    return report_specs.figure(CONFIG, denoisers, image).model_dump_json()


def drawn_maps(row):
    """Token maps of a row as figures show it."""
    return f"<results>/maps/rows/{row}-{CONFIG.drawn_epoch(row)}.npz"


def denoiser_figures():
    """Every figure of the denoisers' tokens."""
    names = [f"denoiser-{kind}" for kind in MAP_KINDS.split("|")]
    names += [f"times-{row}" for row in DRAWN]
    return [f"<results>/figures/{name}.png" for name in names]


def figures(wildcards):
    """Every figure."""
    names = ["samples", "fid", *(f"averages-{row}" for row in AVERAGED)]
    names += [f"encoder-{kind}" for kind in MAP_KINDS.split("|")]
    return [f"<results>/figures/{name}.png" for name in names] + denoiser_figures()


LAST_EDITION = f"{CONFIG.results}/.table1-edition"


def command_with(*overlays):
    """How something is asked for: as this run was, with its configuration files and more of them."""
    files = [*map(os.path.relpath, workflow.overwrite_configfiles), *overlays]
    return " ".join(
        ["snakemake", *["--configfile"] * bool(files), *files, "--cores all --"]
    )


def table1_files(rows):
    """Everything that Table 1 reads of these rows, besides their cost."""
    files = [metrics_files(rows), variant_files(rows), chosen_files(rows)]
    return [path for some in files for path in some.values()]


def written(files):
    """When each of these files was written, of those that exist while the plan is made."""
    paths = [Path(in_results(file)) for file in files]
    return {str(path): path.stat().st_mtime_ns for path in paths if path.exists()}


def existing_files(wildcards):
    """When each file of Table 1 was written, of those that exist."""
    return written(table1_files(CONFIG.rows))


def table_edition():
    """Number of the table's edition: one more than the last one's where metrics are missing.

    As a param, it makes the table run again and with it what it lost: left to itself, Snakemake asks for missing
    files only when something after them has to run. It is counted once a run, before anything is made.
    """
    last = Path(LAST_EDITION)
    files = map(in_results, table1_files(CONFIG.rows))
    edition = int(last.read_text()) if last.exists() else 0
    return edition if all(Path(file).exists() for file in files) else edition + 1


TABLE_EDITION = table_edition()


def comparison_rows(table):
    """Rows of one of the configuration's tables that this configuration has."""
    return [row for row in CONFIG.tables[table].rows if row in CONFIG.rows]


def shown_in(table, files):
    """Those of these files by 'row:epoch:guidance...' that one of the configuration's tables shows."""
    epochs = CONFIG.tables[table].epochs

    def shown(key):
        _, epoch, guidance, *_ = key.split(":")
        return guidance == "unguided" and (epochs is None or int(epoch) in epochs)

    return {key: path for key, path in files.items() if shown(key)}


def comparison_files(table):
    """Metrics files of one of the configuration's tables by 'row:epoch:unguided'."""
    return shown_in(table, metrics_files(comparison_rows(table)))


def comparison_variants(table):
    """The same for every sampling seed and reference, by 'row:epoch:unguided:reference:seed'."""
    return shown_in(table, variant_files(comparison_rows(table)))


def existing_comparison(wildcards):
    """When each metrics file of one of the configuration's tables was written, of those that exist."""
    table = wildcards.table
    return written(
        [*comparison_files(table).values(), *comparison_variants(table).values()]
    )


def comparison_spec(wildcards):
    """What one of the configuration's tables shows, and how missing results are asked for, with its overlay if need be."""
    table = CONFIG.tables[wildcards.table]
    commands = {
        key: f"{command_with()} {in_results(path)}"
        for key, path in comparison_files(wildcards.table).items()
    }
    # The demo has stand-ins for nothing that an overlay adds.
    if table.overlay and CONFIG.data.source != "digits":
        lacking = [row for row in table.rows if row not in CONFIG.rows]
        for row in filter(OVERLAY_ROWS[wildcards.table].__contains__, lacking):
            for epoch in table.epochs or EPOCHS:
                path = of_set(row, epoch, f"unguided-seed{FIRST_SEED}", "metrics.json")
                commands[f"{row}:{epoch}:unguided"] = (
                    f"{command_with(table.overlay)} {in_results(path)}"
                )
    spec = report_specs.comparison(CONFIG, wildcards.table, commands)
    return spec.model_dump_json()


def row_costs(rows):
    """What the denoisers of these rows cost."""
    return {row: f"<results>/rows/{row}/cost.json" for row in rows}


def benchmark_files(wildcards):
    """Snakemake's record of the time that every job took, as 'stage:row:...=path'."""
    names = {f"statistics:{e}:{ttr}": f"statistics/{e}-{ttr}" for e, ttr in ENCODINGS}
    for row in CONFIG.rows:
        for epoch in CONFIG.epochs(row):
            names[f"train:{row}:{epoch}"] = f"train/{row}-{epoch}"
            for images in all_sets(row, epoch):
                job = f"{row}-{epoch}-{images}"
                names[f"sample:{row}:{epoch}:{images}"] = f"sample/{job}"
                names[f"evaluate:{row}:{epoch}:{images}"] = f"evaluate/{job}"
                for reference in OTHER_REFERENCES:
                    again = f"evaluate:{row}:{epoch}:{images}:{reference}"
                    names[again] = f"evaluate/{job}-{reference}"
    paths = [f"{CONFIG.results}/benchmarks/{name}.tsv" for name in names.values()]
    return keyed(names, paths)


def training_records(wildcards):
    """The trainer's own record of every row, as 'row=path'."""
    return keyed(TRAINED, [f"{state_folder(row)}/metrics.jsonl" for row in TRAINED])


def reference_targets(wildcards):
    """Tables and figures of the fetched weights alone."""
    if not FETCHED or not set(DRAWN) <= set(FETCHED):
        raise WorkflowError(
            "reference_weights: add --configfile profiles/reference-weights/config-overlay.yaml, or name rows with"
            " `weights` under figures.rows"
        )
    tables = [
        name for name, table in CONFIG.tables.items() if set(table.rows) <= set(FETCHED)
    ]
    return (
        [f"<results>/tables/{name}.md" for name in tables]
        + ["<results>/figures/samples.png"]
        + denoiser_figures()
    )
