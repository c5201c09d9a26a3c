# Everything that is fetched: what it is, where from and how it is checked stands in src/dsr/artifacts/manifest.yaml.
# Sizes and hashes of first downloads are recorded in artifacts.lock and enforced from then on.
FETCH = f"python -m dsr.commands.fetch --lock {CONFIG.results}/artifacts.lock"


rule fetch_images:
    output:
        "<results>/data/raw/{split}.json",
    log:
        "<logs>/fetch/images-{split}.log",
    conda:
        "../envs/torch.yaml"
    params:
        folder=f"{CONFIG.results}/data/raw/{{split}}",
        spec=lambda wildcards: json.dumps(
            {
                "images": getattr(CONFIG.data, f"{wildcards.split}_images"),
                "classes": CONFIG.data.classes,
            }
        ),
    shell:
        FETCH
        + " --artifact imagenet-{wildcards.split} --spec {params.spec:q} --output {params.folder}"
        " > {log} 2>&1 && echo {params.spec:q} > {output}"


rule fetch_encoder:
    output:
        weights="<results>/encoders/{encoder}/model.safetensors",
        settings=multiext(
            "<results>/encoders/{encoder}/", "config.json", "preprocessor_config.json"
        ),
    log:
        "<logs>/fetch/encoder-{encoder}.log",
    conda:
        "../envs/torch.yaml"
    shell:
        f"{FETCH} --artifact"
        " {wildcards.encoder} --output $(dirname {output.weights}) > {log} 2>&1"


rule fetch_decoder:
    output:
        "<results>/decoders/{encoder}.safetensors",
    log:
        "<logs>/fetch/decoder-{encoder}.log",
    conda:
        "../envs/torch.yaml"
    params:
        spec=lambda wildcards: CONFIG.autoencoder(
            wildcards.encoder, "none"
        ).model_dump_json(),
    shell:
        FETCH
        + " --artifact decoder-{wildcards.encoder} --spec {params.spec:q} --output {output} > {log} 2>&1"


rule fetch_statistics:
    output:
        "<results>/latents/{encoder}-{ttr}.safetensors",
    log:
        "<logs>/fetch/statistics-{encoder}-{ttr}.log",
    wildcard_constraints:
        encoder=one_of(encoders_with(statistics="released")),
    conda:
        "../envs/torch.yaml"
    params:
        spec=lambda wildcards: CONFIG.autoencoder(
            wildcards.encoder, wildcards.ttr
        ).model_dump_json(),
    shell:
        FETCH
        + " --artifact statistics-{wildcards.encoder}-{wildcards.ttr} --spec {params.spec:q}"
        " --output {output} > {log} 2>&1"


rule fetch_graph:
    output:
        "<results>/evaluator/graph.pb",
    log:
        "<logs>/fetch/graph.log",
    conda:
        "../envs/torch.yaml"
    shell:
        f"{FETCH} --artifact inception-graph" " --output {output} > {log} 2>&1"
