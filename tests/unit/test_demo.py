from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dsr.analysis.maps import outlier_ratio
from dsr.base.errors import UserError
from dsr.base.files import write_json
from dsr.commands import discover
from dsr.config.encoders import Decoder, Discovery, Encoder, TestTimeRegisters
from dsr.config.specs import AutoencoderSpec, DiscoverSpec
from dsr.data.images import open_images
from dsr.data.prepare import index_folder
from dsr.demo import encoder as stand_ins
from dsr.demo.digits import training_pairs, write_decoder, write_digits
from dsr.demo.graph import write_graph
from dsr.denoiser.dit import build_denoiser
from dsr.encoder.autoencoder import Autoencoder, build_decoder, load_decoder
from dsr.encoder.siglip2 import Siglip2Encoder
from dsr.encoder.ttr import NeuronList, read_neurons, with_registers
from dsr.registers.discovery import by_layer, merge
from tests.configuration import DEMO, configuration
from tests.unit import tiny_encoder

SIZE = 32
THRESHOLD = 30.0
SHAPES = {"stand-in/siglip2-base": (32, 8, 32), "stand-in/siglip2-so400m": (24, 6, 48)}
BASE, SO400M = SHAPES
DECODER = Decoder(hidden_size=64, depth=2, num_heads=4, intermediate_size=128)


def specification(hub: str, **changes: int | str) -> Encoder:
    input_size, patch_size, width = SHAPES.get(hub, SHAPES[BASE])
    sizes = {"input_size": input_size, "patch_size": patch_size, "width": width}
    return tiny_encoder.entry(hub=hub, **{"revision": "0", **sizes, **changes})


def autoencoder(entry: Encoder, ttr: TestTimeRegisters | None = None) -> AutoencoderSpec:
    return AutoencoderSpec(encoder=entry, ttr_options=ttr, decoder=DECODER, image_size=SIZE)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's images, with indices of them."""
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder)
    for split in ("train", "validation"):
        index_folder(folder / split, SIZE, folder / f"{split}.npz")
    return folder


@pytest.fixture(scope="module", params=SHAPES)
def tower(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Encoder, Path]:
    """A stand-in for an encoder, and its folder."""
    folder = tmp_path_factory.mktemp("encoder")
    stand_ins.write_encoder(entry := specification(request.param), folder)
    return entry, folder


def test_digits_are_split_evenly(digits: Path) -> None:
    assert len(list(digits.glob("train/*/*.png"))) == 1437
    assert [len(list((digits / "validation" / str(label)).iterdir())) for label in range(10)] == [36] * 10
    with Image.open(digits / "train/0/0010.png") as image:
        assert (image.size, image.mode) == ((8, 8), "L")
        assert np.asarray(image).max() > 200


def test_discovery_finds_exactly_the_planted_neurons(
    run_command: Callable[..., None], tower: tuple[Encoder, Path], digits: Path, tmp_path: Path
) -> None:
    entry, folder = tower
    options = Discovery(images=100, norm_threshold=THRESHOLD, top_k=stand_ins.PLANTED + 1)
    known: dict[str, Path] = {}
    for population in stand_ins.planted_neurons(entry):
        spec = DiscoverSpec(encoding=autoencoder(entry, TestTimeRegisters() if known else None), discovery=options)
        given = {"encoder": folder, "images": digits / "train.npz", "output": tmp_path / "found.json", **known}
        run_command(discover.main, spec=spec, **given)
        found = read_neurons(given["output"])
        *best, runner_up = found.ranked[-options.top_k :]
        planted = {(layer, neuron) for layer, neurons in population.items() for neuron in neurons}
        assert {(layer, neuron) for layer, neuron, _ in best} == planted
        assert min(score for *_, score in best) > 5 * runner_up[2]
        if known:
            first = read_neurons(known["first"]).layers
            assert found.layers == merge(first, by_layer([(layer, neuron) for layer, neuron, _ in found.ranked]))
        known = {"first": tmp_path / "first.json"}
        write_json(known["first"], NeuronList(encoder=entry.hub, layers=population, source="planted").model_dump())


def test_registers_take_all_outliers_only_after_the_last_population(tower: tuple[Encoder, Path], digits: Path) -> None:
    entry, folder = tower
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
    ("hub", "changes", "message"),
    [
        (
            "google/siglip2-base-patch16-256",
            {},
            "the demo has the stand-ins stand-in/siglip2-base, stand-in/siglip2-so",
        ),
        (BASE, {"revision": "main"}, "revision 'main'"),
        (BASE, {"width": 16}, "width 16"),
    ],
)
def test_other_stand_ins_are_refused(tmp_path: Path, hub: str, changes: dict[str, int | str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        stand_ins.write_encoder(specification(hub, **changes), tmp_path)


def test_decoder_learns_latents_with_and_without_registers(digits: Path, tmp_path: Path) -> None:
    spec = autoencoder(specification(SO400M))
    stand_ins.write_encoder(spec.encoder, tmp_path)
    write_decoder(spec, tmp_path, digits / "train.npz", tmp_path / "decoder.safetensors", steps=160)
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
