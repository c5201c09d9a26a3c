from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dsr.analysis.maps import outlier_ratio
from dsr.base.errors import UserError
from dsr.config.encoders import Decoder, Discovery, Encoder, TestTimeRegisters
from dsr.config.specs import AutoencoderSpec, DiscoverSpec
from dsr.data.images import Images, open_images
from dsr.data.prepare import index_folder
from dsr.demo import encoder as stand_ins
from dsr.demo.digits import training_pairs, write_decoder, write_digits
from dsr.demo.graph import write_graph
from dsr.denoiser.dit import build_denoiser
from dsr.encoder.autoencoder import Autoencoder, build_decoder, load_decoder
from dsr.encoder.siglip2 import Siglip2Encoder
from dsr.encoder.ttr import NeuronList, find_register_neurons, with_registers
from dsr.registers.discovery import merge
from tests.configuration import DEMO, configuration
from tests.unit import tiny_encoder

SIZE = 32
THRESHOLD = 30.0
SHAPES = {"stand-in/siglip2-base": (32, 8, 32), "stand-in/siglip2-so400m": (24, 6, 48)}
BASE, SO400M = SHAPES
DECODER = Decoder(hidden_size=64, depth=2, num_heads=4, intermediate_size=128)
Tower = tuple[Encoder, Siglip2Encoder]


def specification(hub: str, **changes: int | str) -> Encoder:
    input_size, patch_size, width = SHAPES.get(hub, SHAPES[BASE])
    sizes = {"input_size": input_size, "patch_size": patch_size, "width": width}
    return tiny_encoder.entry(hub=hub, **{"revision": "0", **sizes, **changes})


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder)
    return folder


@pytest.fixture(scope="module")
def prepared(digits: Path) -> Path:
    index_folder(digits / "train", SIZE, digits / "train.npz")
    return digits / "train.npz"


@pytest.fixture(scope="module")
def validation(digits: Path) -> Images:
    index_folder(digits / "validation", SIZE, digits / "validation.npz")
    return open_images(digits / "validation.npz")


@pytest.fixture(scope="module")
def pixels(validation: Images) -> torch.Tensor:
    images = np.stack([validation.read(index) for index in range(0, 360, 4)])
    return torch.from_numpy(images).permute(0, 3, 1, 2) / 255


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tower]:
    loaded = {}
    for hub in SHAPES:
        folder = tmp_path_factory.mktemp("encoder")
        stand_ins.write_encoder(specification(hub), folder)
        loaded[hub] = (specification(hub), Siglip2Encoder.load(folder, specification(hub).input_size))
    return loaded


def variants(hub: str, tower: Siglip2Encoder) -> list[Siglip2Encoder]:
    """Return the tower plain, and with every further planted population silenced."""
    neurons: dict[int, tuple[int, ...]] = {}
    result = [tower]
    for population in stand_ins.planted_neurons(specification(hub)):
        neurons = merge(neurons, population)
        result.append(with_registers(tower, neurons, TestTimeRegisters()))
    return result


def norms(tower: Siglip2Encoder, pixels: torch.Tensor) -> torch.Tensor:
    """Norms of the last block's output, registers last: (B, N + R)."""
    return tower.trace(tower.preprocess(pixels)).hidden_states[-1].norm(dim=-1)


def test_digits_are_split_evenly_and_reproducibly(digits: Path, tmp_path: Path) -> None:
    files = sorted(path.relative_to(digits) for path in digits.rglob("*.png"))
    assert len(files) == 1797
    assert len({path.name for path in files}) == 1797
    for label in range(10):
        assert len(list((digits / "validation" / str(label)).iterdir())) == 36
    assert len(list((digits / "train").rglob("*.png"))) == 1437
    with Image.open(digits / files[0]) as image:
        assert (image.size, image.mode) == ((8, 8), "L")
        assert np.asarray(image).max() > 200
    write_digits(tmp_path)
    assert all((tmp_path / path).read_bytes() == (digits / path).read_bytes() for path in files)


