"""Tiny SigLIP2 vision towers in which a few MLP neurons are known to make outlier tokens.

Real encoders grow outlier tokens on blank patches by training; here the weights that do so are written by hand, so
that discovery and test-time registers can be checked against the truth. The rest of a tower is close to linear:
patches pass through a random rotation beside a constant and a position code, and mild random layers mix them.

In an orthogonal basis the residual stream is a sum of independent parts, and every planted neuron reads and writes
single directions of it:

* an *initiator* fires on blank patches at a few marked positions and writes its population's outlier direction;
* an *amplifier* of the next block fires on that direction and writes more of it;
* keys of later blocks read it too, so that outlier tokens draw attention, as they do in real encoders.

Of two populations, the second reads the same patches in deeper blocks. LayerNorm shrinks what it reads wherever the
first one fired, so it appears only after the first is silenced: what recursive test-time registers are for.

The top-left patch is never marked, because the release's TTR leaves token 0 as it is.
"""

import logging
import math
from pathlib import Path

import torch
from safetensors.torch import save_file

from dsr.base.errors import UserError
from dsr.base.files import atomic, write_json
from dsr.base.randomness import noise, permutation
from dsr.config import encoders as config
from dsr.encoder.siglip2 import Shape

HEADS = 4
MLP_RATIO = 2
INITIATORS, AMPLIFIERS = 4, 2
PLANTED = INITIATORS + AMPLIFIERS
"""Neurons of one population: what `discovery.top_k` should be."""

CONSTANT, POSITION, MARK, WHITE = 2.0, 1.0, 1.0, 3.0
"""Norms in the stream of the constant, the position code, the mark (positive or negative), and a white patch."""
OUTLIER = 40.0
"""Norm that the initiators write on a blank marked patch; the amplifiers add about as much."""
ACTIVATION = 10.0
"""Activation of a planted neuron where it fires fully."""
BLANK = MARK / math.sqrt(CONSTANT**2 + POSITION**2 + MARK**2)
"""Share of the mark in the norm of a blank marked token."""
SINK = 2.0
"""How strongly queries ask for outlier directions."""
MIXING = 0.2
"""Scale of the random weights."""

Weights = dict[str, torch.Tensor]

log = logging.getLogger(__name__)

STAND_INS = {"stand-in/siglip2-base": (1,), "stand-in/siglip2-so400m": (1, 3)}
"""The models that `encoders.*.hub` may name in the demo, and the blocks (0-based) of each population's initiators;
amplifiers are in the next block, and one more block is the last."""


def planted_neurons(spec: config.Encoder) -> list[dict[int, tuple[int, ...]]]:
    """Return the planted (layer -> neurons) of every population of a stand-in, in the order of discovery.

    Raises:
        UserError: if there is no stand-in of that name, or the revision is no number.
    """
    if spec.hub not in STAND_INS:
        raise UserError(f"hub {spec.hub!r}: the demo has the stand-ins {', '.join(STAND_INS)}")
    if not spec.revision.isdecimal():
        raise UserError(f"revision {spec.revision!r} of {spec.hub}: expected the seed of its weights, such as '0'")

    def chosen(block: int, count: int) -> tuple[int, ...]:
        order = permutation(int(spec.revision), "stand-in encoder planted", block, MLP_RATIO * spec.width)
        return tuple(order[:count].tolist())

    blocks = STAND_INS[spec.hub]
    return [{block: chosen(block, INITIATORS), block + 1: chosen(block + 1, AMPLIFIERS)} for block in blocks]


