"""Find the neurons that make outlier tokens.

An image's outliers are the image tokens whose norm after the detection layer exceeds a threshold. A neuron's score is
its mean absolute activation on those tokens, averaged over the images that have outliers.
"""

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dsr.base.errors import UserError
from dsr.registers.layout import Layout


class Trace(NamedTuple):
    """What happens inside an encoder; test-time registers, if any, are the last of the T tokens."""

    hidden_states: list[Tensor]
    """Residual streams (B, T, D): the embeddings, then the output of every block."""
    activations: list[Tensor]
    """Hidden MLP activations (B, T, M) of every block, after any intervention."""


class NeuronScores:
    """Scores of all neurons, summed over images.

    Args:
        norm_threshold: norm above which an image token is an outlier.
        layer: block after which norms are taken; negative ones count from the last.
    """

    def __init__(self, norm_threshold: float, layer: int = -1) -> None:
        self.norm_threshold, self.layer = norm_threshold, layer
        self.images = 0
        """Images with at least one outlier so far."""
        self.largest_norm = 0.0
        """Largest token norm seen so far."""
        self._sum: Tensor | None = None

    def add(self, trace: Trace, registers: int = 0, *, prefix: int = 0) -> None:
        """Add the images of one trace; its first ``prefix`` and last ``registers`` tokens take no part."""
        image = slice(prefix, trace.hidden_states[0].shape[1] - registers)
        streams = trace.hidden_states[1:]
        if not -len(streams) <= self.layer < len(streams):
            raise UserError(f"discovery.layer: {self.layer} does not exist, the encoder has {len(streams)} layers")
        norms = streams[self.layer][:, image].norm(dim=-1)
        outliers = norms > self.norm_threshold
        contributing = outliers.any(dim=1)
        self.largest_norm = max(self.largest_norm, float(norms.max()))
        if not contributing.any():
            return
        outliers = outliers[contributing]
        weights = outliers.double() / outliers.sum(dim=1, keepdim=True)
        activations = (layer[contributing][:, image].abs().double() for layer in trace.activations)
        scores = torch.stack([torch.einsum("bt,btm->bm", weights, layer).sum(dim=0) for layer in activations])
        self.images += len(outliers)
        self._sum = scores if self._sum is None else self._sum + scores

    def mean(self) -> Tensor:
        """Scores (layers, neurons), float64.

        Raises:
            UserError: if no image had an outlier.
        """
        if self._sum is None:
            raise UserError(
                f"no image has a token whose norm exceeds discovery.norm_threshold {self.norm_threshold}: "
                f"the largest norm seen is {self.largest_norm:.4g}; choose a lower threshold"
            )
        return self._sum / self.images


def rank(scores: Tensor, top_k: int, *, exclude: Iterable[tuple[int, int]] = ()) -> list[tuple[int, int, float]]:
    """Return the ``top_k`` best (layer, neuron, score), or all where fewer are left, best first.

    ``scores`` are (layers, neurons), and ``exclude`` the (layer, neuron) pairs to leave out.
    """
    left_out = set(exclude)
    order = torch.argsort(scores.flatten(), descending=True, stable=True)
    found = (divmod(flat, scores.shape[1]) for flat in order.tolist())
    best = itertools.islice((pair for pair in found if pair not in left_out), top_k)
    return [(layer, neuron, float(scores[layer, neuron])) for layer, neuron in best]


def by_layer(neurons: Sequence[tuple[int, int]]) -> dict[int, tuple[int, ...]]:
    """Group (layer, neuron) pairs: layers ascending, neurons in the given order, repetitions dropped."""
    layers: dict[int, tuple[int, ...]] = {}
    for layer, neuron in sorted(dict.fromkeys(neurons), key=lambda pair: pair[0]):
        layers[layer] = (*layers.get(layer, ()), neuron)
    return layers


def merge(first: Mapping[int, Sequence[int]], second: Mapping[int, Sequence[int]]) -> dict[int, tuple[int, ...]]:
    """Return the union of two lists, as recursive TTR uses it."""
    return by_layer([(layer, neuron) for part in (first, second) for layer in part for neuron in part[layer]])


@torch.no_grad()
def find_register_neurons(
    model: nn.Module,
    batches: Iterable[Tensor],
    *,
    norm_threshold: float,
    top_k: int,
    layer: int = -1,
    layout: Layout | None = None,
) -> dict[int, tuple[int, ...]]:
    """Return layer -> hidden indices of the ``top_k`` neurons that make a ViT's outliers; ``model(batch)`` runs it.

    In a model with test-time registers these are further neurons; `merge` them with the first ones for the recursive
    variant, in a model that has no registers yet.

    Raises:
        UserError: if the model is not known, or no image has an outlier.
    """
    layout = layout or Layout.of(model)
    scores = NeuronScores(norm_threshold, layer)
    for batch in batches:
        with _recorded(layout) as trace:
            model(batch)
        scores.add(trace, prefix=layout.prefix)
    return by_layer([(found, neuron) for found, neuron, _ in rank(scores.mean(), top_k)])


@torch.no_grad()
def token_norms(model: nn.Module, batch: Tensor, layout: Layout | None = None) -> Tensor:
    """Return norms of the image tokens after every block of a ViT, (blocks, B, N): outliers are a second mode."""
    layout = layout or Layout.of(model)
    with _recorded(layout) as trace:
        model(batch)
    return torch.stack([stream[:, layout.prefix :].norm(dim=-1) for stream in trace.hidden_states[1:]])


@contextlib.contextmanager
def _recorded(layout: Layout) -> Iterator[Trace]:
    """Record passes of a model; hooks that are there already have done their work before."""
    trace, tokens = Trace([], []), []

    def stream(_: nn.Module, __: object, output: Tensor | tuple[Tensor, ...]) -> None:
        trace.hidden_states.append(output[0] if isinstance(output, tuple) else output)

    for block, output in zip(layout.blocks, layout.outputs, strict=True):
        tokens.append(block.register_forward_hook(stream))
        tokens.append(output.register_forward_pre_hook(lambda _, args: trace.activations.append(args[0])))
    # Hidden states begin with the embeddings; the first block's input, before registers are appended, has their shape.
    tokens.append(
        layout.blocks[0].register_forward_pre_hook(
            lambda _, args, kwargs: trace.hidden_states.append((*args, *kwargs.values())[0]),
            with_kwargs=True, prepend=True,
        )
    )  # fmt: skip
    try:
        yield trace
    finally:
        for handle in tokens:
            handle.remove()