@pytest.mark.parametrize("hub", SHAPES)
def test_discovery_finds_exactly_the_planted_neurons(hub: str, towers: dict[str, Tower], prepared: Path) -> None:
    entry, tower = towers[hub]
    images = open_images(prepared)
    populations = stand_ins.planted_neurons(specification(hub))
    spec = DiscoverSpec(
        encoding=AutoencoderSpec(encoder=entry, ttr_options=None, decoder=DECODER, image_size=SIZE),
        discovery=Discovery(images=100, norm_threshold=THRESHOLD, top_k=stand_ins.PLANTED + 1),
    )
    first: NeuronList | None = None
    for silenced, population in zip(variants(hub, tower), populations, strict=False):
        found = find_register_neurons(spec, silenced, images, first=first)
        *best, runner_up = found.ranked[-spec.discovery.top_k :]
        assert {(layer, neuron) for layer, neuron, _ in best} == {
            (layer, neuron) for layer, neurons in population.items() for neuron in neurons
        }
        assert min(score for *_, score in best) > 5 * runner_up[2]
        first = NeuronList(encoder=hub, layers=population, source="planted")


@pytest.mark.parametrize("hub", SHAPES)
def test_registers_take_all_outliers_only_after_the_last_population(
    hub: str, towers: dict[str, Tower], pixels: torch.Tensor
) -> None:
    entry, tower = towers[hub]
    *partial, complete = variants(hub, tower)
    tokens = entry.grid**2
    for silenced in partial:
        before = norms(silenced, pixels)[:, :tokens]
        assert (before > THRESHOLD).float().mean() > 0.05
        assert (before[:, 0] < THRESHOLD).all()
        # Other tokens are unharmed, and outliers stand out by a factor of more than ten.
        assert before.max() > 10 * before.median()
        assert before.quantile(0.8) < 2 * before.median()
    after = norms(complete, pixels)
    image_tokens = after[:, :tokens].view(-1, entry.grid, entry.grid).numpy()
    assert (image_tokens > THRESHOLD).sum() == 0
    assert outlier_ratio(image_tokens, 3.0).max() == 0
    # Every image had an outlier, so every register carries one now.
    assert (after[:, tokens:] > THRESHOLD).all()


def test_stand_ins_are_reproducible_and_refuse_nonsense(tmp_path: Path) -> None:
    for folder in ("first", "second"):
        stand_ins.write_encoder(specification(BASE), tmp_path / folder)
    first, second = (tmp_path / folder / "model.safetensors" for folder in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()
    stand_ins.write_encoder(specification(BASE, revision="1"), tmp_path / "second")
    assert first.read_bytes() != second.read_bytes()
    with pytest.raises(UserError, match="stand-in/siglip2-base, stand-in/siglip2-so400m"):
        stand_ins.write_encoder(specification("google/siglip2-base-patch16-256"), tmp_path)
    with pytest.raises(UserError, match="revision 'main'"):
        stand_ins.write_encoder(specification(BASE, revision="main"), tmp_path)
    with pytest.raises(UserError, match="width 16"):
        stand_ins.write_encoder(specification(BASE, width=16), tmp_path)


def test_decoder_learns_latents_with_and_without_registers(
    prepared: Path, validation: Images, towers: dict[str, Tower], tmp_path: Path
) -> None:
    entry, tower = towers[SO400M]
    stand_ins.write_encoder(entry, tmp_path / "encoder")
    spec = AutoencoderSpec(encoder=entry, ttr_options=None, decoder=DECODER, image_size=SIZE)
    write_decoder(spec, tmp_path / "encoder", prepared, tmp_path / "decoder.safetensors", steps=160)
    decoder = load_decoder(spec, tmp_path / "decoder.safetensors")
    latents, pixels = training_pairs(spec, tower, validation)
    assert len(latents) == 3
    for tokens in latents:
        with torch.no_grad():
            decoded = decoder(tokens) / 2 + 0.5
        assert (decoded - pixels).square().mean() < 0.15 * pixels.var()


def test_frozen_classifier_runs_in_the_evaluator(prepared: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorflow")
    from dsr.evaluation.inception import InceptionGraph

    write_graph(prepared, tmp_path / "graph.pb", steps=100)
    stored = open_images(prepared)
    chosen = range(0, len(stored), 10)
    images = np.stack([stored.read(index) for index in chosen])
    with InceptionGraph(tmp_path / "graph.pb") as graph:
        weights = graph.softmax_weights()
        features = graph.activations([images[:100], images[100:]])
        enlarged = graph.activations([images[:4].repeat(2, axis=1).repeat(2, axis=2)])
    assert features.pooled.shape == (len(images), 64)
    assert features.spatial.shape == (len(images), 17 * 17 * 7)
    assert enlarged.pooled.shape == (4, 64)
    assert weights.shape == (64, 10)
    assert ((features.pooled @ weights).argmax(1) == stored.labels[:: chosen.step]).mean() > 0.5


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
