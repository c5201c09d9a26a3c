"""The encoder, test-time registers, and the autoencoder around them. What they compute is in tests/golden too."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import SiglipVisionModel

import dsr.encoder
from dsr.accel import models as accelerate
from dsr.base.errors import UserError
from dsr.config.encoders import TestTimeRegisters as Registers
from dsr.config.specs import EncoderSpec, StatisticsSpec
from dsr.encoder.autoencoder import Autoencoder, load_autoencoder, load_encoder
from dsr.encoder.blocks import Attention, Mlp, attend
from dsr.encoder.siglip2 import PREFIX, Siglip2Encoder
from dsr.encoder.statistics import LatentStatistics
from dsr.encoder.ttr import InterventionMlp, read_neurons, with_registers
from dsr.registers.discovery import NeuronScores, Trace, rank
from dsr.registers.test_time import check_neurons
from tests.unit import tiny_encoder
from tests.unit.tiny_encoder import HIDDEN, LAYERS, SIZE, WIDTH, pixels


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Encoder, neurons, statistics and decoder."""
    place = tmp_path_factory.mktemp("autoencoder")
    parts = tiny_encoder.write_parts(place, tiny_encoder.spec(), {0: (3, 17)})
    return {"encoder": tiny_encoder.write_folder(place / "encoder"), **parts}


@pytest.fixture(scope="module")
def folder(files: dict[str, Path]) -> Path:
    return files["encoder"]


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Siglip2Encoder:
    return Siglip2Encoder.load(folder, SIZE)


@pytest.fixture
def autoencoder(files: dict[str, Path]) -> Autoencoder:
    return load_autoencoder(tiny_encoder.spec(Registers()), **files)


def test_blocks_and_attention_are_the_vision_models(folder: Path, encoder: Siglip2Encoder) -> None:
    images = pixels(2) * 2 - 1
    model = SiglipVisionModel.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        theirs = model(images, output_hidden_states=True, output_attentions=True)
    trace = encoder.trace(images)
    assert len(trace.hidden_states) == LAYERS + 1
    torch.testing.assert_close(trace.hidden_states, [*theirs.hidden_states], rtol=1e-5, atol=1e-5)
    for block, stream, weights in zip(encoder.blocks, trace.hidden_states, theirs.attentions, strict=False):
        torch.testing.assert_close(block.attention.weights(block.norm1(stream)), weights, rtol=1e-4, atol=1e-6)
    assert torch.equal(encoder.pre_norm(images), trace.hidden_states[-1])
    assert trace.activations[0].shape == (2, 16, HIDDEN)


def test_a_tower_alone_may_leave_the_prefix_out(encoder: Siglip2Encoder, copied: Path) -> None:
    tensors = load_file(copied / "model.safetensors")
    tower = {name.removeprefix(PREFIX): value for name, value in tensors.items() if name.startswith(PREFIX)}
    save_file(tower, copied / "model.safetensors")
    images = pixels(1)
    assert torch.equal(Siglip2Encoder.load(copied, SIZE).pre_norm(images), encoder.pre_norm(images))


WEIGHTS, WEIGHT = "model.safetensors", "vision_model.encoder.layers.1.mlp.fc1.weight"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", None, "config.json: no such file"),
        ("preprocessor_config.json", None, "preprocessor_config.json: no such file"),
        (WEIGHTS, None, "cannot be read"),
        (WEIGHTS, "cut off", "cannot be read"),
        ("config.json", '{"model_type": "vit"}', "model_type is 'vit'"),
        (WEIGHTS, {WEIGHT: None}, rf"1 vision weights are missing .*{WEIGHT}"),
        (WEIGHTS, {WEIGHT: torch.zeros(3)}, f"another shape .*{WEIGHT}"),
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
    processor = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 1.0, 2.0]}
    (copied / "preprocessor_config.json").write_text(json.dumps(processor))
    got = Siglip2Encoder.load(copied, SIZE).preprocess(torch.full((1, 3, SIZE, SIZE), 0.6))[0, :, 0, 0]
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
        [[1.0, 2.0, 9.0], [4.0, -4.0, 9.0], [0.5, 0.5, 9.0], [0.0, 0.0, 9.0]],
        [[0.0, 1.0, 9.0], [1.0, 1.0, 9.0], [0.0, 1.0, 9.0], [0.0, 5.0, 9.0]],
    ]
)
"""Two images of three tokens and one register; neurons 0 and 1 are listed, 2 is not."""


