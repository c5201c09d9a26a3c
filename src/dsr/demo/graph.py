"""The demo's stand-in for the Inception graph: a small digit classifier with the real graph's tensor names.

The evaluator runs it unchanged: the input `ExpandDims` takes pixels 0 to 255 of any size, which the graph itself
resizes and scales; `mixed_6/conv` is (n, 17, 17, 16), `pool_3` (n, 1, 1, 64), and `softmax/logits/MatMul` multiplies
the pooled features with the classifier's weights. Needs TensorFlow, and not PyTorch.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr.base.files import atomic
from dsr.data.images import open_images
from dsr.evaluation.inception import tensorflow

Weights = Mapping[str, npt.NDArray[np.float32]]

SIDE = 35
"""Side in pixels that images are resized to; three halvings lead to 17, 8 and 4."""
CHANNELS = (16, 32, 64)
STEPS, BATCH = 400, 64
LEARNING_RATE = 4e-3
_SEED = 0

log = logging.getLogger(__name__)


def write_graph(images: Path, output: Path, *, steps: int = STEPS) -> None:
    """Train a digit classifier with the tensor names of the Inception graph and freeze it.

    Args:
        images: Index of the prepared images.
        output: GraphDef to write.
        steps: Steps of training.
    """
    tf = tensorflow()
    source = open_images(images)
    pixels = np.stack([source.read(position) for position in range(len(source))]).astype(np.float32)
    weights = _train(tf, pixels, source.labels, len(source.classes), steps)
    graph = tf.Graph()
    with graph.as_default():
        picture = tf.raw_ops.DecodeJpeg(contents=tf.constant(b"", name="DecodeJpeg/contents"), channels=3)
        inputs = tf.expand_dims(tf.cast(picture, tf.float32), 0, name="ExpandDims")
        constants = {name: tf.constant(value, name=name) for name, value in weights.items()}
        tf.nn.softmax(_classify(tf, inputs, constants), name="softmax")
    with atomic(output) as temporary:
        temporary.write_bytes(graph.as_graph_def().SerializeToString())


def _classify(tf: Any, images: Any, weights: Mapping[str, Any]) -> Any:
    """Build the network from pixels (n, H, W, 3) to logits (n, classes)."""
    x = tf.raw_ops.ResizeBilinear(images=images, size=[SIDE, SIDE])
    x = (x - 128) * 0.0078125
    for name, padding in {"mixed_6/conv": "VALID", "mixed_8/conv": "VALID", "mixed_10/conv": "SAME"}.items():
        x = tf.nn.conv2d(x, weights[f"{name}/weights"], 2, padding) + weights[f"{name}/biases"]
        x = tf.nn.relu(x, name=name)
    x = tf.nn.avg_pool2d(x, 4, 1, "VALID", name="pool_3")
    x = tf.reshape(x, [-1, CHANNELS[-1]])
    return (
        tf.matmul(x, weights["softmax/logits/weights"], name="softmax/logits/MatMul") + weights["softmax/logits/biases"]
    )


def _train(
    tf: Any, pixels: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], classes: int, steps: int
) -> Weights:
    """Return weights of all layers: kernels (height, width, in, out) and the classifier's (features, classes)."""
    from keras.optimizers import Adam  # TensorFlow is imported without it

    generator = np.random.default_rng(_SEED)
    first, second, third = CHANNELS
    shapes = {
        "mixed_6/conv": (3, 3, 3, first),
        "mixed_8/conv": (3, 3, first, second),
        "mixed_10/conv": (3, 3, second, third),
        "softmax/logits": (third, classes),
    }
    variables = {}
    for name, shape in shapes.items():
        deviation = np.sqrt(2 / np.prod(shape[:-1]))
        variables[f"{name}/weights"] = tf.Variable(generator.normal(0, deviation, shape).astype(np.float32))
        variables[f"{name}/biases"] = tf.Variable(np.zeros(shape[-1], np.float32))
    optimizer = Adam(LEARNING_RATE)

    @tf.function  # type: ignore[untyped-decorator]
    def update(images: Any, targets: Any) -> Any:
        with tf.GradientTape() as tape:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(targets, _classify(tf, images, variables))
            loss = tf.reduce_mean(losses)
        optimizer.apply_gradients(zip(tape.gradient(loss, list(variables.values())), variables.values(), strict=True))
        return loss

    generator = np.random.default_rng(_SEED)
    for step in range(1, steps + 1):
        chosen = generator.integers(0, len(pixels), BATCH)
        loss = update(pixels[chosen], labels[chosen])
        if step % 100 == 0:
            log.info("classifier step %d of %d: loss %.4f", step, steps, float(loss))
    return {name: variable.numpy() for name, variable in variables.items()}
