# Images: ADM centre crops, made once, in shards that are independent jobs; or, with `data.prepared: false`, a list of
# the ImageFolder's files, which are then cropped whenever they are read.
SOURCE = (
    " --source {params.source:q} --size {params.size} --images {params.images} --classes {params.classes}"
    " --output {output:q} > {log:q} 2>&1"
)


if CONFIG.data.prepared:

    rule prepare_shard:
        input:
            "<results>/data/raw/{split}.json",
        output:
            "<results>/data/prepared/{split}/shard-{shard}.zip",
        log:
            "<logs>/prepare/{split}-{shard}.log",
        conda:
            "../envs/torch.yaml"
        threads: threads_of("prepare_shard")
        resources:
            **resources_of("prepare_shard"),
        params:
            **raw_params(),
            shards=CONFIG.data.shards,
        shell:
            "python -m dsr.commands.prepare shard --shard {wildcards.shard} --shards {params.shards}"
            f"{SOURCE}"

    rule prepare_index:
        input:
            expand(
                "<results>/data/prepared/{{split}}/shard-{shard:05d}.zip",
                shard=range(CONFIG.data.shards),
            ),
        output:
            "<results>/data/prepared/{split}/index.npz",
        log:
            "<logs>/prepare/{split}-index.log",
        conda:
            "../envs/torch.yaml"
        params:
            other=other_index,
        shell:
            "python -m dsr.commands.prepare index --inputs {input:q} --other {params.other:q} --output {output:q}"
            " > {log:q} 2>&1"

else:

    rule list_images:
        input:
            "<results>/data/raw/{split}.json",
        output:
            "<results>/data/prepared/{split}/index.npz",
        log:
            "<logs>/prepare/{split}-index.log",
        conda:
            "../envs/torch.yaml"
        params:
            **raw_params(),
            other=other_index,
        shell:
            f"python -m dsr.commands.prepare folder --other {{params.other:q}}{SOURCE}"
