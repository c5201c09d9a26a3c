"""Register-neuron discovery, on an encoder with planted register neurons."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import dsr.encoder
from dsr.base.errors import UserError
from dsr.commands import discover as command
from dsr.config.encoders import Discovery
from dsr.config.encoders import TestTimeRegisters as Registers
from dsr.config.specs import DiscoverSpec
from dsr.encoder.ttr import NeuronList, read_neurons
from dsr.registers.discovery import NeuronScores, Trace, merge, rank
from tests.unit import tiny_encoder

RELEASED = Path(dsr.encoder.__path__[0]) / "neurons"
FIRST, SECOND = (1, 7), (2, 11)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    planted = ((*FIRST, 200.0, 1.0), (*SECOND, 25.0, 1.0))
    return tiny_encoder.write_folder(tmp_path_factory.mktemp("encoder"), planted)


def options(**changes: object) -> Discovery:
    return Discovery(**{"images": 6, "norm_threshold": 16.0, "top_k": 1, **changes})


def run(monkeypatch: pytest.MonkeyPatch, spec: DiscoverSpec, **paths: Path) -> NeuronList:
    """Run the command as a rule does and read what it wrote."""
    words = [word for name, path in paths.items() for word in (f"--{name}", str(path))]
    monkeypatch.setattr(sys, "argv", ["discover", "--spec", spec.model_dump_json(), *words])
    command.main()
    return read_neurons(paths["output"])


def test_planted_neurons_are_found_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch, folder: Path, six_images: Path, tmp_path: Path
) -> None:
    first_spec = DiscoverSpec(encoding=tiny_encoder.spec(), discovery=options())
    paths = {"encoder": folder, "images": six_images}
    first = run(monkeypatch, first_spec, **paths, output=tmp_path / "first.json")
    assert first.layers == {FIRST[0]: (FIRST[1],)}
    assert [entry[:2] for entry in first.ranked] == [FIRST]

    second_spec = DiscoverSpec(encoding=tiny_encoder.spec(Registers()), discovery=options())
    both = run(monkeypatch, second_spec, **paths, first=tmp_path / "first.json", output=tmp_path / "both.json")
    assert both.layers == {FIRST[0]: (FIRST[1],), SECOND[0]: (SECOND[1],)}
    assert both.ranked[0] == first.ranked[0]
    assert "on top of 1 neurons" in both.source


def test_a_threshold_that_no_token_reaches_is_named(
    monkeypatch: pytest.MonkeyPatch, folder: Path, six_images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec = DiscoverSpec(encoding=tiny_encoder.spec(), discovery=options(norm_threshold=1e6))
    with pytest.raises(SystemExit):
        run(monkeypatch, spec, encoder=folder, images=six_images, output=tmp_path / "none.json")
    assert "norm_threshold 1000000.0: the largest norm seen is" in caplog.text
    assert not (tmp_path / "none.json").exists()


# Scores, on activations made by hand: one layer, three tokens, two neurons; norms 1, 1, 10 and 1, 1, 1

OUTPUT = torch.tensor([[[1.0], [1.0], [10.0]], [[1.0], [1.0], [1.0]]])
ACTIVATIONS = torch.tensor([[[0.0, 4.0], [0.0, 4.0], [-3.0, 1.0]], [[9.0, 9.0], [9.0, 9.0], [9.0, 9.0]]])


def scores(threshold: float = 5.0, *, layer: int = -1, registers: int = 0) -> torch.Tensor:
    accumulated = NeuronScores(threshold, layer)
    for output, activations in zip(OUTPUT.split(1), ACTIVATIONS.split(1), strict=True):
        accumulated.add(Trace([output, output], [activations]), registers)
    return accumulated.mean()


def test_the_score_is_the_mean_magnitude_on_outliers_of_images_that_have_some() -> None:
    assert scores().tolist() == [[3.0, 1.0]]
    assert scores(threshold=0.5).tolist() == [[(1 + 9) / 2, (3 + 9) / 2]]


def test_registers_take_no_part() -> None:
    with pytest.raises(UserError, match="largest norm seen is 1;"):
        scores(registers=1)


def test_a_detection_layer_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(UserError, match=r"discovery\.layer: 1 does not exist"):
        scores(layer=1)


def test_ranking_filters_and_stops() -> None:
    table = torch.tensor([[1.0, 5.0], [4.0, 2.0], [9.0, 0.0]])
    assert rank(table, 2) == [(2, 0, 9.0), (0, 1, 5.0)]
    assert rank(table, 2, exclude=[(2, 0), (1, 0)]) == [(0, 1, 5.0), (1, 1, 2.0)]
    assert len(rank(table, 100)) == 6


# Neuron files


@pytest.mark.parametrize(
    ("name", "count", "widths"), [("siglip2-b-single", 50, [3072] * 12), ("siglip2-so400m-recursive", 72, [4304] * 27)]
)
def test_released_lists(name: str, count: int, widths: list[int]) -> None:
    neurons = [
        (layer, index) for layer, found in read_neurons(RELEASED / f"{name}.json").layers.items() for index in found
    ]
    assert len(neurons) == len({*neurons}) == count
    assert all(0 <= index < widths[layer] for layer, index in neurons)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"encoder": "x", "source": "y"}', "layers: Field required"),
        ('{"encoder": "x", "source": "y", "layers": {}}', "at least one neuron"),
        ('{"encoder": "x", "source": "y", "layers": {"1": [5, 5]}}', r"layers \[1\] name a neuron twice"),
        ('{"encoder": "x", "source": "y", "layers": {"a": [5]}}', "layers.a"),
        ("[1, 2", "Invalid JSON"),
        (None, "no such file"),
    ],
)
def test_bad_neuron_files_are_refused(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "neurons.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=f"neurons.json: .*{message}"):
        read_neurons(path)


def test_merging_keeps_every_neuron_once() -> None:
    assert merge({2: (5, 1)}, {0: (3,), 2: (1, 4)}) == {0: (3,), 2: (5, 1, 4)}
