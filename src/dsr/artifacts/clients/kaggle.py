"""A Kaggle competition's archive, through the kaggle client."""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from dsr.artifacts import transfer
from dsr.artifacts.errors import ArtifactError, RefusedError, TransientError
from dsr.artifacts.manifest import Artifact, KaggleSource
from dsr.artifacts.transfer import Retries

log = logging.getLogger(__name__)

_NEEDED = "the kaggle client (Python 3.11 or later: `pip install kaggle==2.2.4`; envs/workflow.yaml has it)"
_OWN_IMAGES = "give an ImageFolder (`artifacts` or `data` in config.yaml)"


def fetch(artifact: Artifact, source: KaggleSource, folder: Path, retries: Retries) -> Path:
    """Download the competition's archive into ``folder``; a complete one is kept, a partial one continued.

    Raises:
        RefusedError, TransferError: see :mod:`dsr.artifacts.errors`.
    """
    archive = _Archive(source, folder, terms=artifact.licence.accept or source.page)
    folder.mkdir(parents=True, exist_ok=True)
    if not zipfile.is_zipfile(archive.path):
        api = transfer.retrying(archive.what, archive.client, retries)
        log.info("Downloading %s to %s, whose size shows the progress", source.page, archive.path)
        transfer.retrying(archive.what, lambda: archive.download(api), retries)
    return archive.path


@dataclass(frozen=True)
class _Archive:
    """All files of a competition in one zip."""

    source: KaggleSource
    folder: Path
    terms: str

    @property
    def what(self) -> str:
        return f"Kaggle {self.source.competition}"

    @property
    def path(self) -> Path:
        return self.folder / f"{self.source.competition}.zip"

    def client(self) -> Any:
        """Return a client that has found the user's token where it always looks for one."""
        # Importing the package, too, looks for a token, and prints advice if there is none.
        with self._errors(), contextlib.redirect_stdout(io.StringIO()):
            try:
                from kaggle.api.kaggle_api_extended import KaggleApi
            except ImportError:
                raise ArtifactError(f"{self.what}: needs {_NEEDED}; or {_OWN_IMAGES}") from None
            api = KaggleApi()
            try:
                api.authenticate()
            except SystemExit:
                raise RefusedError(
                    f"{self.what}: no valid token. Make one at https://www.kaggle.com/settings and store it as "
                    f"~/.kaggle/kaggle.json (or set KAGGLE_API_TOKEN), accept the rules at {self.terms}, then run the "
                    f"command again; or {_OWN_IMAGES}"
                ) from None
        return api

    def download(self, api: Any) -> None:
        # The client's progress bar is for people; in a log file it would fill hours with it.
        quiet = not sys.stderr.isatty()
        with self._errors(), contextlib.redirect_stdout(sys.stderr):
            try:
                api.competition_download_files(self.source.competition, path=str(self.folder), quiet=quiet)
            except ValueError as error:
                if not str(error).startswith("Downloaded file size"):
                    raise
                # What the client received stays and is continued.
                raise TransientError(str(error)) from error
        self._check()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        denied = (
            f"Accept the competition's rules at {self.terms} with the account that the token belongs to (and check the "
            f"token at https://www.kaggle.com/settings), then run the command again; or {_OWN_IMAGES}"
        )
        with transfer.network_errors(self.what):
            try:
                yield
            except requests.exceptions.HTTPError as error:
                transfer.refuse_status(self.what, error.response.status_code, error.response.headers, denied=denied)

    def _check(self) -> None:
        """Refuse anything but a complete zip."""
        if zipfile.is_zipfile(self.path):
            return
        # The client names a page after its address, possibly as folder and file; a partial zip beside it is kept.
        strangers = [path for path in self.folder.glob(f"{self.source.competition}.*") if ".zip" not in path.suffixes]
        for path in strangers or [self.path]:
            start = b"".join(_start(file) for file in [path, *path.rglob("*")] if file.is_file())
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            transfer.refuse_page(self.what, start)
        raise TransientError("what was received is not a zip; starting over")


def _start(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(1 << 16)
