"""The plain encoder and test-time registers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import SiglipVisionModel

from dsr.base.errors import UserError
from dsr.config.encoders import TestTimeRegisters as Registers
from dsr.encoder.blocks import Mlp
from dsr.encoder.siglip2 import PREFIX, Siglip2Encoder
from dsr.encoder.ttr import InterventionMlp, with_registers
from tests.unit import tiny_encoder
from tests.unit.tiny_encoder import HIDDEN, LAYERS, SIZE, pixels

NEURONS = {0: (3, 17), 2: (5, 40, 1)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder.write_folder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Siglip2Encoder:
    return Siglip2Encoder.load(folder, SIZE)


@pytest.mark.parametrize("size", [SIZE, 80])
def test_blocks_and_attention_are_the_vision_models(folder: Path, encoder: Siglip2Encoder, size: int) -> None:
    images = pixels(2, size) * 2 - 1
    model = SiglipVisionModel.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        theirs = model(images, output_hidden_states=True, output_attentions=True, interpolate_pos_encoding=True)
    trace = encoder.trace(images)
    assert len(trace.hidden_states) == len(theirs.hidden_states) == LAYERS + 1
    for ours, state in zip(trace.hidden_states, theirs.hidden_states, strict=True):
        torch.testing.assert_close(ours, state, rtol=1e-5, atol=1e-5)
    for block, stream, weights in zip(encoder.blocks, trace.hidden_states, theirs.attentions, strict=False):
        torch.testing.assert_close(block.attention.weights(block.norm1(stream)), weights, rtol=1e-4, atol=1e-6)
    assert torch.equal(encoder.pre_norm(images), trace.hidden_states[-1])
    assert trace.activations[0].shape == (2, (size // 16) ** 2, HIDDEN)


def test_a_tower_alone_may_leave_the_prefix_out(encoder: Siglip2Encoder, copied: Path) -> None:
    tensors = load_file(copied / "model.safetensors")
    tower = {name.removeprefix(PREFIX): value for name, value in tensors.items() if name.startswith(PREFIX)}
    save_file(tower, copied / "model.safetensors")
    images = pixels(1)
    assert torch.equal(Siglip2Encoder.load(copied, SIZE).pre_norm(images), encoder.pre_norm(images))


MLP = "vision_model.encoder.layers.1.mlp"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", None, "config.json: no such file"),
        ("preprocessor_config.json", None, "preprocessor_config.json: no such file"),
        ("model.safetensors", None, "cannot be read"),
        ("model.safetensors", "cut off", "cannot be read"),
        ("config.json", '{"model_type": "vit"}', "model_type is 'vit'"),
        (
            "model.safetensors",
            {f"{MLP}.fc1.weight": None},
            r"1 vision weights are missing .*layers\.1\.mlp\.fc1\.weight",
        ),
        ("model.safetensors", {f"{MLP}.fc1.bias": torch.zeros(3)}, r"another shape .*layers\.1\.mlp\.fc1\.bias"),
    ],
)
def test_incomplete_and_foreign_folders_are_refused(
    copied: Path, name: str, content: str | dict[str, torch.Tensor | None] | None, message: str
) -> None:
    path = copied / name
    if isinstance(content, dict):
        state = {**load_file(path), **content}
        save_file({key: value for key, value in state.items() if value is not None}, path, {"format": "pt"})
    elif content is None:
        path.unlink()
    else:
        path.write_text(content)
    with pytest.raises(UserError, match=message):
        Siglip2Encoder.load(copied, SIZE)


def test_the_processor_sets_mean_and_std(copied: Path) -> None:
    (copied / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 1.0, 2.0]})
    )
    loaded = Siglip2Encoder.load(copied, SIZE)
    got = loaded.preprocess(torch.full((1, 3, SIZE, SIZE), 0.6))[0, :, 0, 0]
    torch.testing.assert_close(got, torch.tensor([1.0, 0.4, 0.15]))


# Test-time registers


def intervene(activations: torch.Tensor, neurons: list[int], **options: object) -> torch.Tensor:
    """Apply an intervention to activations (B, T, M) themselves, through an MLP whose first layer is the identity."""
    width = activations.shape[2]
    mlp = Mlp(nn.Linear(width, width, bias=False), nn.Identity(), nn.Linear(width, width))
    with torch.no_grad():
        mlp.fc1.weight.copy_(torch.eye(width))
        return InterventionMlp(mlp, neurons, Registers(**options)).hidden(activations)


ACTIVATIONS = torch.tensor(
    [
        [[1.0, 2.0, 9.0], [3.0, -4.0, 9.0], [0.5, 0.5, 9.0], [0.0, 0.0, 9.0]],
        [[0.0, 1.0, 9.0], [1.0, 1.0, 9.0], [0.0, 1.0, 9.0], [0.0, 5.0, 9.0]],
    ]
)
"""Two images of three tokens and one register; neurons 0 and 1 are listed, 2 is not."""


@pytest.mark.parametrize(
    ("options", "first", "second"),
    [
        # The register takes the shared extreme, in which it takes part itself, and token 0 keeps its own.
        ({}, [[1, 2], [0, 0], [0, 0], [-4, -4]], [[0, 1], [0, 0], [0, 0], [5, 5]]),
        ({"maximum": "per-neuron"}, [[1, 2], [0, 0], [0, 0], [3, -4]], [[0, 1], [0, 0], [0, 0], [1, 5]]),
        ({"first_token": "zeroed"}, [[0, 0], [0, 0], [0, 0], [-4, -4]], [[0, 0], [0, 0], [0, 0], [5, 5]]),
        ({"registers": 2}, [[1, 2], [0, 0], [-4, -4], [-4, -4]], [[0, 1], [0, 0], [5, 5], [5, 5]]),
    ],
)
def test_listed_neurons_move_to_the_registers(
    options: dict[str, object], first: list[list[float]], second: list[list[float]]
) -> None:
    got = intervene(ACTIVATIONS, [0, 1], **options)
    assert got[..., :2].tolist() == [first, second]
    assert torch.equal(got[..., 2], ACTIVATIONS[..., 2])
    assert torch.equal(intervene(ACTIVATIONS, [1, 0, 1, 1], **options), got), "order and repetition have no effect"


def test_a_tie_gives_the_negative_value() -> None:
    activations = torch.tensor([[[2.0], [-2.0], [0.0]]])
    assert intervene(activations, [0])[0, 2].tolist() == [-2]


def test_intervening_leaves_the_plain_encoder_alone(folder: Path) -> None:
    plain = Siglip2Encoder.load(folder, SIZE)
    images = pixels(2)
    before = plain(images)
    with_registers(plain, NEURONS, Registers())(images)
    assert torch.equal(plain(images), before)
    with pytest.raises(ValueError, match="registers already"):
        with_registers(with_registers(plain, NEURONS, Registers()), NEURONS, Registers())


@pytest.mark.parametrize(
    ("layers", "message"),
    [({4: (0,)}, "layer 4 does not exist.*0-3"), ({1: (0, 48)}, "layer 1 has hidden units 0-47, not 48")],
)
def test_neurons_outside_the_encoder_are_refused(
    encoder: Siglip2Encoder, layers: dict[int, tuple[int, ...]], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        with_registers(encoder, layers, Registers())


def test_images_of_a_batch_are_independent(folder: Path) -> None:
    intervened = with_registers(Siglip2Encoder.load(folder, SIZE), NEURONS, Registers()).double()
    images = pixels(3).double()
    together = intervened(images)
    others = torch.cat([images[:1], 1 - images[1:]])
    assert torch.equal(intervened(others)[0], together[0])
    for number in range(3):
        alone = intervened(images[number : number + 1])[0]
        torch.testing.assert_close(alone, together[number], rtol=0, atol=1e-12)
