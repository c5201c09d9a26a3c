"""What tests of several rooms start from."""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel

from dsr.artifacts import transfer
from dsr.config.load import Config, load
from tests.configuration import merged

from .sites import Sites, make_certificate

TOKEN = "not-to-be-logged"


@pytest.fixture
def raw() -> dict[str, Any]:
    """Content of config.yaml."""
    return merged()


@pytest.fixture
def config(raw: dict[str, Any]) -> Config:
    """Return the project's configuration."""
    return load(raw)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the server of :func:`sites` shows."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl for a certificate")
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def sites(certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sites]:
    """A server that every https address leads to; clients give up soon."""
    for name, value in (("ATTEMPTS", 3), ("FIRST_WAIT", 0.01), ("LONGEST_WAIT", 0.5)):
        monkeypatch.setattr(transfer, name, value)
    for name in ("NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy", "https_proxy", "KAGGLE_API_ENVIRONMENT"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HF_TOKEN", "KAGGLE_API_TOKEN"):
        monkeypatch.setenv(name, TOKEN)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with Sites(certificate) as server:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    """A copy of a module's ``folder`` that a test may damage."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


@pytest.fixture
def run_command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run a command's program with options, as a rule does."""

    def run(program: Callable[[], None], *flags: str, **options: Any) -> None:
        texts = {
            name: one.model_dump_json() if isinstance(one, BaseModel) else str(one) for name, one in options.items()
        }
        monkeypatch.setattr(sys, "argv", ["program", *flags, *(f"--{name}={text}" for name, text in texts.items())])
        program()

    return run


@pytest.fixture(scope="module")
def six_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Index of images for the tiny encoder."""
    from . import tiny_encoder  # as below

    return tiny_encoder.write_images(tmp_path_factory.mktemp("images"), 6)


@pytest.fixture(scope="module")
def row(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Files of the tiny row."""
    from .training_row import make_files  # takes seconds, and few tests need it

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as every process of a test
    yield make_files(tmp_path_factory.mktemp("row"))
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def finished(row: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run directory of a run of the tiny row to epoch 4 in fp32, never interrupted."""
    from dsr.training.loop import train

    from .training_row import ONE, tiny_job

    run = tmp_path_factory.mktemp("finished") / "run-a"
    assert train(tiny_job(row, run), ONE)
    return run


@pytest.fixture
def restored_arithmetic() -> Iterator[None]:
    """Set PyTorch's process-wide arithmetic back afterwards."""
    matmuls, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmuls.allow_fp16_reduced_precision_reduction, matmuls.allow_tf32, convolutions.allow_tf32
    yield
    matmuls.allow_fp16_reduced_precision_reduction, matmuls.allow_tf32, convolutions.allow_tf32 = before
