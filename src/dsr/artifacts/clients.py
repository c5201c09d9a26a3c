"""Sources that have clients of their own: Hugging Face, Google Drive and Kaggle; each is imported where it is used."""

import contextlib
import io
import sys
from pathlib import Path, PurePosixPath

import requests

from dsr.artifacts import transfer
from dsr.artifacts.manifest import MANIFEST, OWN_COPY, Artifact, DriveSource, HubSource, KaggleSource
from dsr.base import files
from dsr.base.errors import UserError

_OWN_IMAGES = "give an ImageFolder (`data` or `artifacts` in config.yaml)"


def hub(artifact: Artifact, source: HubSource, folder: Path, pinned: str | None) -> tuple[str, dict[str, str]]:
    """Download a repository's files, all of one commit, into ``folder``; what is there is kept or continued.

    The hub's own client would need a file system with locks.

    `commit` in the folder says what was begun there; otherwise the commit is that which is ``pinned`` by an earlier
    download, or that of the source's revision.

    Returns:
        The hash of the commit, and the SHA-256 that the hub states of files in large-file storage.
    """
    import huggingface_hub

    denied = (
        "Log in anew with `hf auth login` (or set HF_TOKEN; what is public needs no token), and accept the terms of "
        f"{artifact.terms} if it asks for that"
    )
    what, begun, inside = f"hub {source.repository}", folder / "commit", PurePosixPath(source.folder)
    revision = begun.read_text(encoding="utf-8") if begun.exists() else pinned or source.revision
    commit, stated = transfer.retrying(f"{what} at {revision}", denied, lambda: _resolve(what, source, revision))
    files.write_text(begun, commit)
    for name in artifact.files:
        url = huggingface_hub.hf_hub_url(source.repository, name, subfolder=source.folder, revision=commit)
        headers = huggingface_hub.utils.build_hf_headers()
        transfer.download(url, folder / name, f"{what}/{name}", denied, headers)
    return commit, {name: stated[path] for name in artifact.files if (path := str(inside / name)) in stated}


def _resolve(what: str, source: HubSource, revision: str) -> tuple[str, dict[str, str]]:
    """Find the commit that a branch stands for: every file comes from it, whatever happens to the branch meanwhile."""
    import huggingface_hub
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        info = huggingface_hub.HfApi().model_info(
            source.repository, revision=revision, files_metadata=True, timeout=transfer.TIMEOUT[1]
        )
    except OfflineModeIsEnabled:
        raise UserError(f"{what}: HF_HUB_OFFLINE is set; unset it, or {OWN_COPY}") from None
    except requests.JSONDecodeError:
        raise UserError(
            f"{what}: the answer does not come from a Hugging Face hub. Check the proxy and HF_ENDPOINT, or {OWN_COPY}"
        ) from None
    return str(info.sha), {file.rfilename: file.lfs.sha256 for file in info.siblings or () if file.lfs}


def drive(artifact: Artifact, source: DriveSource, target: Path) -> None:
    """Download a file of a public folder to ``target``, going on with what an earlier attempt received."""
    what = f"Google Drive {source.path}"
    denied = f"The file is no longer shared with everyone: see {artifact.page}, or {OWN_COPY}"
    if not target.exists():
        identifier = transfer.retrying(what, denied, lambda: _find(artifact.page, source))
        transfer.retrying(what, denied, lambda: _download(what, identifier, target))


def _find(page: str, source: DriveSource) -> str:
    """Return the id of the file; Drive knows ids, people know paths."""
    import gdown

    try:
        found = gdown.download_folder(id=source.folder, quiet=True, skip_download=True, timeout=transfer.TIMEOUT)
    except gdown.exceptions.DownloadError as error:
        raise UserError(
            f"{page}: cannot be listed ({_line(error)}). Open it in a browser; if it has moved, change "
            f"{MANIFEST}, or {OWN_COPY}"
        ) from error
    listing = {str(PurePosixPath(file.path)): str(file.id) for file in found}
    if source.path not in listing:
        raise UserError(
            f"{page}: has no {source.path}, but {', '.join(listing) or 'no file at all'}. Change the path in "
            f"{MANIFEST}, or {OWN_COPY}"
        )
    return listing[source.path]


def _download(what: str, identifier: str, target: Path) -> None:
    import gdown

    # The client's progress bar is for people.
    quiet = not sys.stderr.isatty()
    try:
        gdown.download(id=identifier, output=str(target), quiet=quiet, resume=True, timeout=transfer.TIMEOUT)
    except gdown.exceptions.FileURLRetrievalError as error:
        raise UserError(
            f"{what}: Google Drive does not hand the file out ({_line(error)}). If too many users downloaded it "
            f"lately, run the command again in a day; or open https://drive.google.com/uc?id={identifier} in a "
            f"browser with an account, and {OWN_COPY}"
        ) from error
    except gdown.exceptions.DownloadError as error:
        if "byte range" in str(error):
            for part in target.parent.glob(f"{target.name}*.part"):
                part.unlink()
            raise transfer.TransientError("the server does not continue partial transfers; starting over") from error
        raise transfer.TransientError(_line(error)) from error
    with target.open("rb") as stream:
        start = stream.read(1 << 16)
    try:
        transfer.refuse_page(what, start)
    except UserError:
        target.unlink()
        raise


def _line(error: Exception) -> str:
    """Return the client's message on one line, without its advice on the command line that is not ours."""
    return " ".join(str(error).partition(".\nThe received bytes")[0].split())


def kaggle(artifact: Artifact, source: KaggleSource, target: Path) -> None:
    """Download the competition's archive to ``target``, going on with what an earlier attempt received."""
    what = f"Kaggle {source.competition}"
    advice = (
        "Make a token at https://www.kaggle.com/settings, save it as ~/.kaggle/access_token (or set KAGGLE_API_TOKEN) "
        f"and accept the rules at {artifact.terms} with its account, then run the command again; or {_OWN_IMAGES}"
    )
    transfer.download(lambda: _signed_address(what, source.competition, advice), target, what, advice)


def _signed_address(what: str, competition: str, advice: str) -> str:
    """Return where the client is sent for the archive; the client finds the user's token where it always looks."""
    # Importing the package, too, looks for a token, and prints advice if there is none.
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            from kaggle.api.kaggle_api_extended import ApiDownloadDataFilesRequest, KaggleApi

            api = KaggleApi()
            api.authenticate()
        except ImportError:
            raise UserError(
                f"{what}: needs the kaggle client (Python 3.11 or later: `pip install kaggle==2.2.4`; "
                f"envs/workflow.yaml has it); or {_OWN_IMAGES}"
            ) from None
        except SystemExit:
            raise UserError(f"{what}: no valid token. {advice}") from None
        request = ApiDownloadDataFilesRequest()
        request.competition_name = competition
        # It follows the address, and receives nothing but the beginning.
        with api.build_kaggle_client() as client:
            response = client.competitions.competition_api_client.download_data_files(request)
            transfer.refuse_page(what, next(response.iter_content(1 << 16), b""))
            return str(response.url)
