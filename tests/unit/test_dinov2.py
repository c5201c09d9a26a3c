"""DINOv2 with and without trained registers, against transformers' own forward."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from dsr.analysis.measure import trace_encoder
from dsr.base.errors import UserError
from dsr.base.files import write_json
from dsr.config.encoders import Discovery
from dsr.config.encoders import TestTimeRegisters as Registers
from dsr.config.specs import AutoencoderSpec, DiscoverSpec
from dsr.data.images import open_images
from dsr.encoder.autoencoder import load_autoencoder
from dsr.encoder.dinov2 import Dinov2Encoder
from dsr.encoder.ttr import find_register_neurons, with_registers
from tests.unit import tiny_encoder
from tests.unit.tiny_encoder import HIDDEN, LAYERS, WIDTH, pixels

PATCH, TABLE, SIZE = 14, 6 * 14, 4 * 14
"""Positions are a table of 6 x 6; images at SIZE have 4 x 4 patches, so it is resized as the published one is."""
WITH_REGISTERS = (Dinov2WithRegistersConfig, Dinov2WithRegistersModel)
KINDS = {"dinov2": (Dinov2Config, Dinov2Model), "dinov2_with_registers": WITH_REGISTERS}
PREFIX = {"dinov2": 1, "dinov2_with_registers": 5}
PLANTED = (1, 7)


@pytest.fixture(scope="module", params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model whose every weight matters, with one neuron that makes outliers of some tokens."""
    folder = tmp_path_factory.mktemp(kind)
    torch.manual_seed(0)
    configuration, architecture = KINDS[kind]
    shape = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 4, "mlp_ratio": 2}
    model = architecture(configuration(**shape, image_size=TABLE, patch_size=PATCH))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        layer = model.encoder.layer[PLANTED[0]]
        direction = torch.randn(WIDTH)
        layer.mlp.fc1.weight[PLANTED[1]] = 200 * direction / direction.norm()
        layer.mlp.fc1.bias[PLANTED[1]] = -200
    model.save_pretrained(folder)
    processor = {"image_mean": Dinov2Encoder.PIXEL_MEAN, "image_std": Dinov2Encoder.PIXEL_STD}
    write_json(folder / "preprocessor_config.json", processor)
    return folder


def spec(ttr: Registers | None = None) -> AutoencoderSpec:
    plain = tiny_encoder.spec(ttr, image_size=64)
    changes = {"family": "dinov2", "input_size": SIZE, "patch_size": PATCH}
    return plain.model_copy(update={"encoder": plain.encoder.model_copy(update=changes)})


def test_streams_and_features_are_those_of_transformers(folder: Path, kind: str) -> None:
    encoder = Dinov2Encoder.load(folder, SIZE).double()
    images = encoder.preprocess(pixels(2, 96).double())
    model = KINDS[kind][1].from_pretrained(folder).double().eval()
    with torch.no_grad():
        states = model(images, output_hidden_states=True).hidden_states
    trace = encoder.trace(images)
    assert len(states) == LAYERS + 1
    torch.testing.assert_close(trace.hidden_states, [*states], rtol=0, atol=1e-6)
    features = F.layer_norm(states[-1][:, PREFIX[kind] :], (WIDTH,), eps=1e-6)
    torch.testing.assert_close(encoder(images), features, rtol=0, atol=1e-6)
    assert trace.activations[0].shape == (2, PREFIX[kind] + 16, HIDDEN * 4 // 3)


def test_an_autoencoder_around_it(folder: Path, tmp_path: Path) -> None:
    files = {**tiny_encoder.write_parts(tmp_path, spec(), {0: (0,)}), "neurons": None, "statistics": None}
    whole = load_autoencoder(spec(), encoder=folder, **files)
    images = pixels(2)
    latents = whole.encode(images)
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (Dinov2Encoder.PIXEL_MEAN, Dinov2Encoder.PIXEL_STD))
    scaled = (F.interpolate(images, (SIZE, SIZE), mode="bicubic") - mean) / std
    want = Dinov2Encoder.load(folder, SIZE)(scaled).transpose(1, 2).unflatten(2, (4, 4))
    torch.testing.assert_close(latents, want, rtol=0, atol=1e-5)
    decode_only = load_autoencoder(spec(), encoder=None, **files)
    assert torch.equal(decode_only.decode(latents), whole.decode(latents)), "pixels in the scale of DINOv2's processor"


def test_maps_leave_out_what_is_no_image_token(folder: Path, kind: str) -> None:
    encoder = Dinov2Encoder.load(folder, SIZE)
    images = encoder.preprocess(pixels(2))
    layers = trace_encoder(encoder, images)
    stream = encoder.trace(images).hidden_states[1]
    norms = stream.norm(dim=-1).numpy()
    assert layers[0]["norms"] == pytest.approx(norms[:, PREFIX[kind] :].reshape(2, 4, 4), rel=1e-5)
    assert layers[0]["register_norms"] == pytest.approx(norms[:, : PREFIX[kind]], rel=1e-5)
    assert layers[0]["attention"].sum((1, 2)) + layers[0]["register_attention"] == pytest.approx(1, rel=1e-5)


def test_discovery_and_test_time_registers(folder: Path, kind: str, six_images: Path) -> None:
    encoder = Dinov2Encoder.load(folder, SIZE)
    images = encoder.preprocess(pixels(6))
    trace = encoder.trace(images)
    threshold = float(trace.hidden_states[-1][:, encoder.prefix :].norm(dim=-1).median()) * 2
    options = Discovery(images=6, norm_threshold=threshold, top_k=1)
    found = find_register_neurons(DiscoverSpec(encoding=spec(), discovery=options), encoder, open_images(six_images))
    assert found.layers == {PLANTED[0]: (PLANTED[1],)}

    intervened = with_registers(encoder, found.layers, Registers())
    after = intervened.trace(images)
    assert after.hidden_states[0].shape[1] == PREFIX[kind] + 16 + 1
    activations = after.activations[PLANTED[0]][..., PLANTED[1]]
    before = trace.activations[PLANTED[0]][..., PLANTED[1]]
    # Token 0, here CLS, is left as it is; the appended token draws a little of the attention before it.
    torch.testing.assert_close(activations[:, 0], before[:, 0], rtol=0.1, atol=0.1)
    assert not activations[:, 1:-1].any()
    assert intervened(images).shape == (6, 16, WIDTH)
    assert intervened.pre_norm(images).norm(dim=-1).max() < threshold


def test_weights_that_are_not_read_may_be_missing_and_another_mlp_is_refused(copied: Path) -> None:
    weights = copied / "model.safetensors"
    state = load_file(weights)
    unread = [key for key in state if key.startswith("layernorm.") or key.endswith("mask_token")]
    save_file({key: value for key, value in state.items() if key not in unread}, weights, {"format": "pt"})
    Dinov2Encoder.load(copied, SIZE)
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**config, "use_swiglu_ffn": True}))
    with pytest.raises(UserError, match="use_swiglu_ffn is True, only False"):
        Dinov2Encoder.load(copied, SIZE)