def write_encoder(spec: config.Encoder, output: Path) -> None:
    """Write a tiny SigLIP2 vision tower with planted outliers.

    Args:
        spec: Its hub names the stand-in, its revision the seed.
        output: Hugging Face folder to write.

    Raises:
        UserError: if there is no stand-in of that name, the revision is no number, or the width is too small.
    """
    tower = _Tower(spec)
    shape = Shape(
        hidden_size=spec.width,
        intermediate_size=MLP_RATIO * spec.width,
        num_hidden_layers=tower.layers,
        num_attention_heads=HEADS,
        image_size=spec.input_size,
        patch_size=spec.patch_size,
    )
    write_json(output / "config.json", {"model_type": "siglip_vision_model", **shape.model_dump()})
    size = {"height": spec.input_size, "width": spec.input_size}
    scale = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    kind = {"image_processor_type": "SiglipImageProcessor"}
    write_json(output / "preprocessor_config.json", {**kind, **scale, "size": size})
    with atomic(output / "model.safetensors") as temporary:
        save_file({f"vision_model.{key}": value for key, value in tower.weights().items()}, temporary, {"format": "pt"})
    log.info("%s: %d planted neurons", output, PLANTED * len(tower.planted))


class _Tower:
    """Weights of a stand-in; all directions are columns of one random orthogonal matrix, float64."""

    def __init__(self, spec: config.Encoder) -> None:
        self.spec, self.planted = spec, planted_neurons(spec)
        self.layers = max(self.planted[-1]) + 2
        side = min(spec.patch_size, 4)
        sizes = [1, side**2, 8, 1, 1, len(self.planted)]
        if spec.width < sum(sizes) or spec.width % HEADS:
            raise UserError(f"width {spec.width}: expected a multiple of {HEADS}, and at least {sum(sizes)}")
        start = self.normal("basis", spec.width, spec.width)
        # LayerNorm removes the mean of a token, so no part may lie along it: the first column is not used.
        start[:, 0] = 1
        basis = torch.linalg.qr(start).Q
        _, patch, self.position, constant, mark, self.outliers, _ = basis.split(
            [*sizes, spec.width - sum(sizes)], dim=1
        )
        self.kernel = patch @ _low_frequencies(spec.patch_size, side)
        self.white = torch.nn.functional.normalize(self.kernel.sum(1), dim=0)
        self.constant, self.mark = constant[:, 0], mark[:, 0]

    def normal(self, name: str, *shape: int) -> torch.Tensor:
        """Draw standard normal numbers."""
        return noise(int(self.spec.revision), f"stand-in encoder {name}", [0], shape)[0].double()

    def weights(self) -> Weights:
        """Return all weights under the names of transformers, without their first part, float32."""
        ones, zeros = torch.ones(self.spec.width), torch.zeros(self.spec.width)
        weights = self._embeddings() | {"post_layernorm.weight": ones, "post_layernorm.bias": zeros}
        for layer in range(self.layers):
            block = self._attention(layer) | self._mlp(layer)
            block |= {f"layer_norm{number}.weight": ones for number in (1, 2)}
            names = ("layer_norm1", "layer_norm2", *(f"self_attn.{name}_proj" for name in ("k", "v", "out")), "mlp.fc2")
            block |= {f"{name}.bias": zeros for name in names}
            weights |= {f"encoder.layers.{layer}.{key}": value for key, value in block.items()}
        return {key: value.to(torch.float32, copy=True).contiguous() for key, value in weights.items()}

    def _embeddings(self) -> Weights:
        """Patches of standardised pixels: black is the constant alone, white adds a vector of norm WHITE."""
        size = self.spec.patch_size
        kernel = self.kernel * (WHITE / size / 2)
        marks = torch.full((self.spec.grid**2, 1), -MARK, dtype=torch.float64)
        marks[marked_tokens(self.spec.grid)] = MARK
        positions = _position_code(self.spec.grid) @ self.position.T
        return {
            "embeddings.patch_embedding.weight": (kernel / 3).view(-1, 1, size, size).expand(-1, 3, -1, -1),
            "embeddings.patch_embedding.bias": kernel.sum(1) + CONSTANT * self.constant,
            "embeddings.position_embedding.weight": positions + marks * self.mark,
        }

    def _attention(self, layer: int) -> Weights:
        """Mild random mixing; in one channel of each head, every query asks for outlier directions."""
        width = self.spec.width
        query, key, value, output = (
            self.normal(f"{name} {layer}", width, width) / math.sqrt(width) for name in ("q", "k", "v", "o")
        )
        asks = (torch.arange(width) % (width // HEADS) == 0).double()
        key = MIXING * _orthogonal(key.T, self.outliers).T + torch.outer(asks, self.outliers.sum(1))
        value = MIXING * _orthogonal(value.T, self.outliers, self.constant).T
        return {
            "self_attn.q_proj.weight": MIXING * query,
            "self_attn.q_proj.bias": SINK * asks,
            "self_attn.k_proj.weight": key,
            "self_attn.v_proj.weight": value,
            "self_attn.out_proj.weight": _orthogonal(output, self.outliers, self.mark, self.white),
        }

    def _mlp(self, layer: int) -> Weights:
        """Random neurons blind to what the planted ones read and write, and the planted ones of this block."""
        width, hidden = self.spec.width, MLP_RATIO * self.spec.width
        read = self.normal(f"fc1 {layer}", hidden, width) * (MIXING / math.sqrt(width))
        write = self.normal(f"fc2 {layer}", width, hidden) * (MIXING / math.sqrt(hidden))
        read = _orthogonal(read.T, self.outliers).T
        write = _orthogonal(write, self.outliers, self.mark, self.white)
        bias = torch.zeros(hidden, dtype=torch.float64)
        for population, neurons in enumerate(self.planted):
            outlier, initiators = self.outliers[:, population], min(neurons)
            if layer == initiators:
                # A deeper population needs a blanker patch, so that it never fires where the one before has not.
                direction, full, least = self.mark - self.white, BLANK, 0.2 + 0.05 * population
            elif layer == initiators + 1:
                direction, full, least = outlier, 1.0, 0.7
            else:
                continue
            chosen = list(neurons[layer])
            # They fire from ``least`` on, and up to ACTIVATION at ``full``: shares of a direction in a token's norm,
            # which LayerNorm makes sqrt(D). Every further neuron is 3 % weaker, to rank after the one before.
            gains = ACTIVATION / (full - least) * 0.97 ** torch.arange(len(chosen), dtype=torch.float64)
            read[chosen], bias[chosen] = torch.outer(gains, direction) / math.sqrt(width), -gains * least
            write[:, chosen] = outlier[:, None] * (OUTLIER / len(chosen) / ACTIVATION)
        return {"mlp.fc1.weight": read, "mlp.fc1.bias": bias, "mlp.fc2.weight": write}


def marked_tokens(grid: int) -> list[int]:
    """Return the tokens that can become outliers: one in every row but the first, left and right edge in turn."""
    return [row * grid + (0 if row % 2 else grid - 1) for row in range(1, grid)]


def _position_code(grid: int) -> torch.Tensor:
    """Sines and cosines of row and column, (N, 8); every row has norm POSITION."""
    angles = torch.arange(grid, dtype=torch.float64) * (math.pi / grid)
    axis = torch.stack([angles.sin(), angles.cos(), (2 * angles).sin(), (2 * angles).cos()], dim=1)
    return torch.cat([axis.repeat_interleave(grid, 0), axis.repeat(grid, 1)], dim=1) * (POSITION / 2)


def _low_frequencies(size: int, side: int) -> torch.Tensor:
    """Return the ``side`` x ``side`` lowest cosines of a patch as orthonormal rows, (side², size²)."""
    steps = torch.arange(size, dtype=torch.float64) + 0.5
    waves = torch.cos(torch.arange(side, dtype=torch.float64)[:, None] * steps * (math.pi / size))
    waves = torch.nn.functional.normalize(waves, dim=1)
    return torch.einsum("iy,jx->ijyx", waves, waves).reshape(side**2, size**2)


def _orthogonal(matrix: torch.Tensor, *directions: torch.Tensor) -> torch.Tensor:
    """Remove orthonormal directions, (D,) or (D, n), from the columns of a matrix."""
    span = torch.cat([direction.view(len(matrix), -1) for direction in directions], dim=1)
    return matrix - span @ (span.T @ matrix)
