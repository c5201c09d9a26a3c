"""What a command does about errors that its user can mend."""

from __future__ import annotations

import json
import sys

import pytest

from dsr.base.errors import UserError
from dsr.base.logs import command
from dsr.commands.statistics import main
from tests.unit import tiny_encoder

ARGUMENTS = ["--encoder", "e", "--images", "i", "--output", "o"]


def specification() -> dict[str, object]:
    encoder = tiny_encoder.spec().model_dump(mode="json", exclude={"decoder"})
    return {"encoding": encoder, "images": 5, "flip": True}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "--spec: not the JSON of StatisticsSpec: Invalid JSON: "),
        ("{}", "--spec: not the JSON of StatisticsSpec: encoding: Field required; and 2 more. "),
        (
            json.dumps({**specification(), "images": -5}),
            "StatisticsSpec: images: Input should be greater than 0 (given",
        ),
        (json.dumps({**specification(), "imagez": 5}), "StatisticsSpec: imagez: Extra inputs are not permitted (given"),
    ],
)
def test_a_wrong_specification_is_one_line(
    text: str, message: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", ["statistics", "--spec", text, *ARGUMENTS])
    with pytest.raises(SystemExit, match="1"):
        main()
    assert message in caplog.messages[-1]
    assert "\n" not in caplog.messages[-1]


def test_a_users_error_is_its_message_and_others_pass(caplog: pytest.LogCaptureFixture) -> None:
    @command
    def wrong() -> None:
        raise UserError("file.txt: missing")

    @command
    def broken() -> None:
        raise KeyError("key")

    with pytest.raises(SystemExit, match="1"):
        wrong()
    assert caplog.messages[-1] == "file.txt: missing"
    with pytest.raises(KeyError):
        broken()