@pytest.mark.parametrize(
    ("options", "first", "second"),
    [
        # The register takes the shared extreme, in which it takes part itself, and the negative one of a tie; token 0
        # keeps its own.
        ({}, [[1, 2], [0, 0], [0, 0], [-4, -4]], [[0, 1], [0, 0], [0, 0], [5, 5]]),
        ({"maximum": "per-neuron"}, [[1, 2], [0, 0], [0, 0], [4, -4]], [[0, 1], [0, 0], [0, 0], [1, 5]]),
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


@pytest.mark.parametrize(
    ("layers", "message"),
    [({4: (0,)}, "layer 4 does not exist.*0-3"), ({1: (0, 48)}, "layer 1 has hidden units 0-47, not 48")],
)
def test_neurons_outside_the_encoder_are_refused(
    encoder: Siglip2Encoder, layers: dict[int, tuple[int, ...]], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        with_registers(encoder, layers, Registers())


# Register neurons; scores on activations made by hand: one layer, three tokens, two neurons; norms 1, 1, 10 and 1, 1, 1

OUTPUT = torch.tensor([[[1.0], [1.0], [10.0]], [[1.0], [1.0], [1.0]]])
HIDDEN_UNITS = torch.tensor([[[2.0, 6.0], [0.0, 4.0], [-3.0, 1.0]], [[9.0, 9.0], [9.0, 9.0], [9.0, 9.0]]])


def scores(threshold: float = 5.0, *, layer: int = -1, registers: int = 0, prefix: int = 0) -> list[list[float]]:
    accumulated = NeuronScores(threshold, layer)
    for output, activations in zip(OUTPUT.split(1), HIDDEN_UNITS.split(1), strict=True):
        accumulated.add(Trace([output, output], [activations]), registers, prefix=prefix)
    return accumulated.mean().tolist()


def test_the_score_is_the_mean_magnitude_on_outlying_image_tokens() -> None:
    assert scores() == [[3.0, 1.0]], "of images that have some"
    assert scores(0.5, prefix=1, registers=1) == [[(0 + 9) / 2, (4 + 9) / 2]]
    with pytest.raises(UserError, match=r"norm_threshold 5.0: the largest norm seen is 1;"):
        scores(registers=1)
    with pytest.raises(UserError, match=r"discovery\.layer: 1 does not exist"):
        scores(layer=1)


def test_neurons_of_the_first_list_are_not_found_again() -> None:
    table = torch.tensor([[1.0, 5.0], [4.0, 2.0], [9.0, 0.0]])
    assert rank(table, 2) == [(2, 0, 9.0), (0, 1, 5.0)]
    assert rank(table, 2, exclude=[(2, 0), (1, 0)]) == [(0, 1, 5.0), (1, 1, 2.0)]


@pytest.mark.parametrize(
    ("name", "count", "layers", "width"),
    [("siglip2-b-single", 50, 12, 3072), ("siglip2-so400m-recursive", 72, 27, 4304)],
)
def test_released_lists(name: str, count: int, layers: int, width: int) -> None:
    neurons = read_neurons(Path(dsr.encoder.__path__[0]) / f"neurons/{name}.json").layers
    check_neurons(neurons, [width] * layers)
    assert sum(map(len, neurons.values())) == count


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"encoder": "x", "source": "y"}', "layers: Field required"),
        ('{"encoder": "x", "source": "y", "layers": {}}', "at least one neuron"),
        ('{"encoder": "x", "source": "y", "layers": {"1": [5, 5]}}', r"layers \[1\] name a neuron twice"),
        (None, "no such file"),
    ],
)
def test_bad_neuron_files_are_refused(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "neurons.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=f"neurons.json: .*{message}"):
        read_neurons(path)


# The autoencoder


def test_float16_matmuls_change_latents_by_rounding_only(autoencoder: Autoencoder) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        exact = autoencoder.encode(pixels(2))
    assert torch.equal(autoencoder.encode(pixels(2)), exact), "autocast does not reach the encoder"
    autoencoder.in_half = True
    rounded = autoencoder.encode(pixels(2))
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).norm() < 2e-3 * exact.norm()
    accelerate.accelerated_encode(autoencoder, torch.device("cpu"))
    assert torch.equal(autoencoder.encode(pixels(2)), rounded), "weights are stored as autocast rounds them"


