# Scores after the ADM protocol: the frozen Inception graph in TensorFlow, the metrics on plain arrays.
# Of the training images, as many as there are validation images, chosen at random once and for all.
rule reference:
    input:
        "<results>/data/prepared/{reference}/index.npz",
    output:
        "<results>/evaluator/reference-{reference}.npz",
    log:
        "<logs>/reference/{reference}.log",
    wildcard_constraints:
        reference="validation|train",
    conda:
        "../envs/torch.yaml"
    threads: CONFIG.request("reference").cpus
    resources:
        **resources_of("reference"),
    params:
        images=CONFIG.data.validation_images,
    shell:
        "python -m dsr.commands.prepare reference --images {input:q} --count {params.images} --output {output:q}"
        " > {log:q} 2>&1"


rule evaluate:
    input:
        samples="<results>/rows/{row}/epoch-{epoch}/{set}/samples.npz",
        reference="<results>/evaluator/reference-validation.npz",
        graph="<results>/evaluator/graph.pb",
        spec=asked("<results>/rows/{row}/epoch-{epoch}/{set}/metrics.json", evaluate_spec),
    output:
        "<results>/rows/{row}/epoch-{epoch}/{set}/metrics.json",
    log:
        "<logs>/evaluate/{row}-{epoch}-{set}.log",
    benchmark:
        "<benchmarks>/evaluate/{row}-{epoch}-{set}.tsv"
    conda:
        "../envs/tensorflow.yaml"
    threads: CONFIG.request("evaluate").cpus
    resources:
        **resources_of("evaluate"),
    params:
        cache=f"{CONFIG.results}/evaluator/cache",
        # What depends on the samples alone, where there are several references; it takes `input`, so it reruns nothing.
        keep=lambda wildcards, input: "--keep" * bool(OTHER_REFERENCES and "/" not in wildcards.set),
        files=named_files,
    shell:
        "python -m dsr.commands.evaluate {params.files:q} --cache {params.cache:q} {params.keep}"
        " --threads {threads} --output {output:q} > {log:q} 2>&1"


# What depends on the samples alone is kept when there are several references: the network sees the samples once.
use rule evaluate as evaluate_again with:
    input:
        "<results>/rows/{row}/epoch-{epoch}/{set}/metrics.json",
        samples="<results>/rows/{row}/epoch-{epoch}/{set}/samples.npz",
        reference="<results>/evaluator/reference-{reference}.npz",
        graph="<results>/evaluator/graph.pb",
        spec=asked("<results>/rows/{row}/epoch-{epoch}/{set}/metrics-{reference}.json", evaluate_spec),
    output:
        "<results>/rows/{row}/epoch-{epoch}/{set}/metrics-{reference}.json",
    log:
        "<logs>/evaluate/{row}-{epoch}-{set}-{reference}.log",
    benchmark:
        "<benchmarks>/evaluate/{row}-{epoch}-{set}-{reference}.tsv"


# All reconstructions in one job, because at demo scale starting takes longer than scoring.
use rule evaluate as evaluate_reconstructions with:
    input:
        samples=files_of(RECONSTRUCTIONS, "samples"),
        reference="<results>/evaluator/reference-validation.npz",
        graph="<results>/evaluator/graph.pb",
        spec=lambda wildcards: [
            write_asked(f"{one.metrics}", spec_json(one.asked(CONFIG)[one.metrics])) for one in RECONSTRUCTIONS
        ],
    output:
        files_of(RECONSTRUCTIONS, "metrics"),
    log:
        "<logs>/evaluate/reconstruction.log",
    benchmark:
        "<benchmarks>/evaluate/reconstruction.tsv"
    params:
        keep=lambda wildcards, input: "--keep",
