"""Score a set of samples: FID, sFID, Inception Score, Precision and Recall in the ADM protocol."""

import contextlib
import hashlib
import json
import logging
import platform
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr.base.errors import UserError, explain
from dsr.base.files import read_record, sha256, write_json
from dsr.config.specs import EvaluateSpec, ReconstructSpec, content, require
from dsr.data import npz
from dsr.evaluation import frechet, inputs
from dsr.evaluation.frechet import Gaussian, Moments
from dsr.evaluation.inception import BATCH, Activations, Features, InceptionGraph, inception_score
from dsr.evaluation.inputs import ImageFile
from dsr.evaluation.precision_recall import Points, Radii, members, radii

Arrays = Mapping[str, Features]
Pixels = npt.NDArray[np.uint8]

NEIGHBOURS = 3
"""k of Precision and Recall, the official evaluator's."""
SPLIT = 5000
"""Images in a split of the Inception Score, the official evaluator's."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """Sets of images, and the reference images that each of them is compared with."""

    samples: tuple[Path, ...]
    """npz of each set."""
    reference: Path
    """npz of the reference images, with or without stored statistics."""
    graph: Path
    """Frozen Inception graph."""
    output: tuple[Path, ...]
    """JSON file to write of each set."""
    spec: tuple[EvaluateSpec, ...] = ()
    """What each set's own record must say; by default anything."""
    cache: Path | None = None
    """Folder for what depends on the reference alone; without it everything is computed anew."""
    threads: int = 1
    """CPU threads of TensorFlow; NumPy's are `OMP_NUM_THREADS`, which Snakemake sets to the rule's."""
    keep: bool = False
    """Keep what depends on the samples alone in the cache too, for a comparison with other references."""


@dataclass(frozen=True)
class ImageSet:
    """Features of a set of images, statistics that were stored with them, and where what follows from them is kept."""

    features: Activations
    pooled: Moments | None = None
    spatial: Moments | None = None
    cache: Path | None = None
    identity: Mapping[str, object] = field(default_factory=dict)

    def gaussians(self) -> tuple[Gaussian, Gaussian]:
        """Return those that FID and sFID compare: of the stored moments, otherwise of the features."""
        pooled, spatial = (
            frechet.fit(features) if stored is None else frechet.from_moments(stored)
            for features, stored in ((self.features.pooled, self.pooled), (self.features.spatial, self.spatial))
        )
        return pooled, spatial

    def radii(self, points: Points) -> Radii:
        """Radii of its pooled features, which are ``points``."""
        # Radii and distances that are compared with them must come from the same sums.
        key = {**self.identity, "neighbours": NEIGHBOURS, "sums": "float32"}
        found = cached(self.cache, "radii", ("half", "single"), key, lambda: vars(radii(points, NEIGHBOURS)))
        return Radii(**found)


def evaluate(job: Job) -> None:
    """Score sets of images against reference images: FID, sFID, Inception Score, Precision and Recall (ADM protocol).

    The files of all sets are checked before the network runs.

    Raises:
        UserError: if a file is not what it should be; nothing has been computed then.
    """
    specs = job.spec or (EvaluateSpec(),) * len(job.samples)
    if not len(job.samples) == len(specs) == len(job.output):
        raise UserError("--samples, --output and --spec, if it is given: expected as many of each")
    with stage("checks"):
        sets = [_check(samples, spec) for samples, spec in zip(job.samples, specs, strict=True)]
        reference = inputs.check_reference(job.reference, *(samples for samples, _ in sets), at_least=NEIGHBOURS + 1)
        for spec, (samples, _) in zip(specs, sets, strict=True):
            if isinstance(spec.samples, ReconstructSpec) and reference.images != samples.images:
                raise UserError(
                    f"{job.reference}: {reference.images} images; {samples.path} has {samples.images} reconstructions,"
                    " which are compared with the images that they are of"
                )
        graph_sha256 = sha256(job.graph)
    with InceptionGraph(job.graph, job.threads) as network:
        identity = {"graph": graph_sha256, "tensorflow": network.version}
        with stage("reference_network"):
            known = _image_set(reference, network, job.cache, identity)
        for checked, spec, output in zip(sets, specs, job.output, strict=True):
            write_json(output, _evaluate(job, (reference, known), checked, spec, network, identity))


def _check(path: Path, spec: EvaluateSpec) -> tuple[ImageFile, dict[str, Any]]:
    """Return the samples, and what is recorded of them, if it is asked for."""
    made = {}
    if spec.samples:
        made = read_record(record := path.with_suffix(".json"))
        require(record, made.get("spec", {}), spec.samples)
    expected = spec.samples.images if spec.samples else None
    return inputs.check_samples(path, expected=expected, at_least=NEIGHBOURS + 1), made


