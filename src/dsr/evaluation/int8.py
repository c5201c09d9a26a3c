"""Products of matrices of bytes by TensorFlow's oneDNN: on processors made for them, many times float32's speed."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr.evaluation.half import Single

Bytes = npt.NDArray[np.uint8]
SignedBytes = npt.NDArray[np.int8]
Product = Callable[[Bytes, SignedBytes], Single]

LEVELS = 255
"""Largest unsigned byte."""
HALFWAY = 128
"""Largest size of a signed byte."""
WIDEST = 2**31 // (LEVELS * HALFWAY)
"""Most coordinates whose products fit in 32 bits."""
ERROR = 2.0**-22
"""How far products may be off, relatively: sums are exact, and rounded to float32, possibly more than once."""

_log = logging.getLogger(__name__)


@functools.cache
def product(width: int) -> Product | None:
    """Product of unsigned (m, width) and signed (width, c) bytes; None, and a line in the log, if there is none here.

    It runs in the caller's thread and in the threads of operations that TensorFlow's first session was given.
    """
    found = _find(width)
    if isinstance(found, str):
        _log.info("rough distances are computed in float32, more slowly than by products of bytes: %s", found)
        return None
    return found


def _find(width: int) -> Product | str:
    """Product, or why there is none."""
    if width > WIDEST:
        return f"{width} coordinates are more than {WIDEST}"
    import tensorflow as tf

    try:
        found = _onednn_product(tf)
        return found if is_right(found, width) else "this processor adds them up in too few bits"
    except (AttributeError, ValueError, tf.errors.OpError) as error:
        return f"{type(error).__name__} from TensorFlow's product of them"


def _onednn_product(tf: Any) -> Product:
    """Product by an operation that only TensorFlow for x86 has, and only where oneDNN is not switched off."""
    graph = tf.Graph()
    with graph.as_default():
        rows, columns = (tf.compat.v1.placeholder(kind, [None, None]) for kind in (tf.uint8, tf.int8))
        products = tf.raw_ops.QuantizedMatMulWithBiasAndDequantize(
            a=tf.bitcast(rows, tf.quint8),
            b=tf.bitcast(columns, tf.qint8),
            bias=tf.zeros(tf.shape(columns)[1:]),
            # With these ranges one step of either matrix is 1.
            min_a=0.0,
            max_a=255.0,
            min_b=-127.0,
            max_b=127.0,
            min_freezed_output=0.0,
            max_freezed_output=1.0,
            Toutput=tf.float32,
        )
    # It has no GPU, so that it takes no memory there. Operations run in the thread that calls: each of ours its own.
    options = tf.compat.v1.ConfigProto(device_count={"GPU": 0}, inter_op_parallelism_threads=-1)
    run: Product = tf.compat.v1.Session(graph=graph, config=options).make_callable(products, [rows, columns])
    return run


def is_right(product: Product, width: int) -> bool:
    """Try a product on random and on the largest bytes.

    Processors that have no instructions for it add pairs of products in 16 bits, in which they do not fit.
    """
    generator = np.random.default_rng(0)
    rows = generator.integers(0, LEVELS + 1, (2, 64, width), np.uint8)
    columns = generator.integers(-HALFWAY, HALFWAY, (2, width, 32), np.int8)
    rows[1], columns[1, :, ::2], columns[1, :, 1::2] = LEVELS, -HALFWAY, HALFWAY - 1
    exact = rows.astype(np.float64)[:, None] @ columns.astype(np.float64)
    found = np.array([[product(u, v) for v in columns] for u in rows])
    return bool((np.abs(found - exact) <= ERROR * np.abs(exact)).all())
