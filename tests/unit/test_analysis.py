from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from dsr.analysis.maps import OUTPUT, TokenMaps, outlier_ratio, relative_norms
from dsr.analysis.measure import first_component, map_denoiser, map_encoder, measure_layer, read_chosen, trace_denoiser
from dsr.base.errors import UserError
from dsr.base.files import read_record
from dsr.config.specs import DenoiserMapsSpec, EncoderMapsSpec, ModelSpec, content
from dsr.config.training import Dit, DitDh, Flow, Prediction
from dsr.data.images import open_images
from dsr.data.prepare import index_folder
from dsr.demo.encoder import marked_tokens, planted_neurons, write_encoder
from dsr.denoiser.dit import build_denoiser
from dsr.flow import Flow as RunningFlow
from tests.configuration import DEMO, configuration
from tests.unit import tiny_encoder

CONFIG = configuration(DEMO)
PLAIN, WITH_TTR = (CONFIG.autoencoder("siglip2-b", ttr) for ttr in ("none", "single"))
WIDTH, GRID, SIZE = PLAIN.encoder.width, PLAIN.encoder.grid, PLAIN.image_size
DIT = Dit(kind="dit", hidden_size=16, depth=4, num_heads=2, register_start=2)
DIT_DH = DitDh(kind="dit-dh", hidden_size=(16, 32), depth=(3, 1), num_heads=(2, 2), register_start=1)


# What is measured


def test_an_outlier_exceeds_the_multiple_of_its_own_images_median() -> None:
    one, blank = (np.float32([*others, last]).reshape(3, 3) for others, last in (([1] * 7 + [3], 3.01), ([0] * 8, 2)))
    norms = np.stack([one, 100 * one])
    assert np.allclose(outlier_ratio(norms, 3.0), 1 / 9)
    # The median may be zero.
    assert outlier_ratio(blank, 3.0) == 1 / 9
    assert relative_norms(blank).ravel()[[0, 8]].tolist() == [1, np.inf]


def test_first_component_finds_the_direction_of_most_variance() -> None:
    generator = np.random.default_rng(0)
    line = generator.normal(size=9)
    line -= line.mean()
    direction = generator.normal(size=20)
    direction /= np.linalg.norm(direction)
    tokens = 5 + np.outer(line, direction) + 1e-4 * generator.normal(size=(9, 20))
    projection, share = first_component(tokens)
    expected = line if line[np.abs(line).argmax()] > 0 else -line
    assert np.allclose(projection, expected, atol=1e-2)
    assert share > 0.999
    assert first_component(np.ones((9, 20)))[1] == 0.0


