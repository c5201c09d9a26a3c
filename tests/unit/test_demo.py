from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dsr.analysis.maps import outlier_ratio
from dsr.base.errors import UserError
from dsr.commands import discover
from dsr.config.encoders import TestTimeRegisters
from dsr.data.images import open_images
from dsr.data.prepare import index_folder
from dsr.demo import encoder as stand_ins
from dsr.demo import made
from dsr.demo.digits import train_decoder, training_pairs, write_digits
from dsr.demo.graph import write_graph
from dsr.denoiser.dit import build_denoiser
from dsr.encoder.autoencoder import Autoencoder, build_decoder, load_decoder
from dsr.encoder.siglip2 import Siglip2Encoder
from dsr.encoder.ttr import read_neurons, with_registers
from dsr.registers.discovery import merge
from tests.configuration import DEMO, configuration

CONFIG = configuration(DEMO)
THRESHOLD = CONFIG.discovery.norm_threshold


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's images, with indices of them."""
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder)
    for split in ("train", "validation"):
        index_folder(folder / split, CONFIG.data.image_size, folder / f"{split}.npz")
    return folder


@pytest.fixture(scope="module", params=["siglip2-b", "siglip2-so400m"])
def tower(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A stand-in for an encoder of this name, and its folder."""
    folder = tmp_path_factory.mktemp("encoder")
    stand_ins.write_encoder(CONFIG.encoders[request.param], folder)
    return request.param, folder


def test_digits_are_split_evenly(digits: Path) -> None:
    assert len(list(digits.glob("train/*/*.png"))) == 1437
    assert [len(list((digits / "validation" / str(label)).iterdir())) for label in range(10)] == [36] * 10
    with Image.open(digits / "train/0/0010.png") as image:
        assert (image.size, image.mode) == ((8, 8), "L")
        assert np.asarray(image).max() > 200


def test_discovery_finds_exactly_the_planted_neurons(
    run_command: Callable[..., None], tower: tuple[str, Path], digits: Path, tmp_path: Path
) -> None:
    name, folder = tower
    expected: dict[int, set[int]] = {}
    given = {"encoder": folder, "images": digits / "train.npz"}
    for ttr, population in zip(("single", "recursive"), stand_ins.planted_neurons(CONFIG.encoders[name]), strict=False):
        run_command(discover.main, spec=CONFIG.discover(name, ttr), **given, output=tmp_path / f"{ttr}.json")
        given["first"] = tmp_path / f"{ttr}.json"
        expected |= {layer: {*units} for layer, units in population.items()}
        found = read_neurons(given["first"])
        assert {layer: {*units} for layer, units in found.layers.items()} == expected
        assert len(found.ranked) == sum(map(len, expected.values()))


def test_registers_take_all_outliers_only_after_the_last_population(tower: tuple[str, Path], digits: Path) -> None:
    entry, folder = CONFIG.encoders[tower[0]], tower[1]
    tokens, plain = entry.grid**2, Siglip2Encoder.load(folder, entry.input_size)
    validation = open_images(digits / "validation.npz")
    images = np.stack([validation.read(index) for index in range(0, 360, 4)])
    pixels = plain.preprocess(torch.from_numpy(images).permute(0, 3, 1, 2) / 255)
    silenced, neurons = plain, {}
    for population in stand_ins.planted_neurons(entry):
        before = silenced.trace(pixels).hidden_states[-1].norm(dim=-1)[:, :tokens]
        assert (before > THRESHOLD).float().mean() > 0.05
        assert (before[:, 0] < THRESHOLD).all()
        # Other tokens are unharmed, and outliers stand out by a factor of more than ten.
        assert before.max() > 10 * before.median()
        assert before.quantile(0.8) < 2 * before.median()
        neurons = merge(neurons, population)
        silenced = with_registers(plain, neurons, TestTimeRegisters())
    after = silenced.trace(pixels).hidden_states[-1].norm(dim=-1)
    image_tokens = after[:, :tokens].view(-1, entry.grid, entry.grid).numpy()
    assert (image_tokens > THRESHOLD).sum() == 0
    assert outlier_ratio(image_tokens, 3.0).max() == 0
    # Every image had an outlier, so every register carries one now.
    assert (after[:, tokens:] > THRESHOLD).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hub": "google/siglip2"}, "the demo has the stand-ins stand-in/siglip2-base, stand-in/siglip2-so400m"),
        ({"revision": "main"}, "revision 'main'"),
        ({"width": 16}, "width 16"),
    ],
)
def test_other_stand_ins_are_refused(tmp_path: Path, changes: dict[str, int | str], message: str) -> None:
    entry = CONFIG.encoders["siglip2-b"].model_copy(update=changes)
    with pytest.raises(UserError, match=message):
        made.write_encoder(CONFIG.encoding("siglip2-b", "none").model_copy(update={"encoder": entry}), tmp_path)


def test_decoder_learns_latents_with_and_without_registers(digits: Path, tmp_path: Path) -> None:
    spec = CONFIG.autoencoder("siglip2-so400m", "none")
    stand_ins.write_encoder(spec.encoder, tmp_path)
    train_decoder(spec, tmp_path, digits / "train.npz", tmp_path / "decoder.safetensors", steps=160)
    decoder = load_decoder(spec, tmp_path / "decoder.safetensors")
    tower = Siglip2Encoder.load(tmp_path, spec.encoder.input_size)
    latents, pixels = training_pairs(spec, tower, open_images(digits / "validation.npz"))
    assert len(latents) == 3
    for tokens in latents:
        with torch.no_grad():
            decoded = decoder(tokens) / 2 + 0.5
        assert (decoded - pixels).square().mean() < 0.15 * pixels.var()


def test_frozen_classifier_runs_in_the_evaluator(digits: Path, tmp_path: Path) -> None:
    from dsr.evaluation.inception import InceptionGraph

    write_graph(digits / "train.npz", tmp_path / "graph.pb", steps=100)
    stored = open_images(digits / "train.npz")
    images = np.stack([stored.read(index) for index in range(0, len(stored), 10)])
    with InceptionGraph(tmp_path / "graph.pb") as graph:
        features = graph.activations([images[:100], images[100:]])
        accurate = (features.pooled @ graph.softmax_weights()).argmax(1) == stored.labels[::10]
    assert features.pooled.shape == (len(images), 64)
    assert features.spatial.shape == (len(images), 17 * 17 * 7)
    assert accurate.mean() > 0.5


@pytest.mark.parametrize(("size", "classes"), [(128, 1), (512, 5)])
def test_images_of_other_sizes_have_other_grids_of_tokens(size: int, classes: int, tmp_path: Path) -> None:
    """Encoder, denoiser and decoder follow the configuration; one class is a number of classes too."""
    config = configuration(
        DEMO, data={"image_size": size, "classes": classes},
        encoders={"siglip2-b": {"input_size": size, "patch_size": 16}},
    )  # fmt: skip
    spec = config.autoencoder("siglip2-b", "none")
    stand_ins.write_encoder(spec.encoder, tmp_path)
    encoder = Siglip2Encoder.load(tmp_path, size)
    whole = Autoencoder(encoder=encoder, decoder=build_decoder(spec), normaliser=None, family="siglip2")
    latents = whole.encode(torch.rand(2, 3, size, size))
    assert latents.shape == (2, *spec.latent_shape) == (2, 32, size // 16, size // 16)
    denoiser = build_denoiser(config.model("dit-siglip2b-dsr"))
    predicted = denoiser(latents, torch.rand(2), torch.tensor([classes - 1, denoiser.null_label]))
    assert whole.decode(predicted).shape == (2, 3, size, size)
