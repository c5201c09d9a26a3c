# What the manifest has for the rows of the configuration, what the user has already, and the images' way to crops.
import hashlib

from dsr.artifacts.manifest import load as load_manifest

FETCH = f"python -m dsr.commands.fetch --lock {CONFIG.results}/artifacts.lock"
MANIFEST = load_manifest()

# Encoders and decoders that the rows need, by id.
ENCODER_ARTIFACTS = {name: f"<results>/encoders/{name}/model.safetensors" for name, _ in ENCODINGS}
ENCODER_ARTIFACTS |= {f"decoder-{name}": f"<results>/decoders/{name}.safetensors" for name, _ in ENCODINGS}
# Where the manifest has released statistics, of those that should be; it has none of SigLIP2-So400M with a single pass.
RELEASED_STATISTICS = [
    (encoder, ttr)
    for encoder, entry in CONFIG.encoders.items()
    for ttr in ("none", "single", "recursive")
    if entry.statistics == "released" and f"statistics-{encoder}-{ttr}" in MANIFEST.artifacts
]

try:
    absent = [
        name for name, file in ENCODER_ARTIFACTS.items() if not CONFIG.stand_ins and not Path(in_results(file)).exists()
    ]
    MANIFEST.refuse_unknown([*absent, *CONFIG.artifacts, *map(CONFIG.artifact, CONFIG.sources)])
    MANIFEST.refuse_other_sizes(CONFIG, absent)
except UserError as error:
    raise WorkflowError(str(error)) from None


def local_copy(artifact):
    """Options of the fetch command for an artifact: a path or another source, if the configuration gives one of it."""
    path, source = CONFIG.copies.get(artifact), CONFIG.sources.get(artifact)
    if path:
        return ["--local", str(Path(path).expanduser())]
    return ["--source", source] if source else []


@functools.cache
def class_times(artifact):
    """Hash of a given ImageFolder's classes and their times, which change where images are added, removed or moved."""
    folder = Path(CONFIG.copies.get(artifact) or os.devnull).expanduser()
    classes = filter(Path.is_dir, sorted(folder.iterdir()) if folder.is_dir() else [])
    times = "\n".join(f"{entry.name} {entry.stat().st_mtime_ns}" for entry in classes)
    return hashlib.sha256(times.encode()).hexdigest()[:12]


def link_real(wildcards, output):
    """In a rehearsal, the start of a shell line that ends in links where the paper's own results have these files."""
    if not REHEARSAL:
        return ""
    real = [str(Path(PAPER, Path(file).relative_to(CONFIG.results))) for file in output]
    return f"[ -e {real[0]} ] && exec ln -srft {Path(output[0]).parent} {' '.join(real)};"


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
