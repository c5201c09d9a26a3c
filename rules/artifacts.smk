# Everything that is fetched: what it is, where from and how it is checked stands in src/dsr/artifacts/manifest.yaml.
# Sizes and hashes of first downloads are recorded in artifacts.lock and enforced from then on. What `artifacts` in
# config.yaml gives a path of is checked and linked to instead. Params that take `output` rerun nothing: they follow from it.


use rule fetch_weights as fetch_encoder with:
    output:
        multiext("<results>/encoders/{encoder}/", "model.safetensors", "config.json", "preprocessor_config.json"),
    log:
        "<logs>/fetch/encoder-{encoder}.log",
    params:
        artifact=lambda wildcards, output: wildcards.encoder,
        local=lambda wildcards: local_copy(wildcards.encoder),
        spec=lambda wildcards: spec_json(CONFIG.encoding(wildcards.encoder, "none")),
        place=lambda wildcards, output: str(Path(output[0]).parent),


use rule fetch_weights as fetch_decoder with:
    output:
        "<results>/decoders/{encoder}.safetensors",
    log:
        "<logs>/fetch/decoder-{encoder}.log",
    params:
        artifact=lambda wildcards, output: f"decoder-{wildcards.encoder}",
        local=lambda wildcards: local_copy(f"decoder-{wildcards.encoder}"),
        spec=lambda wildcards: spec_json(CONFIG.autoencoder(wildcards.encoder, "none")),


ruleorder: fetch_statistics > statistics


use rule fetch_weights as fetch_statistics with:
    output:
        "<results>/latents/{encoder}-{ttr}.safetensors",
    log:
        "<logs>/fetch/statistics-{encoder}-{ttr}.log",
    wildcard_constraints:
        encoder="|".join(rf"{re.escape(encoder)}(?=-{ttr}\.)" for encoder, ttr in RELEASED_STATISTICS) or "(?!)",
    params:
        artifact=lambda wildcards, output: "statistics-{}-{}".format(*wildcards),
        local=lambda wildcards: local_copy("statistics-{}-{}".format(*wildcards)),
        spec=lambda wildcards: spec_json(CONFIG.encoding(*wildcards)),


# The evaluator's network, and ADM's reference batch: 10 000 images, and the statistics of the whole training set.
EVALUATOR = {"graph.pb": "inception-graph", "reference-adm.npz": "reference-imagenet256"}


use rule fetch_weights as fetch_evaluator with:
    output:
        "<results>/evaluator/{file}",
    log:
        "<logs>/fetch/{file}.log",
    wildcard_constraints:
        file=one_of(EVALUATOR),
    params:
        artifact=lambda wildcards: EVALUATOR[wildcards.file],
        local=lambda wildcards: local_copy(EVALUATOR[wildcards.file]),
        spec=lambda wildcards, output: "{}",


# For clusters on which only the login node has internet.
rule downloads:
    input:
        "<results>/evaluator/graph.pb",
        expand("<results>/evaluator/reference-{name}.npz", name={"adm"}.intersection(CONFIG.evaluation.references)),
        ENCODER_ARTIFACTS.values(),
        [
            f"<results>/latents/{encoder}-{ttr}.safetensors"
            for encoder, ttr in RELEASED_STATISTICS
            if (encoder, ttr) in ENCODINGS
        ],
        expand("<results>/data/raw/{split}.json", split=["train", "validation"] * (CONFIG.data.source == "kaggle")),
        [f"<results>/rows/{row}/epoch-{final_epoch(row)}/ema.safetensors" for row in FETCHED],
        [f"<results>/rows/{row}/start.safetensors" for row in STARTED],
    localrule: True
