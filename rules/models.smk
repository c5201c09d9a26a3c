# A folder for each row and milestone that can be used elsewhere: weights and what images are drawn with, scored or not.
rule model_folder:
    input:
        weights="<results>/rows/{row}/epoch-{epoch}/ema.safetensors",
        statistics=lambda wildcards: latent_inputs(wildcards)["statistics"],
        decoder=decoder_of,
        # How its images are drawn unless another guidance is asked for.
        spec=asked(
            "<results>/models/{row}-{epoch}/config.json",
            functools.partial(sample_spec, set=f"{UNGUIDED}-seed{FIRST_SEED}"),
        ),
    output:
        config="<results>/models/{row}-{epoch}/config.json",
        weights="<results>/models/{row}-{epoch}/model.safetensors",
        statistics="<results>/models/{row}-{epoch}/statistics.safetensors",
        decoder="<results>/models/{row}-{epoch}/decoder.safetensors",
    log:
        "<logs>/models/{row}-{epoch}.log",
    localrule: True
    conda:
        "../envs/torch.yaml"
    shell:
        "(cp {input.spec:q} {output.config:q}; ln -srf {input.weights:q} {output.weights:q};"
        " ln -srf {input.statistics:q} {output.statistics:q}; ln -srf {input.decoder:q} {output.decoder:q})"
        " > {log:q} 2>&1"


# What stands beside it on a hub.
rule card:
    input:
        lambda wildcards: files_of(matching(reported(CONFIG.rows), wildcards), "metrics", "chosen"),
        "<results>/models/{row}-{epoch}/config.json",
        weights="<results>/rows/{row}/epoch-{epoch}/ema.safetensors",
        config=config_file,
    output:
        card="<results>/models/{row}-{epoch}/README.md",
    log:
        "<logs>/models/{row}-{epoch}-card.log",
    localrule: True
    conda:
        "../envs/torch.yaml"
    params:
        entries=lambda wildcards: entries_json(matching(reported(CONFIG.rows), wildcards), *SCORE_FIELDS.split()),
    shell:
        "python -m dsr.commands.report card --config {input.config:q} --entries {params.entries:q}"
        " --weights {input.weights:q} --output {output.card:q} > {log:q} 2>&1"


rule model_card:
    input:
        [f"<results>/models/{row}-{epoch}/README.md" for row in CONFIG.rows for epoch in CONFIG.epochs(row)],
    localrule: True
