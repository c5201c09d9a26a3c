# What the manifest has for the rows of the configuration, what the user has already, and the images' way to crops.
import hashlib

from dsr.artifacts.manifest import load as load_manifest

FETCH = f"python -m dsr.commands.fetch --lock {CONFIG.results}/artifacts.lock"
MANIFEST = load_manifest()


def encoder_artifacts():
    """Ids of the encoders and decoders that the rows need, of those that are not in place."""
    if CONFIG.stand_ins:
        return []
    files = {}
    for encoder, _ in ENCODINGS:
        files[encoder] = encoder_weights(encoder)
        files[f"decoder-{encoder}"] = f"<results>/decoders/{encoder}.safetensors"
    return [name for name, path in files.items() if not Path(in_results(path)).exists()]


try:
    MANIFEST.refuse_unknown(
        [*encoder_artifacts(), *CONFIG.artifacts, *map(CONFIG.artifact, CONFIG.sources)]
    )
    MANIFEST.refuse_other_sizes(CONFIG, encoder_artifacts())
except UserError as error:
    raise WorkflowError(str(error)) from None


def local_copy(artifact):
    """Options of the fetch command for an artifact: a path or another source, if the configuration gives one of it."""
    path, source = CONFIG.copies.get(artifact), CONFIG.sources.get(artifact)
    if path:
        return ["--local", str(Path(path).expanduser())]
    return ["--source", source] if source else []


def published_statistics(encoders):
    """Regular expression for these encoders where the release has statistics for the TTR that follows the name."""
    # It has none of SigLIP2-So400M with a single pass; those are computed.
    known = [
        rf"{re.escape(encoder)}(?=-{ttr}\.)"
        for encoder in encoders
        for ttr in ("none", "single", "recursive")
        if f"statistics-{encoder}-{ttr}" in MANIFEST.artifacts
    ]
    return "|".join(known) or "(?!)"


def downloads(wildcards):
    """Everything that is fetched for the rows of the configuration."""
    encoders = {encoder for encoder, _ in ENCODINGS}
    files = ["<results>/evaluator/graph.pb"]
    files += [encoder_weights(encoder) for encoder in sorted(encoders)]
    files += [
        f"<results>/decoders/{encoder}.safetensors" for encoder in sorted(encoders)
    ]
    files += [
        f"<results>/latents/{encoder}-{ttr}.safetensors"
        for encoder, ttr in ENCODINGS
        if CONFIG.encoders[encoder].statistics == "released"
        and f"statistics-{encoder}-{ttr}" in MANIFEST.artifacts
    ]
    if CONFIG.data.source == "kaggle":
        files += ["<results>/data/raw/train.json", "<results>/data/raw/validation.json"]
    files += [
        f"<results>/rows/{row}/epoch-{final_epoch(row)}/ema.safetensors"
        for row in FETCHED
    ]
    files += [f"<results>/rows/{row}/start.safetensors" for row in STARTED]
    if "adm" in CONFIG.evaluation.references:
        files.append("<results>/evaluator/reference-adm.npz")
    return files


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
        "source": lambda wildcards: f"{CONFIG.results}/data/raw/{wildcards.split}",
        "size": CONFIG.data.image_size,
        "images": lambda wildcards: getattr(CONFIG.data, f"{wildcards.split}_images"),
        "classes": CONFIG.data.classes,
        "listing": lambda wildcards: class_times(f"imagenet-{wildcards.split}"),
    }


def other_index(wildcards):
    """Index of the other split, whose classes must be the same."""
    split = "validation" if wildcards.split == "train" else "train"
    return f"{CONFIG.results}/data/prepared/{split}/index.npz"
