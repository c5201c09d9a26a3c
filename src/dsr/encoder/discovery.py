"""Find register neurons: hidden MLP units that are most active where outlier tokens arise.

An image's outliers are the image tokens whose norm after the detection layer exceeds a threshold. A neuron's score is
its mean absolute activation on those tokens, averaged over the images that have outliers.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable

import torch

from dsr.base.errors import UserError
from dsr.base.randomness import permutation
from dsr.config.encoders import Discovery
from dsr.config.specs import DiscoverSpec
from dsr.data.images import Images
from dsr.data.loading import pixel_batches
from dsr.encoder.blocks import Trace
from dsr.encoder.neuron_lists import NeuronList, by_layer, merge
from dsr.encoder.vit import VitEncoder

log = logging.getLogger(__name__)

Ranked = list[tuple[int, int, float]]


class NeuronScores:
    """Scores of all neurons, summed over images.

    Args:
        options: threshold and detection layer.
        mean_token: put the mean token of every layer before the image tokens, in activations and in outputs. The
            release does so for SigLIP2, which has no CLS token; the mean token then counts like any other.
    """

    def __init__(self, options: Discovery, *, mean_token: bool = False) -> None:
        self.options, self.mean_token = options, mean_token
        self.images = 0
        """Images with at least one outlier so far."""
        self.largest_norm = 0.0
        """Largest token norm seen so far."""
        self._sum: torch.Tensor | None = None

    def add(self, trace: Trace, registers: int = 0, *, prefix: int = 0) -> None:
        """Add the images of one trace; its first ``prefix`` and last ``registers`` tokens take no part."""
        image = slice(prefix, trace.hidden_states[0].shape[1] - registers)
        norms = self._tokens(self._detected(trace)[:, image]).norm(dim=-1)
        outliers = norms > self.options.norm_threshold
        contributing = outliers.any(dim=1)
        self.largest_norm = max(self.largest_norm, float(norms.max()))
        if not contributing.any():
            return
        outliers = outliers[contributing]
        weights = outliers.double() / outliers.sum(dim=1, keepdim=True)
        activations = (self._tokens(layer[contributing][:, image]).abs().double() for layer in trace.activations)
        scores = torch.stack([torch.einsum("bt,btm->bm", weights, layer).sum(dim=0) for layer in activations])
        self.images += len(outliers)
        self._sum = scores if self._sum is None else self._sum + scores

    def mean(self) -> torch.Tensor:
        """Scores (layers, neurons), float64.

        Raises:
            UserError: if no image had an outlier.
        """
        if self._sum is None:
            raise UserError(
                f"no image has a token whose norm exceeds discovery.norm_threshold {self.options.norm_threshold}: "
                f"the largest norm seen is {self.largest_norm:.4g}; choose a lower threshold"
            )
        return self._sum / self.images

    def _detected(self, trace: Trace) -> torch.Tensor:
        outputs = trace.hidden_states[1:]
        if not -len(outputs) <= self.options.layer < len(outputs):
            raise UserError(
                f"discovery.layer: {self.options.layer} does not exist, the encoder has {len(outputs)} layers"
            )
        return outputs[self.options.layer]

    def _tokens(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1) if self.mean_token else tokens


def rank(scores: torch.Tensor, top_k: int, *, exclude: Iterable[tuple[int, int]] = ()) -> Ranked:
    """Return the ``top_k`` best (layer, neuron, score), best first.

    Args:
        scores: (layers, neurons).
        top_k: how many to return; fewer where fewer are left.
        exclude: (layer, neuron) pairs to leave out.
    """
    left_out = set(exclude)
    order = torch.argsort(scores.flatten(), descending=True, stable=True)
    found = (divmod(flat, scores.shape[1]) for flat in order.tolist())
    best = itertools.islice((pair for pair in found if pair not in left_out), top_k)
    return [(layer, neuron, float(scores[layer, neuron])) for layer, neuron in best]


@torch.no_grad()
def find_register_neurons(
    spec: DiscoverSpec, encoder: VitEncoder, images: Images, *, first: NeuronList | None = None, batch: int = 8
) -> NeuronList:
    """Find register neurons on a random choice of images.

    Args:
        spec: how many images and neurons, threshold, seed of the choice.
        encoder: on the device to compute on. In a recursive discovery, the one in which ``first`` intervenes on
            appended registers: what is found then makes outliers among image tokens although the first list is silent.
        images: prepared images.
        first: list that the result starts with; its neurons are not found again.
        batch: images traced together.

    Raises:
        UserError: if there are too few images, no image has an outlier, or the detection layer does not exist.
    """
    options = spec.discovery
    if options.images > len(images):
        raise UserError(f"discovery.images: {options.images} are asked for, but there are only {len(images)}")
    known = first.layers if first else {}
    chosen = permutation(spec.seed, "discovery", 0, len(images))[: options.images]
    scores = NeuronScores(options)
    items = [(index, False) for index in chosen.tolist()]
    for pixels in pixel_batches(images, items, batch=batch, device=encoder.pixel_mean.device):
        scores.add(encoder.trace(encoder.preprocess(pixels)), encoder.registers, prefix=encoder.prefix)
    ranked = rank(
        scores.mean(),
        options.top_k,
        exclude=[(layer, neuron) for layer in known for neuron in known[layer]],
    )
    log.info("%d of %d images have outliers; largest norm %.4g", scores.images, options.images, scores.largest_norm)
    return NeuronList(
        encoder=spec.encoding.encoder.hub,
        layers=merge(known, by_layer([(layer, neuron) for layer, neuron, _ in ranked])),
        ranked=(*(first.ranked if first else ()), *ranked),
        source=f"discovery on {scores.images} images with outliers among {options.images}"
        + (f", on top of {first.count} neurons: {first.source}" if first else ""),
    )
