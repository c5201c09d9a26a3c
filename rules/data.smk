# Images: ADM centre crops, made once, in shards that are independent jobs; or, with `data.prepared: false`, a list of
# the ImageFolder's files, which are then cropped whenever they are read.
import hashlib

SOURCE = (
    " --source {params.source:q} --size {params.size} --images {params.images} --classes {params.classes}"
    " --output {output:q} > {log:q} 2>&1"
)


@functools.cache
def class_times(artifact):
    """Hash of a given ImageFolder's classes and their times, which change where images are added, removed or moved."""
    folder = Path(CONFIG.copies.get(artifact) or os.devnull).expanduser()
    classes = filter(Path.is_dir, sorted(folder.iterdir()) if folder.is_dir() else [])
    times = "\n".join(f"{entry.name} {entry.stat().st_mtime_ns}" for entry in classes)
    return hashlib.sha256(times.encode()).hexdigest()[:12]


def raw_params():
    """What jobs are told of the images of a split before they are prepared, and what makes them run again."""
    return {
        "source": f"{CONFIG.results}/data/raw/{{split}}",
        "size": CONFIG.data.image_size,
        "images": lambda wildcards: getattr(CONFIG.data, f"{wildcards.split}_images"),
        "classes": CONFIG.data.classes,
        "listing": lambda wildcards: class_times(f"imagenet-{wildcards.split}"),
    }


def other_index(wildcards):
    """Index of the other split, whose classes must be the same."""
    split = "validation" if wildcards.split == "train" else "train"
    return f"{CONFIG.results}/data/prepared/{split}/index.npz"


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