# Maps of real networks


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write a stand-in encoder with planted outliers, its neurons, statistics and a decoder."""
    folder = tmp_path_factory.mktemp("files")
    write_encoder(PLAIN.encoder, folder / "encoder")
    return {"encoder": folder / "encoder", **tiny_encoder.write_parts(folder, PLAIN, planted_neurons(PLAIN.encoder)[0])}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Index of three dark images with a bright square in the middle."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(3):
        pixels = np.zeros((SIZE, SIZE, 3), np.uint8)
        pixels[10 + number : 22, 10:22] = 200
        (folder / f"class-{number}").mkdir()
        Image.fromarray(pixels).save(folder / f"class-{number}" / "0.png")
    index_folder(folder, SIZE, folder / "index.npz")
    return folder / "index.npz"


def maps_of(spec: EncoderMapsSpec, files: dict[str, Path], output: Path) -> TokenMaps:
    """Make maps of the encoder, or of the denoiser, of a specification."""
    needed = ["images", "encoder", "decoder", *(["neurons"] if spec.autoencoder.ttr_options else [])]
    if isinstance(spec, DenoiserMapsSpec):
        needed += ["statistics", "weights"]
        map_denoiser(spec, output=output, **{name: files[name] for name in needed})
    else:
        map_encoder(spec, output=output, **{name: files[name] for name in needed})
    assert read_record(output) == {"spec": content(spec)}
    return TokenMaps.load(output)


def test_ttr_moves_the_encoders_outliers_to_the_register(files: dict[str, Path], images: Path, tmp_path: Path) -> None:
    given = {"images": images, **files}
    before = maps_of(EncoderMapsSpec(autoencoder=PLAIN, images=(2, 0)), given, tmp_path / "before.npz")
    after = maps_of(EncoderMapsSpec(autoencoder=WITH_TTR, images=(2, 0)), given, tmp_path / "after.npz")

    assert before.layers.tolist() == ["1", "2", "3", "4", OUTPUT]
    assert before.indices.tolist() == [2, 0]
    assert np.array_equal(before.images[0], open_images(images).read(2))
    assert before.decoded.shape == (2, 1, SIZE, SIZE, 3)
    last = before.layer("4")
    outliers = (relative_norms(before.norms[:, 0, last]) > 3.0).reshape(2, -1)
    assert [np.flatnonzero(mask).tolist() for mask in outliers] == [marked_tokens(GRID)] * 2
    assert outlier_ratio(after.norms[:, 0, last], 3.0).max() == 0.0
    assert after.register_norms[0, 0, last, 0] > 3 * np.median(after.norms[0, 0, last])
    assert before.register_norms.shape[-1] == 0
    for maps in (before, after):
        received = maps.attention[:, :, :-1].sum((-2, -1)) + maps.register_attention[:, :, :-1]
        assert np.allclose(received, 1.0, atol=1e-5)
        assert np.isnan(maps.attention[:, :, -1]).all()
        # The final LayerNorm has no affine part.
        assert np.allclose(maps.norms[:, 0, -1], math.sqrt(WIDTH), rtol=1e-3)
    assert (after.register_attention[:, 0, last] > after.attention[:, 0, last].max((-2, -1))).all()


def random_model(spec: ModelSpec, path: Path) -> torch.nn.Module:
    """Build a denoiser without zero weights, and write it."""
    torch.manual_seed(1)
    model = build_denoiser(spec).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    save_file(model.state_dict(), path)
    return model


def model_spec(denoiser: Dit | DitDh, registers: int) -> ModelSpec:
    return ModelSpec(denoiser=denoiser, registers=registers, channels=WIDTH, grid=GRID, classes=3)


@pytest.mark.parametrize(("denoiser", "blocks", "first"), [(DIT, 4, 2), (DIT_DH, 4, 1)])
@pytest.mark.parametrize("registers", [0, 4])
def test_denoiser_maps(
    files: dict[str, Path], images: Path, tmp_path: Path, denoiser: Dit | DitDh, blocks: int, first: int, registers: int
) -> None:
    weights = tmp_path / "ema.safetensors"
    model = random_model(model_spec(denoiser, registers), weights)
    spec = DenoiserMapsSpec(
        autoencoder=WITH_TTR,
        model=model_spec(denoiser, registers),
        flow=Flow(shift_dim=4096),
        images=(0, 1),
        times=(0.3, 0.9),
    )
    maps = maps_of(spec, {"images": images, "weights": weights, **files}, tmp_path / "maps.npz")
    assert maps.layers.tolist() == [*map(str, range(1, blocks + 1)), OUTPUT]
    assert maps.norms.shape == maps.attention.shape == (2, 2, blocks + 1, GRID, GRID)
    assert maps.decoded.shape == (2, 2, SIZE, SIZE, 3)
    assert np.isfinite(maps.norms).all()
    received = maps.attention[:, :, :-1].sum((-2, -1)) + maps.register_attention[:, :, :-1]
    assert np.allclose(received, 1.0, atol=1e-5)
    present = np.isfinite(maps.register_norms).all((0, 1, 3)) if registers else np.zeros(blocks + 1, bool)
    assert present.tolist() == [registers > 0 and first <= layer < blocks for layer in range(blocks + 1)]
    assert (maps.register_attention[:, :, :-1] > 0).all((0, 1)).tolist() == present[:-1].tolist()

    x, t, y = torch.randn(2, WIDTH, GRID, GRID), torch.full((2,), 0.5), torch.tensor([0, 1])
    with torch.no_grad():
        output = model(x, t, y)
    expected: dict[Prediction, torch.Tensor] = {"data": output, "velocity": x - 0.5 * output}
    for kind, clean in expected.items():
        layers, prediction = trace_denoiser(model, RunningFlow(1.0, prediction=kind), x, t, y)
        assert torch.equal(prediction, clean)
        assert np.allclose(layers[-1]["norms"].reshape(2, -1), clean.flatten(2).norm(dim=1).numpy(), rtol=1e-5)
    assert not any(module._forward_hooks for module in model.modules())


def test_any_images_can_be_looked_at(images: Path, tmp_path: Path) -> None:
    spec = EncoderMapsSpec(autoencoder=PLAIN, images=(2, 0))
    with pytest.raises(UserError, match="named by their labels"):
        read_chosen(images.parent, spec)
    for number, label in ((0, "207"), (1, "9"), (2, "30")):
        (tmp_path / label).symlink_to(images.parent / f"class-{number}")
    shown, labels = read_chosen(tmp_path, spec)
    # Folders are in the order of their names.
    assert labels.tolist() == [9, 207]
    assert np.array_equal(shown, np.stack([open_images(images).read(index) for index in (1, 0)]))


def test_mistakes_are_named(files: dict[str, Path], images: Path, tmp_path: Path) -> None:
    spec = EncoderMapsSpec(autoencoder=PLAIN, images=(3,))
    with pytest.raises(UserError, match="below the 3 images of"):
        maps_of(spec, {"images": images, **files}, tmp_path / "maps.npz")
    np.savez(tmp_path / "other.npz", norms=np.zeros(1))
    with pytest.raises(UserError, match="not a maps file"):
        TokenMaps.load(tmp_path / "other.npz")
    with pytest.raises(UserError, match="diverged"):
        measure_layer(torch.full((1, 4, 8), torch.nan), slice(0, 4))
