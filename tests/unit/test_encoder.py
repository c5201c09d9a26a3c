"""The encoder, test-time registers, neuron lists, the decoder and the autoencoder around them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from transformers import SiglipVisionModel

import dsr.encoder
from dsr.config import TestTimeRegisters as Registers
from dsr.encoder import neuron_lists
from dsr.encoder.autoencoder import build_decoder, load_autoencoder, load_encoder
from dsr.encoder.blocks import Mlp
from dsr.encoder.decoder import ViTDecoder
from dsr.encoder.neuron_lists import NeuronList
from dsr.encoder.siglip2 import Siglip2Encoder, resize
from dsr.encoder.ttr import InterventionMlp, with_registers
from dsr.errors import UserError
from tests.unit import tiny_encoder
from tests.unit.tiny_encoder import HIDDEN, LAYERS, SIZE, WIDTH, pixels

RELEASED = Path(dsr.encoder.__path__[0]) / "neurons"
NEURONS = {0: (3, 17), 2: (5, 40, 1)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder.write_folder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Siglip2Encoder:
    return Siglip2Encoder.load(folder, SIZE)


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    """A copy of the folder that a test may damage."""
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def neuron_file(path: Path) -> Path:
    neuron_lists.write(path, NeuronList(encoder="tiny", layers=NEURONS, source="test"))
    return path


# The plain encoder


@pytest.mark.parametrize("size", [SIZE, 80])
def test_walking_the_blocks_is_the_vision_model(folder: Path, encoder: Siglip2Encoder, size: int) -> None:
    images = pixels(2, size) * 2 - 1
    model = SiglipVisionModel.from_pretrained(folder).eval()
    with torch.no_grad():
        states = model(images, output_hidden_states=True, interpolate_pos_encoding=True).hidden_states
    trace = encoder.trace(images)
    assert len(trace.hidden_states) == len(states) == LAYERS + 1
    for ours, theirs in zip(trace.hidden_states, states, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert torch.equal(encoder.pre_norm(images), trace.hidden_states[-1])
    assert trace.activations[0].shape == (2, (size // 16) ** 2, HIDDEN)


def test_features_have_unit_variance_and_nothing_is_trainable(encoder: Siglip2Encoder) -> None:
    features = encoder(encoder.preprocess(pixels(2)))
    torch.testing.assert_close(features.norm(dim=-1), torch.full((2, 16), WIDTH**0.5), rtol=1e-3, atol=0)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not encoder.training


def test_other_sizes_are_resized_without_antialiasing_before_standardising(encoder: Siglip2Encoder) -> None:
    images = pixels(1, 96)
    want = F.interpolate(images, size=(SIZE, SIZE), mode="bicubic", align_corners=False, antialias=False)
    assert torch.equal(encoder.preprocess(images), (want - 0.5) / 0.5)
    assert resize(images, 96) is images


def test_a_missing_vision_weight_is_refused(copied: Path) -> None:
    weights = copied / "model.safetensors"
    state = load_file(weights)
    del state["vision_model.encoder.layers.1.mlp.fc1.weight"]
    save_file(state, weights, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"1 vision weights are missing .*layers\.1\.mlp\.fc1\.weight"):
        Siglip2Encoder.load(copied, SIZE)


def test_a_weight_of_another_shape_is_refused(copied: Path) -> None:
    weights = copied / "model.safetensors"
    state = load_file(weights)
    state["vision_model.encoder.layers.1.mlp.fc1.bias"] = torch.zeros(HIDDEN + 1)
    save_file(state, weights, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"another shape .*layers\.1\.mlp\.fc1\.bias"):
        Siglip2Encoder.load(copied, SIZE)


def test_damaged_weights_are_refused(copied: Path) -> None:
    weights = copied / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(UserError, match="cannot be read"):
        Siglip2Encoder.load(copied, SIZE)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_an_incomplete_folder_is_refused(copied: Path, name: str) -> None:
    (copied / name).unlink()
    with pytest.raises(UserError, match=name.replace("model.", r"\*\.")):
        Siglip2Encoder.load(copied, SIZE)


def test_the_processor_sets_mean_and_std(copied: Path) -> None:
    (copied / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 1.0, 2.0]})
    )
    loaded = Siglip2Encoder.load(copied, SIZE)
    got = loaded.preprocess(torch.full((1, 3, SIZE, SIZE), 0.6))[0, :, 0, 0]
    torch.testing.assert_close(got, torch.tensor([1.0, 0.4, 0.15]))


def test_another_model_is_refused(copied: Path) -> None:
    (copied / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(UserError, match="model_type is 'vit'"):
        Siglip2Encoder.load(copied, SIZE)


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


def test_the_register_takes_the_shared_extreme_and_token_0_keeps_its_own() -> None:
    got = intervene(ACTIVATIONS, [0, 1])
    assert got[0, :, :2].tolist() == [[1, 2], [0, 0], [0, 0], [-4, -4]]
    assert got[1, :, :2].tolist() == [[0, 1], [0, 0], [0, 0], [5, 5]], "the register takes part in the maximum"
    assert torch.equal(got[..., 2], ACTIVATIONS[..., 2])


def test_per_neuron_maximum() -> None:
    got = intervene(ACTIVATIONS, [0, 1], maximum="per-neuron")
    assert got[0, 3, :2].tolist() == [3, -4]
    assert got[1, 3, :2].tolist() == [1, 5]


def test_first_token_zeroed() -> None:
    got = intervene(ACTIVATIONS, [0, 1], first_token="zeroed")
    assert got[0, :, :2].tolist() == [[0, 0], [0, 0], [0, 0], [-4, -4]]


def test_several_registers() -> None:
    got = intervene(ACTIVATIONS, [0, 1], registers=2)
    assert got[0, :, :2].tolist() == [[1, 2], [0, 0], [-4, -4], [-4, -4]]


def test_a_tie_gives_the_negative_value() -> None:
    activations = torch.tensor([[[2.0], [-2.0], [0.0]]])
    assert intervene(activations, [0])[0, 2].tolist() == [-2]


def test_order_and_repetition_of_neurons_have_no_effect() -> None:
    assert torch.equal(intervene(ACTIVATIONS, [1, 0, 1, 1]), intervene(ACTIVATIONS, [0, 1]))


@pytest.mark.parametrize("registers", [1, 3])
def test_registers_are_appended_as_zeros_and_removed(encoder: Siglip2Encoder, registers: int) -> None:
    intervened = with_registers(encoder, NEURONS, Registers(registers=registers))
    images = pixels(2)
    states = intervened.trace(images).hidden_states
    assert torch.equal(states[0][:, :16], encoder.embed(images))
    assert states[0][:, 16:].tolist() == torch.zeros(2, registers, WIDTH).tolist()
    assert all(state.shape == (2, 16 + registers, WIDTH) for state in states)
    assert torch.equal(intervened.pre_norm(images), states[-1][:, :16])
    assert intervened(images).shape == encoder(images).shape
    assert not torch.equal(intervened(images), encoder(images))


def test_intervening_leaves_the_plain_encoder_alone(folder: Path) -> None:
    plain = Siglip2Encoder.load(folder, SIZE)
    images = pixels(2)
    before = plain(images)
    with_registers(plain, NEURONS, Registers())(images)
    assert torch.equal(plain(images), before)
    with pytest.raises(ValueError, match="registers already"):
        with_registers(with_registers(plain, NEURONS, Registers()), NEURONS, Registers())


def test_images_of_a_batch_are_independent(folder: Path) -> None:
    intervened = with_registers(Siglip2Encoder.load(folder, SIZE), NEURONS, Registers()).double()
    images = pixels(3).double()
    together = intervened(images)
    others = torch.cat([images[:1], 1 - images[1:]])
    assert torch.equal(intervened(others)[0], together[0])
    for number in range(3):
        alone = intervened(images[number : number + 1])[0]
        torch.testing.assert_close(alone, together[number], rtol=0, atol=1e-12)


@pytest.mark.parametrize("maximum", ["shared", "per-neuron"])
def test_compiles_without_graph_breaks(folder: Path, tmp_path: Path, maximum: str) -> None:
    options = Registers(maximum=maximum)
    autoencoder = load_autoencoder(
        tiny_encoder.spec(options),
        encoder=folder,
        neurons=neuron_file(tmp_path / "neurons.json"),
        statistics=None,
        decoder=None,
    )
    images = pixels(2, 80)
    torch._dynamo.reset()
    compiled = torch.compile(autoencoder.encode, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(images), autoencoder.encode(images), rtol=1e-5, atol=1e-5)


# Neuron lists


@pytest.mark.parametrize(
    ("name", "count", "widths"),
    [("siglip2-b-single", 50, [3072] * 12), ("siglip2-so400m-recursive", 72, [4304] * 27)],
)
def test_released_lists(name: str, count: int, widths: list[int]) -> None:
    neurons = neuron_lists.read(RELEASED / f"{name}.json")
    assert (
        neurons.count == count == len({(layer, index) for layer in neurons.layers for index in neurons.layers[layer]})
    )
    neuron_lists.check_ranges(neurons.layers, widths)


def test_a_list_survives_a_round_trip(tmp_path: Path) -> None:
    neurons = NeuronList(encoder="x", layers={3: (2, 1)}, ranked=((3, 2, 1.5), (3, 1, 0.5)), source="test")
    neuron_lists.write(tmp_path / "neurons.json", neurons)
    assert neuron_lists.read(tmp_path / "neurons.json") == neurons


@pytest.mark.parametrize(
    ("layers", "message"),
    [({4: (0,)}, "layer 4 does not exist.*0-3"), ({1: (0, 48)}, "layer 1 has hidden units 0-47, not 48")],
)
def test_neurons_outside_the_encoder_are_refused(
    encoder: Siglip2Encoder, layers: dict[int, tuple[int, ...]], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        with_registers(encoder, layers, Registers())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"encoder": "x", "source": "y"}', "layers: Field required"),
        ('{"encoder": "x", "source": "y", "layers": {}}', "at least one neuron"),
        ('{"encoder": "x", "source": "y", "layers": {"1": [5, 5]}}', r"layers \[1\] name a neuron twice"),
        ('{"encoder": "x", "source": "y", "layers": {"a": [5]}}', "layers.a"),
        ("[1, 2", "Invalid JSON"),
    ],
)
def test_bad_neuron_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "neurons.json"
    path.write_text(content)
    with pytest.raises(UserError, match=f"neurons.json: not a neuron file .*{message}"):
        neuron_lists.read(path)


def test_a_missing_neuron_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.json: no such file"):
        neuron_lists.read(tmp_path / "nothing.json")


def test_merging_keeps_every_neuron_once() -> None:
    assert neuron_lists.merge({2: (5, 1)}, {0: (3,), 2: (1, 4)}) == {0: (3,), 2: (5, 1, 4)}


# The decoder


def test_decoder_trains_all_but_its_positions() -> None:
    decoder = build_decoder(tiny_encoder.spec())
    decoder(torch.randn(2, 16, WIDTH)).square().mean().backward()
    without = [name for name, parameter in decoder.named_parameters() if parameter.grad is None]
    assert without == ["decoder_pos_embed"]
    assert all(parameter.grad.abs().sum() > 0 for name, parameter in decoder.named_parameters() if name not in without)


def test_decoder_puts_patches_in_row_major_order() -> None:
    decoder = build_decoder(tiny_encoder.spec())
    # A decoder that only sees its bias paints every patch alike: channel fastest, then column, then row.
    with torch.no_grad():
        decoder.decoder_pred.weight.zero_()
        decoder.decoder_pred.bias.copy_(torch.arange(16 * 16 * 3))
        image = decoder(torch.randn(1, 16, WIDTH))[0]
    assert image[:, :16, :16].permute(1, 2, 0).flatten().tolist() == list(range(16 * 16 * 3))
    assert torch.equal(image[:, :16, :16], image[:, 48:, 16:32])


def test_decoder_resizes_another_number_of_tokens() -> None:
    decoder = build_decoder(tiny_encoder.spec())
    constant = torch.randn(1, 1, WIDTH)
    same, fewer = decoder(constant.expand(1, 16, WIDTH)), decoder(constant.expand(1, 9, WIDTH))
    torch.testing.assert_close(fewer, same)
    with pytest.raises(ValueError, match="10 latent tokens"):
        decoder(torch.zeros(1, 10, WIDTH))


def test_decoder_positions_do_not_depend_on_the_seed_and_cls_has_none() -> None:
    table = build_decoder(tiny_encoder.spec()).decoder_pos_embed
    assert torch.equal(table, build_decoder(tiny_encoder.spec()).decoder_pos_embed)
    assert not table[0, 0].any()
    # The first half encodes the column: equal within a column, different within a row.
    grid = table[0, 1:, :8].reshape(4, 4, 8)
    assert torch.equal(grid[0], grid[3])
    assert not torch.equal(grid[:, 0], grid[:, 3])


def test_decoder_refuses_heads_that_do_not_divide_its_width() -> None:
    with pytest.raises(ValueError, match="multiple of num_heads"):
        ViTDecoder(in_channels=4, hidden_size=16, depth=1, num_heads=3, intermediate_size=8, patch_size=2, grid=2)


# The autoencoder


@pytest.fixture(scope="module")
def files(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("autoencoder")
    torch.manual_seed(0)
    save_file(build_decoder(tiny_encoder.spec()).state_dict(), place / "decoder.safetensors")
    save_file({"mean": torch.randn(WIDTH, 4, 4), "var": torch.rand(WIDTH, 4, 4)}, place / "statistics.safetensors")
    return {
        "encoder": folder,
        "neurons": neuron_file(place / "neurons.json"),
        "statistics": place / "statistics.safetensors",
        "decoder": place / "decoder.safetensors",
    }


def test_latents_are_tokens_in_row_major_order_and_normalised(files: dict[str, Path]) -> None:
    autoencoder = load_autoencoder(tiny_encoder.spec(Registers()), **files)
    images = pixels(2, 80)
    assert autoencoder.encoder is not None
    tokens = autoencoder.encoder(autoencoder.encoder.preprocess(images))
    statistics = load_file(files["statistics"])
    latents = autoencoder.encode(images)
    assert latents.shape == (2, WIDTH, 4, 4)
    raw = tokens[:, 1 * 4 + 2]
    want = (raw - statistics["mean"][:, 1, 2]) / (statistics["var"][:, 1, 2] + 1e-5).sqrt()
    torch.testing.assert_close(latents[:, :, 1, 2], want)
    assert autoencoder.decode(latents).shape == (2, 3, SIZE, SIZE)
    assert not autoencoder.training
    assert not any(parameter.requires_grad for parameter in autoencoder.parameters())


def test_autocast_does_not_reach_the_encoder(files: dict[str, Path]) -> None:
    autoencoder = load_autoencoder(tiny_encoder.spec(Registers()), **files)
    images = pixels(1)
    with torch.autocast("cpu", torch.bfloat16):
        latents = autoencoder.encode(images)
    assert torch.equal(latents, autoencoder.encode(images))


def test_decode_only_and_encode_only(files: dict[str, Path]) -> None:
    spec = tiny_encoder.spec(Registers())
    whole = load_autoencoder(spec, **files)
    latents = torch.randn(1, WIDTH, 4, 4)
    decoding = load_autoencoder(spec, **{**files, "encoder": None})
    assert torch.equal(decoding.decode(latents), whole.decode(latents))
    with pytest.raises(ValueError, match="can only decode"):
        decoding.encode(pixels(1))
    encoding = load_autoencoder(spec, **{**files, "decoder": None})
    assert torch.equal(encoding.encode(pixels(1)), whole.encode(pixels(1)))
    with pytest.raises(ValueError, match="can only encode"):
        encoding.decode(latents)


def test_decoder_weights_are_checked_strictly(files: dict[str, Path], tmp_path: Path) -> None:
    state = load_file(files["decoder"])
    path = tmp_path / "decoder.safetensors"
    norm = state.pop("decoder_norm.weight")
    for changed, message in (
        (state, "1 decoder weights are missing: decoder_norm.weight"),
        ({**state, "decoder_norm.weight": norm, "extra": norm.clone()}, "1 decoder weights are unexpected: extra"),
        ({**state, "decoder_norm.weight": norm[:3].clone()}, r"another shape: decoder_norm.weight \(3,\) instead of"),
    ):
        save_file(changed, path)
        with pytest.raises(UserError, match=message):
            load_autoencoder(tiny_encoder.spec(), **{**files, "neurons": None, "decoder": path})
    path.write_bytes(b"no tensors here")
    with pytest.raises(UserError, match="not a readable safetensors file"):
        load_autoencoder(tiny_encoder.spec(), **{**files, "neurons": None, "decoder": path})


def test_files_must_fit_the_specification(files: dict[str, Path], tmp_path: Path) -> None:
    place = tmp_path / "statistics.safetensors"
    save_file({"mean": torch.zeros(WIDTH), "var": torch.ones(WIDTH)}, place)
    with pytest.raises(UserError, match=r"'mean' has shape \(32,\), but latents have \(32, 4, 4\)"):
        load_autoencoder(tiny_encoder.spec(), **{**files, "neurons": None, "statistics": place})
    with pytest.raises(UserError, match="give the neuron file"):
        load_autoencoder(tiny_encoder.spec(Registers()), **{**files, "neurons": None})
    with pytest.raises(UserError, match="has no test-time registers"):
        load_autoencoder(tiny_encoder.spec(), **files)
    wider = tiny_encoder.spec()
    wider = wider.model_copy(update={"encoder": wider.encoder.model_copy(update={"width": 64})})
    with pytest.raises(UserError, match="width is 32, but the configuration"):
        load_encoder(wider, encoder=files["encoder"], neurons=None)
    with pytest.raises(UserError, match="image_size 66 is not a multiple of the 4 tokens"):
        build_decoder(tiny_encoder.spec(image_size=66))
