# What is looked at: token maps of encoders and denoisers, and every figure.
from collections.abc import Callable
from typing import NamedTuple


wildcard_constraints:
    # Folder of the figures that show another image than the first.
    image=f"(?:{one_of(IMAGES)})?",
    kind=MAP_KINDS,


rule encoder_maps:
    input:
        encoder=lambda wildcards: encoder_weights(wildcards.encoder),
        neurons=lambda wildcards: neurons(wildcards.encoder, wildcards.ttr),
        decoder="<results>/decoders/{encoder}.safetensors",
        images=CONFIG.figures.folder or "<results>/data/prepared/validation/index.npz",
        spec=asked("<results>/maps/encoders/{encoder}-{ttr}.npz", CONFIG.encoder_maps),
    output:
        "<results>/maps/encoders/{encoder}-{ttr}.npz",
    log:
        "<logs>/maps/{encoder}-{ttr}.log",
    conda:
        "../envs/torch.yaml"
    threads: threads_of("maps")
    resources:
        **resources_of("maps"),
    params:
        of=lambda wildcards, input: "encoder",
        files=named_files,
    shell:
        "python -m dsr.commands.maps {params.of} {params.files:q} --threads {threads} --output {output:q} > {log:q} 2>&1"


use rule encoder_maps as denoiser_maps with:
    input:
        unpack(row_inputs),
        decoder=lambda wildcards: f"<results>/decoders/{encoder_of(wildcards)}.safetensors",
        weights="<results>/rows/{row}/epoch-{epoch}/ema.safetensors",
        images=CONFIG.figures.folder or "<results>/data/prepared/validation/index.npz",
        spec=asked("<results>/maps/rows/{row}-{epoch}.npz", CONFIG.denoiser_maps),
    output:
        "<results>/maps/rows/{row}-{epoch}.npz",
    log:
        "<logs>/maps/{row}-{epoch}.log",
    params:
        of=lambda wildcards, input: "denoiser",


class Figure(NamedTuple):
    """A figure, or one for each of its wildcards."""

    file: str
    """Name without folder and ending; {image} is the folder of another image than the first."""
    category: str
    """Where the report has it, and what it is called there."""
    labels: dict[str, str]
    entries: Callable
    """What it shows."""
    fields: str
    """What it needs of these entries; the last one is a file."""
    rows: list[str] = []
    """What {row} may be."""
    kind: str = ""
    """How it is drawn, if not as its name says."""


# By the name of the rule and the caption.
FIGURES = {
    "fid": Figure(
        "fid",
        "1. Results",
        {"result": "FID against epochs"},
        lambda wildcards: unguided(DRAWN),
        "row epoch seed metrics",
    ),
    "training": Figure(
        "training",
        "1. Results",
        {"result": "loss and gradient norm"},
        lambda wildcards: RUNS,
        "row epoch record weights",
    ),
    # Of rows whose recipe keeps several moving averages.
    "averages": Figure(
        "averages-{row}",
        "1. Results",
        {"result": "FID against EMA decay, {row}"},
        lambda wildcards: averages(wildcards.row),
        "row epoch seed decay metrics",
        AVERAGED,
    ),
    "encoder": Figure(
        "{image}encoder-{kind}",
        "2. Outliers in the encoder",
        {"shows": "{kind}"},
        lambda wildcards: ENCODER_ENTRIES,
        "encoder ttr maps",
        kind="{kind}",
    ),
    "denoiser": Figure(
        "{image}denoiser-{kind}",
        "3. Outliers in the denoiser",
        {"shows": "{kind}"},
        lambda wildcards: DRAWN_ENTRIES,
        "row epoch maps",
        kind="{kind}",
    ),
    "times": Figure(
        "{image}times-{row}",
        "3. Outliers in the denoiser",
        {"shows": "norms against noise, {row}"},
        lambda wildcards: [one for one in DRAWN_ENTRIES if one.row == wildcards.row],
        "row epoch maps",
        DRAWN,
    ),
    "reconstruction": Figure(
        "reconstruction",
        "4. Samples",
        {"shows": "reconstructions"},
        lambda wildcards: [ORIGINALS, *RECONSTRUCTIONS],
        "encoder ttr samples",
    ),
    "samples": Figure(
        "samples",
        "4. Samples",
        {"shows": "samples at equal seeds"},
        lambda wildcards: DRAWN_ENTRIES,
        "row epoch seed samples",
    ),
    "progress": Figure(
        "progress",
        "4. Samples",
        {"shows": "the same at every scored epoch"},
        lambda wildcards: [one for one in unguided(DRAWN) if one.row in TRAINED],
        "row epoch seed samples",
        kind="samples",
    ),
}

for name, figure in FIGURES.items():

    rule:
        name:
            f"figure_{name}"
        input:
            lambda wildcards, figure=figure: files_of(figure.entries(wildcards), figure.fields.split()[-1]),
            config=config_file,
            # Names of the classes that are shown.
            names="<results>/data/prepared/validation/index.npz" if figure.fields.endswith("samples") else [],
        output:
            png=report(
                f"<results>/figures/{figure.file}.png",
                category=figure.category,
                labels=figure.labels,
                caption=f"../docs/captions/{name}.rst",
            ),
            svg=f"<results>/figures/{figure.file}.svg",
        log:
            f"<logs>/figures/{figure.file}.log",
        wildcard_constraints:
            row=one_of(figure.rows),
        # Seconds of work: not worth a place in a cluster's queue.
        localrule: True
        conda:
            "../envs/torch.yaml"
        params:
            kind=figure.kind or name,
            entries=lambda wildcards, figure=figure: entries_json(figure.entries(wildcards), *figure.fields.split()),
            image=image_option,
            files=named_files,
        shell:
            "python -m dsr.commands.figure --kind {params.kind} {params.files:q} {params.image}"
            " --entries {params.entries:q} --png {output.png:q} --svg {output.svg:q} > {log:q} 2>&1"


# What there is of these while rows are trained and scored. Like `partial_table` they make nothing else.
use rule figure_training as partial_training with:
    input:
        config=config_file,
    output:
        png="<results>/figures/training-partial.png",
        svg="<results>/figures/training-partial.svg",
    log:
        "<logs>/figures/training-partial.log",
    localrule: True
    params:
        present=lambda wildcards: times_written(files_of(RUNS, "record")),


use rule figure_fid as partial_fid with:
    input:
        config=config_file,
    output:
        png="<results>/figures/fid-partial.png",
        svg="<results>/figures/fid-partial.svg",
    log:
        "<logs>/figures/fid-partial.log",
    localrule: True
    params:
        present=lambda wildcards: written(unguided(DRAWN)),


# Everything about the denoisers' tokens, for as many rows and at the epoch that `figures` says.
rule denoiser_figures:
    input:
        denoiser_figures(),
    localrule: True
