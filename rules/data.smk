# Images: ADM centre crops, made once, in shards that are independent jobs; or, with `data.prepared: false`, a list of
# the ImageFolder's files, which are then cropped whenever they are read.
if CONFIG.data.prepared:

    rule prepare_shard:
        input:
            raw_images,
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
            source=raw_folder,
            size=CONFIG.data.image_size,
            shards=CONFIG.data.shards,
            images=lambda wildcards: getattr(CONFIG.data, f"{wildcards.split}_images"),
            classes=CONFIG.data.classes,
            listing=raw_listing,
        shell:
            "python -m dsr.commands.prepare shard --source {params.source:q} --size {params.size}"
            " --images {params.images} --classes {params.classes}"
            " --shard {wildcards.shard} --shards {params.shards} --output {output:q} > {log:q} 2>&1"

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
            raw_images,
        output:
            "<results>/data/prepared/{split}/index.npz",
        log:
            "<logs>/prepare/{split}-index.log",
        conda:
            "../envs/torch.yaml"
        params:
            source=raw_folder,
            size=CONFIG.data.image_size,
            images=lambda wildcards: getattr(CONFIG.data, f"{wildcards.split}_images"),
            classes=CONFIG.data.classes,
            listing=raw_listing,
            other=other_index,
        shell:
            "python -m dsr.commands.prepare folder --source {params.source:q} --size {params.size}"
            " --images {params.images} --classes {params.classes} --other {params.other:q}"
            " --output {output:q} > {log:q} 2>&1"
