# What a rehearsal makes in place of downloads, and its page (profiles/rehearsal, docs/planning.md). Real files that the
# paper's own results have already are linked to instead.
rule made_images:
    output:
        expand("<results>/data/raw/{split}.json", split=["train", "validation"]),
    log:
        "<logs>/made/images.log",
    conda:
        "../envs/torch.yaml"
    params:
        folder=f"{CONFIG.results}/data/raw",
        spec=spec_json(CONFIG.data),
    shell:
        "python -m dsr.commands.rehearse images --spec {params.spec:q} --output {params.folder:q} > {log:q} 2>&1"


rule made_encoder:
    output:
        weights="<results>/encoders/{encoder}/model.safetensors",
        settings=multiext("<results>/encoders/{encoder}/", "config.json", "preprocessor_config.json"),
    log:
        "<logs>/made/encoder-{encoder}.log",
    conda:
        "../envs/torch.yaml"
    params:
        real=lambda wildcards: f"{PAPER}/encoders/{wildcards.encoder}",
        spec=lambda wildcards: spec_json(CONFIG.encoding(wildcards.encoder, "none")),
    shell:
        'folder="$(dirname {output.weights:q})"; '
        "if [ -e {params.real:q}/model.safetensors ]; then ln -srf {params.real:q}/*.* $folder/; else"
        " python -m dsr.commands.rehearse encoder --spec {params.spec:q} --encoder {wildcards.encoder}"
        ' --output "$folder"; fi > {log:q} 2>&1'


rule made_decoder:
    output:
        "<results>/decoders/{encoder}.safetensors",
    log:
        "<logs>/made/decoder-{encoder}.log",
    conda:
        "../envs/torch.yaml"
    params:
        real=lambda wildcards: f"{PAPER}/decoders/{wildcards.encoder}.safetensors",
        spec=lambda wildcards: spec_json(CONFIG.autoencoder(wildcards.encoder, "none")),
    shell:
        "if [ -e {params.real:q} ]; then ln -srf {params.real:q} {output:q}; else"
        " python -m dsr.commands.rehearse decoder --spec {params.spec:q} --output {output:q}; fi > {log:q} 2>&1"


# The demo's small network, with the names of the real one; scores take longer with that.
rule made_graph:
    input:
        "<results>/data/prepared/train/index.npz",
    output:
        "<results>/evaluator/graph.pb",
    log:
        "<logs>/made/graph.log",
    conda:
        "../envs/tensorflow.yaml"
    params:
        real=f"{PAPER}/evaluator/graph.pb",
    shell:
        "if [ -e {params.real:q} ]; then ln -srf {params.real:q} {output:q}; else"
        " python -m dsr.commands.demo_graph --images {input:q} --steps 5 --output {output:q}; fi > {log:q} 2>&1"


rule rehearsal_page:
    input:
        lambda wildcards: files_of(REHEARSED, "metrics"),
    output:
        markdown="<results>/rehearsal.md",
        html=report(
            "<results>/rehearsal.html",
            category="1. Results",
            labels={"result": "rehearsal"},
            caption="../docs/captions/rehearsal.rst",
        ),
        measured="<results>/throughput.csv",
    log:
        "<logs>/rehearsal.log",
    localrule: True
    conda:
        "../envs/torch.yaml"
    params:
        config=CONFIG.model_dump_json(),
        rows=rehearsed_json,
    shell:
        "python -m dsr.commands.rehearse page --config {params.config:q} --rows {params.rows:q}"
        " --markdown-file {output.markdown:q} --html {output.html:q} --measured {output.measured:q} > {log:q} 2>&1"
        " && cat {output.markdown:q}"


# Everything that a rehearsal is for: `all`, whose figures need token maps of every row, takes longer.
rule rehearsal:
    input:
        "<results>/rehearsal.md",
        "<results>/table1.md",
        "<results>/tables/reconstruction.md",
        "<results>/provenance.md",
        expand("<results>/figures/{name}.png", name=["samples", "training", "fid"]),
    localrule: True
