# From metrics and weights to what a reader sees: the table, the figures, and where it all comes from.
# How a missing result is asked for: as this run was, with its configuration files.
COMMAND = " ".join(
    ["snakemake"]
    + ["--configfile"] * bool(workflow.overwrite_configfiles)
    + [os.path.relpath(path) for path in workflow.overwrite_configfiles]
    + ["--cores all --"]
)
FIGURE = "python -m dsr.commands.figure"
ENCODING_NAMES = [f"{encoder}:{ttr}" for encoder, ttr in ENCODINGS]


rule cost:
    output:
        "<results>/rows/{row}/cost.json",
    log:
        "<logs>/cost/{row}.log",
    conda:
        "../envs/torch.yaml"
    params:
        spec=lambda wildcards: CONFIG.model(wildcards.row).model_dump_json(),
    shell:
        "python -m dsr.commands.cost --spec {params.spec:q} --output {output} > {log} 2>&1"


rule table:
    input:
        metrics=metrics_files(CONFIG.rows).values(),
        cost=expand("<results>/rows/{row}/cost.json", row=CONFIG.rows),
        variants=variant_files(CONFIG.rows).values(),
    output:
        html=report(
            "<results>/table1.html",
            category="1. Results",
            labels={"result": "Table 1"},
            caption="../docs/captions/table1.rst",
        ),
        markdown="<results>/table1.md",
        csv="<results>/table1.csv",
        latex="<results>/table1.tex",
    log:
        "<logs>/table1.log",
    localrule: True
    conda:
        "../envs/torch.yaml"
    params:
        spec=report_specs.table(CONFIG).model_dump_json(),
        metrics=lambda wildcards, input: keyed(
            metrics_files(CONFIG.rows), input.metrics
        ),
        cost=lambda wildcards, input: keyed(CONFIG.rows, input.cost),
        variants=lambda wildcards, input: keyed(
            variant_files(CONFIG.rows), input.variants
        ),
        edition=TABLE_EDITION,
    shell:
        "python -m dsr.commands.table --spec {params.spec:q} --metrics {params.metrics} --cost {params.cost}"
        " --variants {params.variants}"
        " --markdown {output.markdown} --csv {output.csv} --latex {output.latex} --html {output.html} > {log} 2>&1"
        f" && echo {TABLE_EDITION} > {LAST_EDITION}"


# Whatever has been measured so far, as it is on disk. Metrics are no input of this rule: as inputs that are out of date
# they would be made again, and asking what is there must never train anything.
rule partial_table:
    input:
        cost=expand("<results>/rows/{row}/cost.json", row=CONFIG.rows),
    output:
        html=report(
            "<results>/table1-partial.html",
            category="1. Results",
            labels={"result": "Table 1, as far as measured"},
            caption="../docs/captions/table1.rst",
        ),
        markdown="<results>/table1-partial.md",
        csv="<results>/table1-partial.csv",
    log:
        "<logs>/table1-partial.log",
    conda:
        "../envs/torch.yaml"
    params:
        spec=report_specs.table(CONFIG, command=COMMAND).model_dump_json(),
        metrics=keyed(*zip(*planned_metrics(CONFIG.rows).items())),
        cost=lambda wildcards, input: keyed(CONFIG.rows, input.cost),
        # A result that is new, or gone, makes the table again.
        present=existing_metrics,
    shell:
        "python -m dsr.commands.table --spec {params.spec:q} --metrics {params.metrics} --cost {params.cost}"
        " --markdown {output.markdown} --csv {output.csv} --html {output.html} > {log} 2>&1"


rule row_table:
    input:
        metrics=lambda wildcards: metrics_files([wildcards.row]).values(),
        cost="<results>/rows/{row}/cost.json",
    output:
        markdown="<results>/rows/{row}/table1.md",
        csv="<results>/rows/{row}/table1.csv",
    log:
        "<logs>/table1-{row}.log",
    conda:
        "../envs/torch.yaml"
    params:
        spec=lambda wildcards: report_specs.table(
            CONFIG, [wildcards.row]
        ).model_dump_json(),
        metrics=lambda wildcards, input: keyed(
            metrics_files([wildcards.row]), input.metrics
        ),
        cost=lambda wildcards, input: keyed([wildcards.row], [input.cost]),
    shell:
        "python -m dsr.commands.table --spec {params.spec:q} --metrics {params.metrics} --cost {params.cost}"
        " --markdown {output.markdown} --csv {output.csv} > {log} 2>&1"


rule encoder_maps:
    input:
        encoder=lambda wildcards: encoder_weights(wildcards.encoder),
        neurons=lambda wildcards: neurons(wildcards.encoder, wildcards.ttr),
        decoder="<results>/decoders/{encoder}.safetensors",
        images="<results>/data/prepared/validation/index.npz",
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
        spec=lambda wildcards: analysis_specs.encoder_maps(
            CONFIG, wildcards.encoder, wildcards.ttr
        ).model_dump_json(),
    shell:
        "python -m dsr.commands.maps encoder --spec {params.spec:q} --images {input.images}"
        " --encoder $(dirname {input.encoder}) --neurons {input.neurons} --decoder {input.decoder}"
        " --threads {threads} --output {output} > {log} 2>&1"


