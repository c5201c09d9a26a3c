"""Score a set of samples: FID, sFID, Inception Score, Precision and Recall in the ADM protocol."""

import contextlib
import logging
import platform
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dsr.base.files import read_record
from dsr.config.specs import EvaluateSpec, SampleSpec, content, require
from dsr.data import npz
from dsr.evaluation import frechet, inputs, precision_recall
from dsr.evaluation.cache import Arrays, Cache
from dsr.evaluation.frechet import Gaussian, Moments
from dsr.evaluation.inception import BATCH, Activations, Features, InceptionGraph, inception_score
from dsr.evaluation.inputs import ImageFile
from dsr.evaluation.precision_recall import Points, Radii

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """The files of one evaluation."""

    samples: Path
    """npz of the samples."""
    reference: Path
    """npz of the reference images, with or without stored statistics."""
    graph: Path
    """Frozen Inception graph."""
    cache: Path | None = None
    """Folder for what depends on the reference alone."""
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
    cache: Cache = field(default_factory=Cache)
    identity: Mapping[str, object] = field(default_factory=dict)

    def gaussians(self) -> tuple[Gaussian, Gaussian]:
        """Return those that FID and sFID compare: of the stored moments, otherwise of the features."""
        pooled, spatial = (
            frechet.fit(features) if stored is None else frechet.from_moments(stored)
            for features, stored in ((self.features.pooled, self.pooled), (self.features.spatial, self.spatial))
        )
        return pooled, spatial

    def radii(self, points: Points, k: int) -> Radii:
        """Radii of its pooled features, which are ``points``."""
        # Radii and distances that are compared with them must come from the same sums.
        key = {**self.identity, "neighbours": k, "sums": "float32"}
        names = ("half", "single")
        return Radii(**self.cache.arrays("radii", names, key, lambda: vars(precision_recall.radii(points, k))))


def evaluate(job: Job, spec: EvaluateSpec) -> dict[str, Any]:
    """Check the files, run the network and compute every metric; returns what the metrics file holds.

    Raises:
        UserError: if a file is not what it should be; nothing has been computed then.
    """
    seconds: dict[str, float] = {}
    with stage("checks", seconds):
        at_least = spec.neighbours + 1
        made = _check_made(job.samples, spec.samples) if spec.samples else {}
        expected = spec.samples.images if spec.samples else None
        samples = inputs.check_samples(job.samples, expected=expected, at_least=at_least)
        reference = inputs.check_reference(job.reference, samples, at_least=at_least)
        graph_sha256 = inputs.hash_graph(job.graph)
    cache = Cache(job.cache)
    with InceptionGraph(job.graph, job.threads) as network:
        identity = {"graph": graph_sha256, "tensorflow": network.version}
        with stage("reference_network", seconds):
            known = _image_set(reference, network, cache, identity)
        with stage("sample_network", seconds):
            drawn = _image_set(samples, network, cache if job.keep else Cache(), identity)
        weights = network.softmax_weights()
    scores, float16_blocks = score(known, drawn, weights, spec, seconds)
    origins = {"statistics": _origin(known.pooled), "spatial_statistics": _origin(known.spatial)}
    return {
        **scores,
        "spec": content(spec),
        "guidance": made.get("guidance"),
        "images": samples.images,
        "reference": reference.record() | origins,
        "samples": samples.record(),
        "graph_sha256": graph_sha256,
        "protocol": {"neighbours": spec.neighbours, "split": spec.split, "float16_blocks": float16_blocks},
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "tensorflow": network.version},
        "device": network.device,
        "seconds": seconds,
    }


def _check_made(samples: Path, spec: SampleSpec) -> dict[str, Any]:
    """Return what is recorded about the samples, which must be those that are to be scored."""
    record = samples.with_suffix(".json")
    made = read_record(record)
    require(record, made.get("spec", {}), spec)
    return made


def _image_set(file: ImageFile, network: InceptionGraph, cache: Cache, identity: Mapping[str, object]) -> ImageSet:
    def compute() -> Arrays:
        return vars(network.activations(npz.read_images(file.path, BATCH), file.images))

    identity = {"reference": file.sha256, **identity}
    features = Activations(**cache.arrays("activations", ("pooled", "spatial"), identity, compute))
    pooled = inputs.read_moments(file.path, "mu", "sigma", features.pooled.shape[1])
    spatial = inputs.read_moments(file.path, "mu_s", "sigma_s", features.spatial.shape[1])
    return ImageSet(features, pooled, spatial, cache, identity)


def _origin(stored: Moments | None) -> str:
    return f"stored ({stored.mean.dtype}, {stored.sigma.dtype})" if stored else "computed from the images"


def score(
    reference: ImageSet, samples: ImageSet, weights: Features, spec: EvaluateSpec, seconds: dict[str, float]
) -> tuple[dict[str, float], str]:
    """Return all scores, and how many blocks of distances the protocol kept in float16 ('5 of 5').

    ``weights`` (d, classes) are the softmax layer's; to ``seconds`` the wall time of each stage is added.
    """
    with stage("inception_score", seconds):
        inception = inception_score(samples.features.pooled, weights, spec.split)
    with stage("fid_and_sfid", seconds):
        fid, sfid = map(frechet.distance, samples.gaussians(), reference.gaussians())
    with stage("precision_recall", seconds):
        left, right = Points(reference.features.pooled), Points(samples.features.pooled)
        radii = reference.radii(left, spec.neighbours), samples.radii(right, spec.neighbours)
        half, single, blocks = precision_recall.members(left, right, *radii)
    scores = {
        "fid": fid,
        "sfid": sfid,
        "inception_score": inception,
        "precision": half.precision,
        "recall": half.recall,
        "precision_f32": single.precision,
        "recall_f32": single.recall,
    }
    return scores, f"{int(blocks.sum())} of {blocks.size}"


@contextlib.contextmanager
def stage(name: str, seconds: dict[str, float]) -> Iterator[None]:
    """Add the wall time of a stage to ``seconds``."""
    start = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - start, 3)
    _log.info("%s: %.1f s", name, seconds[name])
