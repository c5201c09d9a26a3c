# What is looked at: token maps of encoders and denoisers, and every figure.
FIGURE = (
    "python -m dsr.commands.report figure --kind {params.kind} --config {input.config:q} --entries {params.entries:q}"
    " {params.image} --png {output.png:q} --svg {output.svg:q} > {log:q} 2>&1"
)


wildcard_constraints:
    # Folder of the figures that show another image than the first.
    image=f"(?:{one_of(IMAGES)})?",


rule encoder_maps:
    input:
        encoder=lambda wildcards: encoder_weights(wildcards.encoder),
        neurons=lambda wildcards: neurons(wildcards.encoder, wildcards.ttr),
        decoder="<results>/decoders/{encoder}.safetensors",
        images=CONFIG.figures.folder or "<results>/data/prepared/validation/index.npz",
        spec=asked("<results>/maps/encoders/{encoder}-{ttr}.npz", encoder_maps_spec),
    output:
        "<results>/maps/encoders/{encoder}-{ttr}.npz",
    log:
        "<logs>/maps/{encoder}-{ttr}.log",
    conda:
        "../envs/torch.yaml"
    threads: threads_of("maps")
    resources:
        **resources_of("maps"),
    shell:
        "neurons={input.neurons:q}; "
        f"python -m dsr.commands.maps encoder {option('neurons')}"
        " --spec {input.spec:q} --images {input.images:q}"
        ' --encoder "$(dirname {input.encoder:q})" --decoder {input.decoder:q}'
        " --threads {threads} --output {output:q} > {log:q} 2>&1"


rule denoiser_maps:
    input:
        unpack(row_inputs),
        decoder=lambda wildcards: f"<results>/decoders/{encoder_of(wildcards)}.safetensors",
        weights="<results>/rows/{row}/epoch-{epoch}/ema.safetensors",
        images=CONFIG.figures.folder or "<results>/data/prepared/validation/index.npz",
        spec=asked("<results>/maps/rows/{row}-{epoch}.npz", denoiser_maps_spec),
    output:
        "<results>/maps/rows/{row}-{epoch}.npz",
    log:
        "<logs>/maps/{row}-{epoch}.log",
    conda:
        "../envs/torch.yaml"
    threads: threads_of("maps")
    resources:
        **resources_of("maps"),
    shell:
        "neurons={input.neurons:q}; "
        f"python -m dsr.commands.maps denoiser {option('neurons')}"
        " --spec {input.spec:q} --images {input.images:q}"
        ' --encoder "$(dirname {input.encoder:q})" --statistics {input.statistics:q}'
        " --decoder {input.decoder:q} --weights {input.weights:q} --threads {threads} --output {output:q} > {log:q} 2>&1"


rule figure_samples:
    input:
        files_of(DRAWN_ENTRIES, "samples"),
        config=config_file,
    output:
        png=report(
            "<results>/figures/samples.png",
            category="4. Samples",
            labels={"shows": "samples at equal seeds"},
            caption="../docs/captions/samples.rst",
        ),
        svg="<results>/figures/samples.svg",
    log:
        "<logs>/figures/samples.log",
    conda:
        "../envs/torch.yaml"
    params:
        kind="samples",
        entries=entries_json(DRAWN_ENTRIES, "row", "epoch", "seed", "samples"),
        image="",
    shell:
        FIGURE


use rule figure_samples as figure_encoder with:
    input:
        files_of(ENCODER_ENTRIES, "maps"),
        config=config_file,
    output:
        png=report(
            "<results>/figures/{image}encoder-{kind}.png",
            category="2. Outliers in the encoder",
            labels={"shows": "{kind}"},
            caption="../docs/captions/encoder.rst",
        ),
        svg="<results>/figures/{image}encoder-{kind}.svg",
    log:
        "<logs>/figures/{image}encoder-{kind}.log",
    wildcard_constraints:
        kind=MAP_KINDS,
    params:
        kind="{kind}",
        entries=entries_json(ENCODER_ENTRIES, "encoder", "ttr", "maps"),
        image=image_option,


use rule figure_samples as figure_denoiser with:
    input:
        files_of(DRAWN_ENTRIES, "maps"),
        config=config_file,
    output:
        png=report(
            "<results>/figures/{image}denoiser-{kind}.png",
            category="3. Outliers in the denoiser",
            labels={"shows": "{kind}"},
            caption="../docs/captions/denoiser.rst",
        ),
        svg="<results>/figures/{image}denoiser-{kind}.svg",
    log:
        "<logs>/figures/{image}denoiser-{kind}.log",
    wildcard_constraints:
        kind=MAP_KINDS,
    params:
        kind="{kind}",
        entries=entries_json(DRAWN_ENTRIES, "row", "epoch", "maps"),
        image=image_option,


use rule figure_samples as figure_times with:
    input:
        lambda wildcards: files_of(drawn(wildcards.row), "maps"),
        config=config_file,
    output:
        png=report(
            "<results>/figures/{image}times-{row}.png",
            category="3. Outliers in the denoiser",
            labels={"shows": "norms against noise, {row}"},
            caption="../docs/captions/times.rst",
        ),
        svg="<results>/figures/{image}times-{row}.svg",
    log:
        "<logs>/figures/{image}times-{row}.log",
    params:
        kind="times",
        entries=lambda wildcards: entries_json(
            drawn(wildcards.row), "row", "epoch", "maps"
        ),
        image=image_option,


# Everything about the denoisers' tokens, for as many rows and at the epoch that `figures` says.
rule denoiser_figures:
    input:
        denoiser_figures(),
    localrule: True


use rule figure_samples as figure_fid with:
    input:
        files_of(unguided(DRAWN), "metrics"),
        config=config_file,
    output:
        png=report(
            "<results>/figures/fid.png",
            category="1. Results",
            labels={"result": "FID against epochs"},
            caption="../docs/captions/fid.rst",
        ),
        svg="<results>/figures/fid.svg",
    log:
        "<logs>/figures/fid.log",
    params:
        kind="fid",
        entries=entries_json(unguided(DRAWN), "row", "epoch", "seed", "metrics"),


# Drawn of rows whose recipe keeps several moving averages.
use rule figure_samples as figure_averages with:
    input:
        lambda wildcards: files_of(averages(wildcards.row), "metrics"),
        config=config_file,
    output:
        png=report(
            "<results>/figures/averages-{row}.png",
            category="1. Results",
            labels={"result": "FID against EMA decay, {row}"},
            caption="../docs/captions/averages.rst",
        ),
        svg="<results>/figures/averages-{row}.svg",
    log:
        "<logs>/figures/averages-{row}.log",
    wildcard_constraints:
        row=one_of(AVERAGED),
    params:
        kind="averages",
        entries=lambda wildcards: entries_json(
            averages(wildcards.row), "row", "epoch", "seed", "decay", "metrics"
        ),
