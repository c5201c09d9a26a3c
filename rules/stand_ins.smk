# Everything that stands in for a download. In the demo: handwritten digits for ImageNet, tiny encoders with planted
# outliers for SigLIP2, a small decoder and a small classifier in place of Inception, both trained here on the images at
# hand, which may be a user's own. In a rehearsal: noise, networks of the real shapes with random weights, and the demo's
# classifier, as long as the paper's own results have no real ones.
if CONFIG.data.source in ("digits", "made"):

    rule stand_in_images:
        output:
            expand("<results>/data/raw/{split}.json", split=["train", "validation"]),
        log:
            "<logs>/stand-ins/images.log",
        localrule: not REHEARSAL
        conda:
            "../envs/torch.yaml"
        params:
            folder=f"{CONFIG.results}/data/raw",
            # Without what images do not depend on.
            spec=spec_json(CONFIG.data.model_copy(update={"flip": True, "prepared": True, "shards": 1})),
        shell:
            "python -m dsr.commands.demo images --spec {params.spec:q} --output {params.folder:q} > {log:q} 2>&1"


rule stand_in_encoder:
    output:
        weights="<results>/encoders/{encoder}/model.safetensors",
        settings=multiext("<results>/encoders/{encoder}/", "config.json", "preprocessor_config.json"),
    log:
        "<logs>/stand-ins/encoder-{encoder}.log",
    localrule: not REHEARSAL
    conda:
        "../envs/torch.yaml"
    params:
        spec=lambda wildcards: spec_json(CONFIG.encoding(wildcards.encoder, "none")),
        link=link_real,
    shell:
        "{params.link} python -m dsr.commands.demo encoder --spec {params.spec:q}"
        f"{' --name {wildcards.encoder}' * REHEARSAL}"
        ' --output "$(dirname {output.weights:q})" > {log:q} 2>&1'


rule stand_in_decoder:
    input:
        # That of a rehearsal is not trained.
        encoder=[] if REHEARSAL else "<results>/encoders/{encoder}/model.safetensors",
        images=[] if REHEARSAL else "<results>/data/prepared/train/index.npz",
    output:
        "<results>/decoders/{encoder}.safetensors",
    log:
        "<logs>/stand-ins/decoder-{encoder}.log",
    conda:
        "../envs/torch.yaml"
    params:
        spec=lambda wildcards: spec_json(CONFIG.autoencoder(wildcards.encoder, "none")),
        files=named_files,
        link=link_real,
    shell:
        "{params.link} python -m dsr.commands.demo decoder --spec {params.spec:q} {params.files:q} --output {output:q}"
        " > {log:q} 2>&1"


rule stand_in_graph:
    input:
        "<results>/data/prepared/train/index.npz",
    output:
        "<results>/evaluator/graph.pb",
    log:
        "<logs>/stand-ins/graph.log",
    localrule: not REHEARSAL
    conda:
        "../envs/tensorflow.yaml"
    params:
        link=link_real,
    shell:
        "{params.link} python -m dsr.commands.demo_graph --images {input:q} --output {output:q}"
        f"{' --steps 5' * REHEARSAL}"
        " > {log:q} 2>&1"