rule denoiser_maps:
    input:
        unpack(row_inputs),
        decoder=lambda wildcards: f"<results>/decoders/{encoder_of(wildcards)}.safetensors",
        weights="<results>/rows/{row}/epoch-{epoch}/ema.safetensors",
        images="<results>/data/prepared/validation/index.npz",
    output:
        "<results>/maps/rows/{row}-{epoch}.npz",
    log:
        "<logs>/maps/{row}-{epoch}.log",
    conda:
        "../envs/torch.yaml"
    threads: threads_of("maps")
    resources:
        **resources_of("maps"),
    params:
        spec=lambda wildcards: analysis_specs.denoiser_maps(
            CONFIG, wildcards.row
        ).model_dump_json(),
    shell:
        "python -m dsr.commands.maps denoiser --spec {params.spec:q} --images {input.images}"
        " --encoder $(dirname {input.encoder}) --neurons {input.neurons} --statistics {input.statistics}"
        " --decoder {input.decoder} --weights {input.weights} --threads {threads} --output {output} > {log} 2>&1"


rule figure_encoder:
    input:
        [f"<results>/maps/encoders/{encoder}-{ttr}.npz" for encoder, ttr in ENCODINGS],
    output:
        png=report(
            "<results>/figures/encoder-{kind}.png",
            category="2. Outliers in the encoder",
            labels={"shows": "{kind}"},
            caption="../docs/captions/encoder.rst",
        ),
        svg="<results>/figures/encoder-{kind}.svg",
    log:
        "<logs>/figures/encoder-{kind}.log",
    wildcard_constraints:
        kind=MAP_KINDS,
    conda:
        "../envs/torch.yaml"
    params:
        spec=report_specs.figure(CONFIG).model_dump_json(),
        inputs=lambda wildcards, input: keyed(ENCODING_NAMES, input),
    shell:
        f"{FIGURE}"
        " {wildcards.kind} --spec {params.spec:q} --inputs {params.inputs}"
        " --png {output.png} --svg {output.svg} > {log} 2>&1"


rule figure_denoiser:
    input:
        expand(
            "<results>/maps/rows/{row}-{epoch}.npz", row=CONFIG.rows, epoch=FINAL_EPOCH
        ),
    output:
        png=report(
            "<results>/figures/denoiser-{kind}.png",
            category="3. Outliers in the denoiser",
            labels={"shows": "{kind}"},
            caption="../docs/captions/denoiser.rst",
        ),
        svg="<results>/figures/denoiser-{kind}.svg",
    log:
        "<logs>/figures/denoiser-{kind}.log",
    wildcard_constraints:
        kind=MAP_KINDS,
    conda:
        "../envs/torch.yaml"
    params:
        spec=report_specs.figure(CONFIG, f"epoch {FINAL_EPOCH}").model_dump_json(),
        inputs=lambda wildcards, input: keyed(CONFIG.rows, input),
    shell:
        f"{FIGURE}"
        " {wildcards.kind} --spec {params.spec:q} --inputs {params.inputs}"
        " --png {output.png} --svg {output.svg} > {log} 2>&1"


rule figure_times:
    input:
        f"<results>/maps/rows/{{row}}-{FINAL_EPOCH}.npz",
    output:
        png=report(
            "<results>/figures/times-{row}.png",
            category="3. Outliers in the denoiser",
            labels={"shows": "norms against noise, {row}"},
            caption="../docs/captions/times.rst",
        ),
        svg="<results>/figures/times-{row}.svg",
    log:
        "<logs>/figures/times-{row}.log",
    conda:
        "../envs/torch.yaml"
    params:
        spec=report_specs.figure(CONFIG, f"epoch {FINAL_EPOCH}").model_dump_json(),
    shell:
        f"{FIGURE} times"
        " --spec {params.spec:q} --inputs {wildcards.row}={input}"
        " --png {output.png} --svg {output.svg} > {log} 2>&1"


rule figure_samples:
    input:
        [result(row, FINAL_EPOCH, "unguided", "samples.npz") for row in CONFIG.rows],
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
        spec=report_specs.figure(CONFIG, f"epoch {FINAL_EPOCH}").model_dump_json(),
        inputs=lambda wildcards, input: keyed(CONFIG.rows, input),
    shell:
        f"{FIGURE} samples"
        " --spec {params.spec:q} --inputs {params.inputs}"
        " --png {output.png} --svg {output.svg} > {log} 2>&1"


rule figure_fid:
    input:
        [
            result(row, epoch, "unguided", "metrics.json")
            for row in CONFIG.rows
            for epoch in EPOCHS
        ],
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
    conda:
        "../envs/torch.yaml"
    params:
        spec=report_specs.figure(CONFIG).model_dump_json(),
        inputs=lambda wildcards, input: keyed(
            [f"{row}:{epoch}" for row in CONFIG.rows for epoch in EPOCHS], input
        ),
    shell:
        f"{FIGURE} fid"
        " --spec {params.spec:q} --inputs {params.inputs}"
        " --png {output.png} --svg {output.svg} > {log} 2>&1"


rule provenance:
    input:
        "<results>/table1.md",
    output:
        json="<results>/provenance.json",
        html=report(
            "<results>/provenance.html",
            category="5. Provenance",
            labels={"result": "where these results come from"},
            caption="../docs/captions/provenance.rst",
        ),
        markdown="<results>/provenance.md",
    log:
        "<logs>/provenance.log",
    localrule: True
    conda:
        "../envs/torch.yaml"
    params:
        spec=CONFIG.model_dump_json(),
        source=workflow.basedir,
        benchmarks=benchmark_files,
        records=training_records,
        environments=[
            f"{workflow.basedir}/envs/{name}.yaml"
            for name in ("torch", "tensorflow", "workflow")
        ],
    shell:
        "python -m dsr.commands.provenance --spec {params.spec:q} --source {params.source:q}"
        " --benchmarks {params.benchmarks} --records {params.records} --environments {params.environments:q}"
        " --json {output.json} --markdown {output.markdown} --html {output.html} > {log} 2>&1"
