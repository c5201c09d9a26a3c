"""TensorFlow, imported when it is first needed."""

from __future__ import annotations

import functools
import os
from typing import Any


@functools.cache
def tensorflow() -> Any:
    """Return the module, which then computes float32 in full and takes memory of a GPU as it needs it."""
    # Read by the first import; its start-up chatter would drown our log.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    import tensorflow as tf

    # Published numbers are float32; recent GPUs would otherwise round the inputs of matmuls to 10 bits (TF32).
    tf.config.experimental.enable_tensor_float_32_execution(False)
    return tf


def device() -> str:
    """Return the name of the first GPU if there is one, otherwise the CPU's."""
    return "/GPU:0" if tensorflow().config.list_logical_devices("GPU") else "/CPU:0"
