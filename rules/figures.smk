# What is looked at: token maps of encoders and denoisers, and every figure.
from typing import NamedTuple


wildcard_constraints:
    # Folder of the figures that show another image than the first.
    image=f"(?:{one_of(IMAGES)})?",
    kind=one_of(MAP_KINDS),


rule encoder_maps:
    input:
        encoder="<results>/encoders/{encoder}/model.safetensors",
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
    threads: CONFIG.request("maps").cpus
    resources:
        **resources_of("maps"),
    params:
        of=lambda wildcards, input: "encoder",
        files=named_files,
    shell:
        "python -m dsr.commands.maps {params.of} {params.files:q} --threads {threads} --output {output:q} > {log:q} 2>&1"


use rule encoder_maps as denoiser_maps with:
    input:
        unpack(latent_inputs),
        decoder=decoder_of,
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
    label: str
    """Where the report has it, and what it is called there."""
    fields: str
    """What it needs of its entries besides."""
    made: str
    """Files of these entries that are made first; without any it shows what there is so far, as partial tables do."""
    entries: list[Entry]
    """What it shows; where {row} is in its name, those of that row."""
    kind: str = ""
    """How it is drawn, if not as the rule's name says."""


RESULTS, ENCODERS, DENOISERS = "1. Results", "2. Outliers in the encoder", "3. Outliers in the denoiser"
SAMPLES = "4. Samples"
# By the name of the rule and, but for partial ones, of the caption.
FIGURES = {
    "fid": Figure("fid", RESULTS, "FID against epochs", "row epoch seed", "metrics", unguided(DRAWN)),
    "training": Figure("training", RESULTS, "loss and gradient norm", "row epoch record", "weights", RUNS),
    "averages": Figure(
        "averages-{row}", RESULTS, "FID against EMA decay, {row}", "row epoch seed decay", "metrics", AVERAGES
    ),
    "encoder": Figure("{image}encoder-{kind}", ENCODERS, "{kind}", "encoder ttr", "maps", ENCODER_ENTRIES, "{kind}"),
    "denoiser": Figure("{image}denoiser-{kind}", DENOISERS, "{kind}", "row epoch", "maps", DRAWN_ENTRIES, "{kind}"),
    "times": Figure("{image}times-{row}", DENOISERS, "norms against noise, {row}", "row epoch", "maps", DRAWN_ENTRIES),
    "reconstruction": Figure("reconstruction", SAMPLES, "reconstructions", "encoder ttr", "samples", RECONSTRUCTED),
    "samples": Figure("samples", SAMPLES, "samples at equal seeds", "row epoch seed", "samples", DRAWN_ENTRIES),
    "progress": Figure("progress", SAMPLES, "samples at every epoch", "row epoch seed", "samples", PROGRESS, "samples"),
}
for name in ("fid", "training"):
    full = FIGURES[name]
    unfinished = {"file": f"{name}-partial", "label": f"{full.label}, as far as measured", "kind": name}
    FIGURES[f"partial_{name}"] = full._replace(**unfinished, fields=f"{full.fields} {full.made}", made="")


for name, figure in FIGURES.items():

    rule:
        name:
            f"figure_{name}"
        input:
            lambda wildcards, figure=figure: files_of(matching(figure.entries, wildcards), *figure.made.split()),
            config=config_file,
            # Names of the classes that are shown.
            names="<results>/data/prepared/validation/index.npz" if figure.made == "samples" else [],
        output:
            png=report(
                f"<results>/figures/{figure.file}.png",
                category=figure.category,
                labels={"result": figure.label},
                caption=f"../docs/captions/{name.removeprefix('partial_')}.rst",
            ),
            svg=f"<results>/figures/{figure.file}.svg",
        log:
            f"<logs>/figures/{figure.file}.log",
        wildcard_constraints:
            row=one_of({one.row for one in figure.entries}),
        # Seconds of work: not worth a place in a cluster's queue.
        localrule: True
        conda:
            "../envs/torch.yaml"
        params:
            kind=figure.kind or name,
            entries=lambda wildcards, figure=figure: entries_json(
                matching(figure.entries, wildcards), *f"{figure.fields} {figure.made}".split()
            ),
            image=lambda wildcards: f"--image {IMAGES[wildcards.image]}" if wildcards.get("image") else "",
            # A result that is new, or gone, makes a partial figure again.
            present="" if figure.made else times_written(files_of(figure.entries, "metrics", "record")),
            files=named_files,
        shell:
            "python -m dsr.commands.figure --kind {params.kind} {params.files:q} {params.image}"
            " --entries {params.entries:q} --png {output.png:q} --svg {output.svg:q} > {log:q} 2>&1"


# Everything about the denoisers' tokens, for as many rows and at the epoch that `figures` says.
rule denoiser_figures:
    input:
        drawn("denoiser", "times"),
    localrule: True
