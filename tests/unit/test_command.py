"""What a program says about its arguments, and about errors that its user can mend."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dsr.base.command import command
from dsr.base.errors import UserError
from dsr.config.specs import StatisticsSpec
from tests.unit import tiny_encoder


def run(monkeypatch: pytest.MonkeyPatch, program: Callable[[], None], *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["program", *arguments])
    program()


def specification() -> dict[str, object]:
    encoder = tiny_encoder.spec().model_dump(mode="json", exclude={"decoder"})
    return {"encoding": encoder, "images": 5, "flip": True}


def test_arguments_are_what_their_types_say(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []

    def main(spec: StatisticsSpec, images: tuple[Path, ...], neurons: Path | None = None, flip: bool = True) -> None:
        assert (spec.images, images, neurons, flip) == (5, (Path("a"), Path("b")), None, False)

    run(monkeypatch, command(main), "--spec", json.dumps(specification()), "--images", "a", "b", "--no-flip")
    steps = {"first": lambda: ran.append("first"), "second": lambda: ran.append("second")}
    run(monkeypatch, command(**steps), "second")
    assert ran == ["second"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not the JSON of StatisticsSpec: Invalid JSON: "),
        ("{}", "not the JSON of StatisticsSpec: encoding: Field required; and 2 more. "),
        (json.dumps({**specification(), "images": -5}), "images: Input should be greater than 0 (given: -5)"),
        (json.dumps({**specification(), "imagez": 5}), "StatisticsSpec: imagez: unknown key"),
    ],
)
def test_a_wrong_specification_is_one_line(
    text: str, message: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def main(spec: StatisticsSpec) -> None:
        raise AssertionError

    with pytest.raises(SystemExit, match="1"):
        run(monkeypatch, command(main), "--spec", text)
    assert message in caplog.messages[-1]
    assert "\n" not in caplog.messages[-1]


def test_a_users_error_is_its_message_and_others_pass(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    @command
    def wrong() -> None:
        raise UserError("file.txt: missing")

    @command
    def broken() -> None:
        raise KeyError("key")

    with pytest.raises(SystemExit, match="1"):
        run(monkeypatch, wrong)
    assert caplog.messages[-1] == "file.txt: missing"
    with pytest.raises(KeyError):
        run(monkeypatch, broken)
