# Images: ADM centre crops, made once, in shards that are independent jobs; or, with `data.prepared: false`, a list of
# the ImageFolder's files, which are then cropped whenever they are read.
SOURCE = (
    " --source {params.source:q} --size {params.size} --images {params.images} --classes {params.classes}"
    " --output {output:q} > {log:q} 2>&1"
)

if CONFIG.data.source in ("imagefolder", "kaggle"):

    rule fetch_images:
        output:
            "<results>/data/raw/{split}.json",
        log:
            "<logs>/fetch/images-{split}.log",
        conda:
            # The Kaggle client needs a newer Python than the jobs have.
            "../envs/workflow.yaml"
        threads: CONFIG.request("fetch_images").cpus
        resources:
            **resources_of("fetch_images"),
            # Both splits come from one archive: profiles/default lets one job at a time download it.
            kaggle=1,
        params:
            folder=f"{CONFIG.results}/data/raw/{{split}}",
            local=lambda wildcards: local_copy(f"imagenet-{wildcards.split}"),
            spec=lambda wildcards: json.dumps(
                {"images": getattr(CONFIG.data, f"{wildcards.split}_images"), "classes": CONFIG.data.classes}
            ),
        shell:
            f"{FETCH} --artifact"
            " imagenet-{wildcards.split} --spec {params.spec:q} {params.local:q} --output {params.folder:q}"
            " > {log:q} 2>&1 && echo {params.spec:q} > {output:q}"


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
        threads: CONFIG.request("prepare_shard").cpus
        resources:
            **resources_of("prepare_shard"),
        params:
            **raw_params(),
            shards=CONFIG.data.shards,
        shell:
            "python -m dsr.commands.prepare shard --shard {wildcards.shard} --shards {params.shards}" f"{SOURCE}"

    rule prepare_index:
        input:
            expand("<results>/data/prepared/{{split}}/shard-{shard:05d}.zip", shard=range(CONFIG.data.shards)),
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
