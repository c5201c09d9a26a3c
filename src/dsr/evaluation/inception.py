"""TensorFlow, the frozen Inception graph of the ADM evaluator in it, and the Inception Score (Salimans et al. 2016)."""

import functools
import os
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr.base.errors import UserError

Features = npt.NDArray[np.float32]

BATCH = 64
"""Images per run of the network, as in the official evaluator."""
SPATIAL_CHANNELS = 7
"""Channels of the spatial layer that sFID uses, flattened with the channel last."""

INPUT = "ExpandDims:0"
POOLED = "pool_3:0"
SPATIAL = "mixed_6/conv:0"
LOGITS = "softmax/logits/MatMul"


@functools.cache
def tensorflow() -> Any:
    """Return TensorFlow, imported when it is first needed.

    It computes float32 in full and takes memory of a GPU as it needs it.
    """
    # Read by the first import; its start-up chatter would drown our log.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    # No Keras at its side: it would take a third of the time.
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    import tensorflow as tf

    # Published numbers are float32; recent GPUs would otherwise round the inputs of matmuls to 10 bits (TF32).
    tf.config.experimental.enable_tensor_float_32_execution(False)
    return tf


def device() -> str:
    """Return the name of the first GPU if there is one, otherwise the CPU's."""
    return "/GPU:0" if tensorflow().config.list_logical_devices("GPU") else "/CPU:0"


@dataclass(frozen=True)
class Activations:
    """Features of n images in their order: pooled (n, d) and spatial (n, s), float32."""

    pooled: Features
    spatial: Features


class InceptionGraph(AbstractContextManager["InceptionGraph"]):
    """The network in a TensorFlow session; widths come from the graph.

    Args:
        path: frozen GraphDef with the tensors `ExpandDims:0`, `pool_3:0`, `mixed_6/conv:0`, `softmax/logits/MatMul`.
        threads: CPU threads of an operation, of every later one in this process too.

    Raises:
        UserError: if the file is not such a graph.
    """

    def __init__(self, path: Path, threads: int = 1) -> None:
        tf = tensorflow()
        self.version = str(tf.__version__)
        graph = tf.Graph()
        with graph.as_default():
            self._images = tf.compat.v1.placeholder(tf.float32, [None, None, None, None])
            self._pooled, self._spatial, logits = _import(tf, path, self._images)
            self._weights = logits.inputs[1]
        options = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=threads, inter_op_parallelism_threads=1)
        self._session = tf.compat.v1.Session(graph=graph, config=options)
        self.device = "GPU" if any(one.device_type == "GPU" for one in self._session.list_devices()) else "CPU"

    def __exit__(self, *raised: object) -> None:
        """Release the session."""
        self._session.close()

    def softmax_weights(self) -> Features:
        """Weights (d, classes) of the classifier; its bias is not part of the protocol."""
        return np.asarray(self._session.run(self._weights))

    def activations(self, batches: Iterable[npt.NDArray[np.uint8]]) -> Activations:
        """Run images, in batches of uint8 (n, H, W, 3), through the network."""
        pooled, spatial = (np.concatenate(parts) for parts in zip(*map(self._run, batches), strict=True))
        return Activations(pooled, spatial)

    def _run(self, batch: npt.NDArray[np.uint8]) -> tuple[Features, Features]:
        pooled, spatial = self._session.run([self._pooled, self._spatial], {self._images: batch.astype(np.float32)})
        return pooled.reshape(len(batch), -1), spatial[..., :SPATIAL_CHANNELS].reshape(len(batch), -1)


def _import(tf: Any, path: Path, images: Any) -> list[Any]:
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    definition = tf.compat.v1.GraphDef()
    try:
        definition.ParseFromString(path.read_bytes())
        return list(
            tf.graph_util.import_graph_def(
                definition, input_map={INPUT: images}, return_elements=[POOLED, SPATIAL, LOGITS], name=""
            )
        )
    except (DecodeError, ValueError, tf.errors.OpError) as error:
        raise UserError(
            f"{path} is not the evaluator's Inception graph ({str(error).splitlines()[0][:200]}); expected a frozen "
            f"GraphDef with {INPUT}, {POOLED}, {SPATIAL} and {LOGITS}: fetch it again"
        ) from None


def inception_score(features: Features, weights: Features, split: int) -> float:
    """Mean over splits of exp(mean KL(p(class | image) || p(class))).

    As in the ADM protocol, splits are consecutive in file order, the last, shorter one counts like the others, and the
    classifier has no bias. ``features`` (n, d) are pooled features, ``weights`` (d, classes) the softmax layer's;
    logits are float32. Probabilities stay logarithms in float64, so that a class of probability 0 contributes 0, where
    the official float32 formula gives NaN.
    """
    starts = range(0, len(features), split)
    return float(np.mean([_score_of_split(features[start : start + split] @ weights) for start in starts]))


def _score_of_split(logits: Features) -> float:
    """exp(mean of sum p log p, less sum m log m), where m is the mean of p."""
    log_p = logits - logits.max(axis=1, keepdims=True).astype(np.float64)
    p = np.exp(log_p)
    sums = p.sum(axis=1, keepdims=True)
    p /= sums
    log_p -= np.log(sums)
    marginal = p.mean(axis=0)
    present = marginal[marginal > 0]
    return float(np.exp(np.einsum("ij,ij->", p, log_p) / len(logits) - present @ np.log(present)))
