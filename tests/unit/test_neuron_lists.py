"""Neuron files."""

from __future__ import annotations

from pathlib import Path

import pytest

import dsr.encoder
from dsr.base.errors import UserError
from dsr.encoder import neuron_lists

RELEASED = Path(dsr.encoder.__path__[0]) / "neurons"


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


@pytest.mark.parametrize(
    ("layers", "message"),
    [({4: (0,)}, "layer 4 does not exist.*0-3"), ({1: (0, 48)}, "layer 1 has hidden units 0-47, not 48")],
)
def test_neurons_outside_the_encoder_are_refused(layers: dict[int, tuple[int, ...]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        neuron_lists.check_ranges(layers, [48] * 4)


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