def _evaluate(
    job: Job,
    against: tuple[ImageFile, ImageSet],
    checked: tuple[ImageFile, dict[str, Any]],
    spec: EvaluateSpec,
    network: InceptionGraph,
    identity: Mapping[str, str],
) -> dict[str, Any]:
    """Compute every metric of one set; returns what its metrics file holds."""
    (reference, known), (samples, made) = against, checked
    with stage("sample_network"):
        drawn = _image_set(samples, network, job.cache if job.keep else None, identity)
    scores, float16_blocks = score(known, drawn, network.softmax_weights())
    if isinstance(spec.samples, ReconstructSpec):
        with stage("psnr_ssim"):
            scores |= fidelity(samples.path, reference.path, job.threads)
        scores |= {name: made[name] for name in ("statistics_distance", "unexplained")}
    origins = {"statistics": _origin(known.pooled), "spatial_statistics": _origin(known.spatial)}
    return {
        **scores,
        "spec": content(spec),
        "guidance": made.get("guidance"),
        "images": samples.images,
        "reference": reference.record() | origins,
        "samples": samples.record(),
        "graph_sha256": identity["graph"],
        "protocol": {"neighbours": NEIGHBOURS, "split": SPLIT, "float16_blocks": float16_blocks},
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "tensorflow": network.version},
        "device": network.device,
    }


def _image_set(
    file: ImageFile, network: InceptionGraph, cache: Path | None, identity: Mapping[str, object]
) -> ImageSet:
    def compute() -> Arrays:
        return vars(network.activations(npz.read_images(file.path, BATCH)))

    identity = {"reference": file.sha256, **identity}
    features = Activations(**cached(cache, "activations", ("pooled", "spatial"), identity, compute))
    pooled = inputs.read_moments(file.path, "mu", "sigma", features.pooled.shape[1])
    spatial = inputs.read_moments(file.path, "mu_s", "sigma_s", features.spatial.shape[1])
    return ImageSet(features, pooled, spatial, cache, identity)


def cached(
    folder: Path | None,
    kind: str,
    names: Collection[str],
    identity: Mapping[str, object],
    compute: Callable[[], Arrays],
) -> Arrays:
    """Return the arrays of an earlier call with the same ``kind`` and ``identity``, or compute and keep them.

    They lie in ``folder``, which can always be deleted. A kept file that is damaged, or does not hold exactly
    ``names``, is replaced. What cannot be read or written is a warning.
    """
    if folder is None:
        return compute()
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    path = folder / f"{kind}-{digest}.npz"
    try:
        if path.exists():
            kept = {key: npz.read_array(path, key) for key in npz.keys(path)}
            if set(kept) != set(names):
                raise UserError(f"{path}: holds {', '.join(kept)}, expected {', '.join(names)}")
            log.info("%s: from %s", kind, path)
            return kept
    except (UserError, OSError) as error:
        log.warning("%s; %s is computed again", explain(error) or error, kind)
    arrays = compute()
    try:
        npz.write_arrays(path, arrays)
    except OSError as error:
        log.warning("%s; %s is not kept for the next evaluation", explain(error), kind)
    return arrays


def _origin(stored: Moments | None) -> str:
    return f"stored ({stored.mean.dtype}, {stored.sigma.dtype})" if stored else "computed from the images"


def score(reference: ImageSet, samples: ImageSet, weights: Features) -> tuple[dict[str, float], str]:
    """Return all scores, and how many blocks of distances the protocol kept in float16 ('5 of 5').

    ``weights`` (d, classes) are the softmax layer's.
    """
    count, width = samples.features.pooled.shape
    if count <= width:
        log.warning("%d images for %d features: FID says little; published values are of 50 000 images", count, width)
    with stage("inception_score"):
        inception = inception_score(samples.features.pooled, weights, SPLIT)
    with stage("fid_and_sfid"):
        fid, sfid = map(frechet.distance, samples.gaussians(), reference.gaussians())
    with stage("precision_recall"):
        left, right = Points(reference.features.pooled), Points(samples.features.pooled)
        half, single, blocks = members(left, right, reference.radii(left), samples.radii(right))
    scores = {
        "fid": fid,
        "sfid": sfid,
        "inception_score": inception,
        "precision": float(half.samples.mean()),
        "recall": float(half.references.mean()),
        "precision_f32": float(single.samples.mean()),
        "recall_f32": float(single.references.mean()),
    }
    return scores, f"{int(blocks.sum())} of {blocks.size}"


def fidelity(reconstructions: Path, originals: Path, threads: int) -> dict[str, float]:
    """Return the mean PSNR (dB) and SSIM of scikit-image over all images, whose originals are in the same order."""
    values: list[tuple[float, float]] = []
    with ThreadPoolExecutor(threads) as pool:
        for pair in zip(npz.read_images(reconstructions), npz.read_images(originals), strict=True):
            values += pool.map(_compare, *pair)
    psnr, ssim = np.mean(values, axis=0)
    return {"psnr": float(psnr), "ssim": float(ssim)}


def _compare(image: Pixels, original: Pixels) -> tuple[float, float]:
    """PSNR and SSIM of one image, uint8 (H, W, 3): values from 0 to 255 over all channels; for SSIM the mean over
    channels, and the Gaussian window of Wang et al. 2004: deviation 1.5, 11 pixels wide, borders left out."""
    # It takes a second, which the scores of samples do without.
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    psnr = peak_signal_noise_ratio(original, image, data_range=255)  # type: ignore[no-untyped-call]
    options = {"channel_axis": -1, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    ssim = structural_similarity(original, image, data_range=255, **options)  # type: ignore[no-untyped-call]
    return float(psnr), float(ssim)


@contextlib.contextmanager
def stage(name: str) -> Iterator[None]:
    """Log the wall time of a stage."""
    start = time.perf_counter()
    yield
    log.info("%s: %.1f s", name, time.perf_counter() - start)
