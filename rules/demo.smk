# Everything that stands in for a download at demo scale, and nothing else: handwritten digits for ImageNet, tiny
# encoders with planted outliers for SigLIP2, a small decoder and a small classifier in place of Inception, both trained
# here on the images at hand, which may be a user's own.
if CONFIG.data.source == "digits":

    rule demo_digits:
        output:
            expand("<results>/data/raw/{split}.json", split=["train", "validation"]),
        log:
            "<logs>/demo/digits.log",
        localrule: True
        conda:
            "../envs/torch.yaml"
        params:
            folder=f"{CONFIG.results}/data/raw",
        shell:
            "python -m dsr.commands.demo digits --output {params.folder:q} > {log:q} 2>&1"


rule demo_encoder:
    output:
        weights="<results>/encoders/{encoder}/model.safetensors",
        settings=multiext("<results>/encoders/{encoder}/", "config.json", "preprocessor_config.json"),
    log:
        "<logs>/demo/encoder-{encoder}.log",
    localrule: True
    conda:
        "../envs/torch.yaml"
    params:
        spec=lambda wildcards: spec_json(CONFIG.encoders[wildcards.encoder]),
    shell:
        'python -m dsr.commands.demo encoder --spec {params.spec:q} --output "$(dirname {output.weights:q})" > {log:q} 2>&1'


rule demo_decoder:
    input:
        encoder="<results>/encoders/{encoder}/model.safetensors",
        images="<results>/data/prepared/train/index.npz",
    output:
        "<results>/decoders/{encoder}.safetensors",
    log:
        "<logs>/demo/decoder-{encoder}.log",
    conda:
        "../envs/torch.yaml"
    params:
        spec=lambda wildcards: spec_json(CONFIG.autoencoder(wildcards.encoder, "none")),
    shell:
        'python -m dsr.commands.demo decoder --spec {params.spec:q} --encoder "$(dirname {input.encoder:q})"'
        " --images {input.images:q} --output {output:q} > {log:q} 2>&1"


rule demo_graph:
    input:
        "<results>/data/prepared/train/index.npz",
    output:
        "<results>/evaluator/graph.pb",
    log:
        "<logs>/demo/graph.log",
    localrule: True
    conda:
        "../envs/tensorflow.yaml"
    shell:
        "python -m dsr.commands.demo_graph --images {input:q} --output {output:q} > {log:q} 2>&1"