def test_encoding_compiles_without_graph_breaks(autoencoder: Autoencoder) -> None:
    images = pixels(2, 80)
    compiled = torch.compile(autoencoder.encode, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(images), autoencoder.encode(images), rtol=1e-5, atol=1e-5)


def test_files_must_fit_the_specification(files: dict[str, Path], tmp_path: Path) -> None:
    plain, silenced = tiny_encoder.spec(), tiny_encoder.spec(Registers())
    with pytest.raises(UserError, match="no neuron file: a neuron file is needed"):
        load_autoencoder(silenced, **{**files, "neurons": None})
    with pytest.raises(UserError, match=r"json: .* test-time registers, and only there"):
        load_autoencoder(plain, **files)
    wider = plain.model_copy(update={"encoder": plain.encoder.model_copy(update={"width": 64})})
    with pytest.raises(UserError, match="width is 32, but the configuration"):
        load_encoder(wider, encoder=files["encoder"], neurons=None)
    # Of another encoder, of the same shape.
    statistics, place = LatentStatistics((WIDTH, 4, 4)), tmp_path / "statistics.safetensors"
    statistics.update(torch.randn(8, WIDTH, 4, 4))
    encoding = EncoderSpec.model_validate(plain.model_dump(exclude={"decoder"}))
    statistics.save(place, StatisticsSpec(encoding=encoding, images=8, flip=True))
    assert load_autoencoder(plain, **{**files, "neurons": None, "statistics": place})
    with pytest.raises(UserError, match=rf"^{place} was made with other settings .*ttr_options: None -> "):
        load_autoencoder(silenced, **{**files, "statistics": place})


def fused(packed: torch.Tensor) -> torch.Tensor:
    return attend(packed)


def broken(_: torch.Tensor) -> NoReturn:
    raise RuntimeError("out of resource: shared memory")


UNAVAILABLE = "No fused attention (RuntimeError: out of resource: shared memory); PyTorch's is used instead"


@pytest.mark.parametrize(
    ("replacement", "runs", "messages"), [(fused, True, []), (broken, True, [UNAVAILABLE]), (broken, False, [])]
)
def test_an_attention_that_runs_replaces_pytorchs(
    autoencoder: Autoencoder,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    replacement: object,
    runs: bool,
    messages: list[str],
) -> None:
    """What GPUs run needs Triton and a GPU, and is replaced here."""
    module = SimpleNamespace(attend=replacement, runs_on=lambda _: runs)
    monkeypatch.setitem(sys.modules, "dsr.accel.flash_attention", module)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    layers = [layer for layer in autoencoder.modules() if isinstance(layer, Attention)]
    accelerate._replace_attention(layers, torch.float32, torch.device("cpu"))
    assert {layer.attend for layer in layers} == {fused if replacement is fused else attend}
    assert caplog.messages == messages


@pytest.mark.usefixtures("restored_arithmetic")
def test_float32_matmuls_keep_pytorchs_attention(autoencoder: Autoencoder, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.dtype] = []
    monkeypatch.setattr(accelerate, "_replace_attention", lambda _, dtype, __: asked.append(dtype))
    cases = [("cuda", False, False), ("cpu", True, False), ("cuda", True, False), ("cuda", False, True)]
    for device, tf32, half in cases:
        torch.backends.cuda.matmul.allow_tf32, autoencoder.in_half = tf32, half
        accelerate.accelerated_encode(autoencoder, torch.device(device))
    assert asked == [torch.float32, torch.float16]
