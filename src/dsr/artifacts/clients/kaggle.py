"""A Kaggle competition's archive, through the kaggle client."""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Any

from dsr.artifacts import transfer
from dsr.artifacts.manifest import Artifact, KaggleSource
from dsr.base.errors import UserError

log = logging.getLogger(__name__)

_NEEDED = "the kaggle client (Python 3.11 or later: `pip install kaggle==2.2.4`; envs/workflow.yaml has it)"
_OWN_IMAGES = "give an ImageFolder (`artifacts` or `data` in config.yaml)"


def fetch(artifact: Artifact, source: KaggleSource, target: Path) -> None:
    """Download the competition's archive to ``target``, going on with what an earlier attempt received.

    Raises:
        UserError: if it cannot be had.
    """
    what = f"Kaggle {source.competition}"
    advice = (
        "Make a token at https://www.kaggle.com/settings, save it as ~/.kaggle/access_token (or set KAGGLE_API_TOKEN) "
        f"and accept the rules at {artifact.terms} with its account, then run the command again; or {_OWN_IMAGES}"
    )
    client = transfer.retrying(what, advice, lambda: _client(what, advice))
    log.info("Downloading %s to %s, whose size shows the progress", artifact.page, target)
    transfer.retrying(what, advice, lambda: _download(what, client, source.competition, target))


def _client(what: str, advice: str) -> Any:
    """Return a client that has found the user's token where it always looks for one."""
    # Importing the package, too, looks for a token, and prints advice if there is none.
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            from kaggle.api.kaggle_api_extended import KaggleApi
        except ImportError:
            raise UserError(f"{what}: needs {_NEEDED}; or {_OWN_IMAGES}") from None
        api = KaggleApi()
        try:
            api.authenticate()
        except SystemExit:
            raise UserError(f"{what}: no valid token. {advice}") from None
    return api


def _download(what: str, client: Any, competition: str, target: Path) -> None:
    # The client writes to the final name from the first byte on.
    folder = target.with_name("partial")
    archive = folder / f"{competition}.zip"
    # Its progress bar is for people; in a log file it would fill hours.
    quiet = not sys.stderr.isatty()
    with contextlib.redirect_stdout(sys.stderr):
        try:
            client.competition_download_files(competition, path=str(folder), quiet=quiet)
        except ValueError as error:
            if not str(error).startswith("Downloaded file size"):
                raise
            # What the client received stays and is continued.
            raise transfer.TransientError(str(error)) from error
    if zipfile.is_zipfile(archive):
        archive.replace(target)
        return
    # A page is named after its address, possibly as folder and file; a partial zip beside it is kept.
    strangers = [path for path in folder.iterdir() if ".zip" not in path.suffixes]
    for path in strangers or [archive]:
        start = b"".join(transfer.start_of(file) for file in [path, *path.rglob("*")] if file.is_file())
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        transfer.refuse_page(what, start)
    raise transfer.TransientError("what was received is not a zip; starting over")
