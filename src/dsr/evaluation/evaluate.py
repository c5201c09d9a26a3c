"""Score a set of samples: FID, sFID, Inception Score, Precision and Recall in the ADM protocol."""

from __future__ import annotations

import contextlib
import logging
import platform
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from dsr.data import npz
from dsr.evaluation import frechet, inputs, near
from dsr.evaluation.cache import Arrays, Cache
from dsr.evaluation.frechet import Moments
from dsr.evaluation.inception import BATCH, Activations, Features, InceptionGraph
from dsr.evaluation.inception_score import inception_score
from dsr.evaluation.inputs import ImageFile
from dsr.evaluation.neighbours import Points
from dsr.evaluation.selfcheck import check_frechet
from dsr.evaluation.specs import EvaluateSpec

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
    """CPU threads."""
    keep: bool = False
    """Keep what depends on the samples alone in the cache too, for a comparison with other references."""


@dataclass
class Stages:
    """Wall time of each stage in seconds."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time one stage."""
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 3)
        _log.info("%s: %.1f s", name, self.seconds[name])


@dataclass(frozen=True)
class ImageSet:
    """Features of a set of images, and where what is derived from them alone is kept."""

    features: Activations
    cache: Cache = field(default_factory=Cache)
    identity: Mapping[str, object] = field(default_factory=dict)

    def neighbourhoods(self, k: int) -> tuple[Points, near.Radii]:
        """Return the pooled features as points, and how far it is from each of them to its k-th neighbour."""
        points = Points(self.features.pooled, half=True)

        def compute() -> Arrays:
            found = near.radii(points, k)
            return {"half": found.half, "single": found.single}

        # Radii and distances that are compared with them must come from the same sums.
        key = {**self.identity, "neighbours": k, "sums": "float64"}
        kept = self.cache.arrays("radii", ("half", "single"), key, compute)
        return points, near.Radii(kept["half"].astype(np.float32), kept["single"].astype(np.float32))


@dataclass(frozen=True)
class Reference:
    """The reference images, and stored statistics if there are any."""

    images: ImageSet
    pooled: Moments | None = None
    spatial: Moments | None = None

    def pooled_gaussian(self) -> frechet.Gaussian:
        """Gaussian that FID compares with: of the stored moments, otherwise of the images."""
        return self._gaussian("pooled", self.images.features.pooled, self.pooled)

    def spatial_gaussian(self) -> frechet.Gaussian:
        """Gaussian that sFID compares with."""
        return self._gaussian("spatial", self.images.features.spatial, self.spatial)

    def _gaussian(self, name: str, features: Features, stored: Moments | None) -> frechet.Gaussian:
        def compute() -> Arrays:
            fitted = frechet.fit(features) if stored is None else frechet.from_moments(stored)
            return {"mean": fitted.mean, "factor": fitted.factor}

        arrays = self.images.cache.arrays(f"{name}-gaussian", ("mean", "factor"), self.images.identity, compute)
        return frechet.Gaussian(arrays["mean"], arrays["factor"])

    def record(self) -> dict[str, str]:
        """Where its two Gaussians come from, for the metrics file."""
        return {
            name: f"stored ({moments.mean.dtype}, {moments.sigma.dtype})" if moments else "computed from the images"
            for name, moments in (("statistics", self.pooled), ("spatial_statistics", self.spatial))
        }


def evaluate(job: Job, spec: EvaluateSpec) -> dict[str, Any]:
    """Check the files, run the network and compute every metric; returns what the metrics file holds.

    Raises:
        UserError: if a file is not what it should be; nothing has been computed then.
        SelfCheckError: if the installed linear algebra is broken.
    """
    stages = Stages()
    with threadpool_limits(job.threads):
        with stages("checks"):
            self_check = check_frechet()
            at_least = spec.neighbours + 1
            samples = inputs.check_samples(job.samples, expected=spec.images, at_least=at_least)
            reference_file = inputs.check_reference(job.reference, samples, at_least=at_least)
            graph_sha256 = inputs.hash_graph(job.graph)
        with InceptionGraph(job.graph, job.threads) as network:
            identity = {"reference": reference_file.sha256, "graph": graph_sha256, "tensorflow": network.version}
            cache = Cache(job.cache)
            with stages("reference_network"):
                images = _image_set(reference_file, network, cache, identity)
            pooled, spatial = images.features.pooled, images.features.spatial
            reference = Reference(
                images,
                pooled=inputs.read_moments(job.reference, "mu", "sigma", pooled.shape[1]),
                spatial=inputs.read_moments(job.reference, "mu_s", "sigma_s", spatial.shape[1]),
            )
            with stages("sample_network"):
                identity = identity | {"reference": samples.sha256}
                drawn = _image_set(samples, network, cache if job.keep else Cache(), identity)
            weights = network.softmax_weights()
        scores, float16_blocks = score(reference, drawn, weights, spec, stages)
    return {
        **scores,
        "images": samples.images,
        "reference": reference_file.record() | reference.record(),
        "samples": samples.record(),
        "graph_sha256": graph_sha256,
        "protocol": {"neighbours": spec.neighbours, "split": spec.split, "float16_blocks": float16_blocks},
        "self_check": {"frechet_relative_error": self_check},
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "tensorflow": network.version},
        "device": network.device,
        "seconds": stages.seconds,
        "peak_memory_gib": round(_peak_memory() / 2**30, 2),
    }


def _image_set(file: ImageFile, network: InceptionGraph, cache: Cache, identity: Mapping[str, object]) -> ImageSet:
    def compute() -> Arrays:
        found = network.activations(npz.read_images(file.path, BATCH), file.images)
        return {"pooled": found.pooled, "spatial": found.spatial}

    arrays = cache.arrays("activations", ("pooled", "spatial"), identity, compute)
    features = Activations(arrays["pooled"].astype(np.float32), arrays["spatial"].astype(np.float32))
    return ImageSet(features, cache, identity)


def score(
    reference: Reference, samples: ImageSet, weights: Features, spec: EvaluateSpec, stages: Stages
) -> tuple[dict[str, float], str]:
    """Return all scores, and how many blocks of distances the protocol kept in float16 ('5 of 5')."""
    with stages("inception_score"):
        inception = inception_score(samples.features.pooled, weights, spec.split)
    with stages("fid"):
        fid = frechet.distance(frechet.fit(samples.features.pooled), reference.pooled_gaussian())
    with stages("sfid"):
        sfid = frechet.distance(frechet.fit(samples.features.spatial), reference.spatial_gaussian())
    with stages("precision_recall"):
        own, radii = reference.images.neighbourhoods(spec.neighbours)
        theirs, sample_radii = samples.neighbourhoods(spec.neighbours)
        found = near.precision_recall(own, theirs, radii, sample_radii)
    scores = {
        "fid": fid,
        "sfid": sfid,
        "inception_score": inception,
        "precision": found.half.precision,
        "recall": found.half.recall,
        "precision_f32": found.single.precision,
        "recall_f32": found.single.recall,
    }
    blocks = found.half.half_blocks
    return scores, f"{int(blocks.sum())} of {blocks.size}"


def _peak_memory() -> int:
    """Largest resident memory of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
