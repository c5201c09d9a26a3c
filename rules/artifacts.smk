# Everything that is fetched: what it is, where from and how it is checked stands in src/dsr/artifacts/manifest.yaml.
# Sizes and hashes of first downloads are recorded in artifacts.lock and enforced from then on.
from dsr.artifacts.manifest import load as load_manifest

FETCH = f"python -m dsr.commands.fetch --lock {CONFIG.results}/artifacts.lock"


rule fetch_images:
    output:
        "<results>/data/raw/{split}.json",
    log:
        "<logs>/fetch/images-{split}.log",
    conda:
        # The Kaggle client needs a newer Python than the jobs have.
        "../envs/workflow.yaml"
    params:
        folder=f"{CONFIG.results}/data/raw/{{split}}",
        spec=lambda wildcards: json.dumps(
            {
                "images": getattr(CONFIG.data, f"{wildcards.split}_images"),
                "classes": CONFIG.data.classes,
            }
        ),
    shell:
        f"{FETCH} --artifact"
        " imagenet-{wildcards.split} --spec {params.spec:q} --output {params.folder}"
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
    params:
        spec=lambda wildcards: CONFIG.autoencoder(
            wildcards.encoder, "none"
        ).model_dump_json(),
    shell:
        f"{FETCH} --artifact"
        " {wildcards.encoder} --spec {params.spec:q} --output $(dirname {output.weights}) > {log} 2>&1"


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


# Where the release has none (SigLIP2-So400M with a single pass), statistics are computed.
RELEASED_STATISTICS = [
    rf"{re.escape(encoder)}(?=-{ttr}\.)"
    for encoder in encoders_with(statistics="released")
    for ttr in ("none", "single", "recursive")
    if f"statistics-{encoder}-{ttr}" in load_manifest().artifacts
]


ruleorder: fetch_statistics > statistics


rule fetch_statistics:
    output:
        "<results>/latents/{encoder}-{ttr}.safetensors",
    log:
        "<logs>/fetch/statistics-{encoder}-{ttr}.log",
    wildcard_constraints:
        encoder="|".join(RELEASED_STATISTICS) or "(?!)",
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


# ADM's reference batch: 10 000 images, and the statistics of the whole training set.
rule fetch_reference:
    output:
        "<results>/evaluator/reference-adm.npz",
    log:
        "<logs>/fetch/reference-adm.log",
    conda:
        "../envs/torch.yaml"
    shell:
        f"{FETCH} --artifact reference-imagenet256" " --output {output} > {log} 2>&1"
