# Everything that is fetched: what it is, where from and how it is checked stands in src/dsr/artifacts/manifest.yaml.
# Sizes and hashes of first downloads are recorded in artifacts.lock and enforced from then on. What `artifacts` in
# config.yaml gives a path of is checked and linked to instead.


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
        local=lambda wildcards: local_copy(wildcards.encoder),
        spec=lambda wildcards: spec_json(CONFIG.encoding(wildcards.encoder, "none")),
    shell:
        f"{FETCH} --artifact"
        " {wildcards.encoder} --spec {params.spec:q} {params.local:q}"
        ' --output "$(dirname {output.weights:q})" > {log:q} 2>&1'


rule fetch_decoder:
    output:
        "<results>/decoders/{encoder}.safetensors",
    log:
        "<logs>/fetch/decoder-{encoder}.log",
    conda:
        "../envs/torch.yaml"
    params:
        local=lambda wildcards: local_copy(f"decoder-{wildcards.encoder}"),
        spec=lambda wildcards: spec_json(CONFIG.autoencoder(wildcards.encoder, "none")),
    shell:
        f"{FETCH} --artifact"
        " decoder-{wildcards.encoder} --spec {params.spec:q} {params.local:q} --output {output:q} > {log:q} 2>&1"


ruleorder: fetch_statistics > statistics


rule fetch_statistics:
    output:
        "<results>/latents/{encoder}-{ttr}.safetensors",
    log:
        "<logs>/fetch/statistics-{encoder}-{ttr}.log",
    wildcard_constraints:
        encoder=published_statistics(encoders_with_released("statistics")),
    conda:
        "../envs/torch.yaml"
    params:
        local=lambda wildcards: local_copy(
            f"statistics-{wildcards.encoder}-{wildcards.ttr}"
        ),
        spec=lambda wildcards: spec_json(
            CONFIG.encoding(wildcards.encoder, wildcards.ttr)
        ),
    shell:
        f"{FETCH} --artifact"
        " statistics-{wildcards.encoder}-{wildcards.ttr} --spec {params.spec:q} {params.local:q}"
        " --output {output:q} > {log:q} 2>&1"


rule fetch_graph:
    output:
        "<results>/evaluator/graph.pb",
    log:
        "<logs>/fetch/graph.log",
    conda:
        "../envs/torch.yaml"
    params:
        artifact="inception-graph",
        local=local_copy("inception-graph"),
    shell:
        f"{FETCH} --artifact"
        " {params.artifact} {params.local:q} --output {output:q} > {log:q} 2>&1"


# ADM's reference batch: 10 000 images, and the statistics of the whole training set.
use rule fetch_graph as fetch_reference with:
    output:
        "<results>/evaluator/reference-adm.npz",
    log:
        "<logs>/fetch/reference-adm.log",
    params:
        artifact="reference-imagenet256",
        local=local_copy("reference-imagenet256"),


# For clusters on which only the login node has internet.
rule downloads:
    input:
        downloads,
    localrule: True
