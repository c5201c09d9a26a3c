"""Hugging Face, Google Drive and Kaggle through their own clients, which take a local server for the real sites."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import gdown
import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import constants
from PIL import Image

from dsr.artifacts import lock
from dsr.artifacts.fetch import fetch as run
from dsr.base.errors import UserError
from dsr.base.files import read_record
from dsr.base.randomness import balanced_labels
from dsr.config.base import Alternative
from dsr.config.encoders import ENCODER_FILES
from dsr.config.sampling import Guidance
from dsr.config.specs import EncoderSpec, spec_json
from dsr.sampling.draw import Grid, draw
from dsr.sampling.pretrained import FILES, load
from dsr.sampling.sampler import Sampler

from . import tiny_encoder
from .artifact_manifest import ARRANGED, GRAPH, MEMBERS, Thing, graph, images_of, tree, zipped
from .conftest import TOKEN
from .sites import Reply, Route, Seen, Sites, file, page, status
from .test_sampling import tiny_spec, write_inputs
from .tiny_encoder import HIDDEN, LAYERS, WIDTH

JSON = {"Content-Type": "application/json"}

# Hugging Face ---------------------------------------------------------------------------------------------------------

COMMIT = "a" * 40
REVISIONS = "huggingface.co/api/models/someone/vit/revision"
FILES_THERE = f"huggingface.co/someone/vit/resolve/{COMMIT}"
MAIN, WEIGHTS = f"{REVISIONS}/main", f"{FILES_THERE}/model.safetensors"
REPOSITORY = {"client": "hub", "repository": "someone/vit", "revision": "main"}
TINY = {"kind": "encoder", "model_type": "siglip", "width": WIDTH, "positions": 16, "depth": LAYERS}
TINY |= {"intermediate_size": HIDDEN}
ENCODER = tiny_encoder.entry(hub="someone/vit")
SPEC = EncoderSpec(encoder=ENCODER, ttr_options=None, image_size=tiny_encoder.SIZE)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder as the hub has them."""
    return tiny_encoder.write_folder(tmp_path_factory.mktemp("own"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def serve(sites: Sites, files: dict[str, bytes]) -> None:
    """Serve files of a repository at one commit, and on the main branch; of weights, the hub states the hash."""
    siblings: list[dict[str, Any]] = []
    for name, content in files.items():
        digest = hashlib.sha256(content).hexdigest()
        sites.add(f"{FILES_THERE}/{name}", file(content, X_Repo_Commit=COMMIT, ETag=f'"{digest}"'))
        large = {"sha256": digest, "size": len(content), "pointerSize": 1}
        siblings.append({"rfilename": name, **({} if name.endswith(".json") else {"lfs": large})})
    body = json.dumps({"id": "someone/vit", "sha": COMMIT, "siblings": siblings}).encode()
    for revision in ("main", COMMIT):
        sites.add(f"{REVISIONS}/{revision}", lambda seen: Reply(200, body, JSON))


@pytest.fixture
def hub(tmp_path: Path, sites: Sites, own: Path) -> Thing:
    """A repository of three files on the hub."""
    serve(sites, contents(own))
    return Thing(tmp_path, "encoders/vit", REPOSITORY, TINY, *ENCODER_FILES, spec=SPEC)


def test_hub_publishes_all_files_of_one_commit(
    hub: Thing, sites: Sites, own: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    assert contents(hub.fetch()) == contents(own)
    assert lock.read(hub.lock).artifacts["thing"].revision == COMMIT
    paths = [seen.place for seen in sites.seen if "/main" in seen.place]
    assert len(paths) == 1, "only the first look-up may depend on the branch"
    assert any(seen.headers.get("authorization") == f"Bearer {TOKEN}" for seen in sites.seen)
    assert TOKEN not in caplog.text
    assert [path.suffix for path in hub.downloads.iterdir()] == [".guard"]


def test_hub_keeps_to_the_commit_that_it_began_with(hub: Thing, sites: Sites, own: Path) -> None:
    sites.add(WEIGHTS, status(503))
    with pytest.raises(UserError, match=r"someone/vit/model.safetensors: .* HTTP 503; gave up"):
        hub.fetch()
    serve(sites, contents(own))
    sites.add(MAIN, status(500))
    hub.fetch()
    shutil.rmtree(hub.output)
    hub.fetch()
    hub.lock.unlink()
    shutil.rmtree(hub.output)
    with pytest.raises(UserError, match=r"someone/vit at main: .* HTTP 500; gave up"):
        hub.fetch()


def test_trained_weights_are_loaded_from_a_folder_and_from_the_hub(
    sites: Sites, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, inputs = tiny_spec(), write_inputs(tmp_path)
    sources = dict(zip(FILES[1:], (inputs["weights"], inputs["statistics"], inputs["decoder"]), strict=True))
    (folder := tmp_path / "model").mkdir()
    (folder / "config.json").write_text(spec_json(spec), encoding="utf-8")
    for name, path in sources.items():
        shutil.copy(path, folder / name)
    own = Sampler(spec, **inputs, device=torch.device("cpu"))
    drawn = own.start([0, 1, 2, 3])()
    labels = balanced_labels(3, spec.images, spec.seed)[:4].tolist()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    serve(sites, contents(folder))
    for source in (folder, "someone/vit"):
        assert np.array_equal(load(source, device="cpu").of_classes(labels, spec.seed), drawn)
    unguided = load(folder, guidance=Guidance(), device="cpu").of_classes(labels, spec.seed)
    assert not np.array_equal(unguided, drawn)
    with pytest.raises(UserError, match="class 3: expected 0 to 2"):
        own.of_classes([0, 3])
    grid, each = tmp_path / "grid.png", tmp_path / "each"
    draw(Grid(str(folder), ("2", "0"), grid, count=2, first=1, seed=5, each=each, device="cpu"))
    again = load(folder, device="cpu").of_classes([0], seed=5, numbers=[2])
    assert np.array_equal(np.asarray(Image.open(each / "0-2.png")), again[0])
    side = again.shape[1]
    assert np.array_equal(np.asarray(Image.open(grid))[-side:, -side:], again[0]), "the last of the grid"
    with pytest.raises(UserError, match=r"class 'cat': expected a name, or a number from 0 to 2"):
        draw(Grid(str(folder), ("cat",), grid, device="cpu"))
    (folder / "decoder.safetensors").unlink()
    with pytest.raises(UserError, match=r"decoder.safetensors: no such file; .*load\(..., decoder=...\)"):
        load(folder)
    assert load(folder, decoder=inputs["decoder"], device="cpu")
    for missing in (tmp_path / "elsewhere", "someone/else"):
        with pytest.raises(UserError, match=f"{missing}: no such folder, and not on the hub"):
            load(missing)


def test_hub_other_encoder(hub: Thing, sites: Sites) -> None:
    other = SPEC.model_copy(update={"encoder": ENCODER.model_copy(update={"hub": "someone/other"})})
    with pytest.raises(UserError, match="manifest has someone/vit at main, the configuration someone/other at main"):
        hub.fetch(spec=other)
    assert not sites.seen


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", b'{"model_type": "bert"}', r"config.json: model_type is 'bert', expected 'siglip'"),
        ("model.safetensors", b"", r"the weights cannot be read"),
        ("depth", 2, r"depth is 4, expected 2; it is another encoder"),
        ("positions", 4, r"positions is 16, expected 4"),
    ],
)
def test_wrong_encoder(hub: Thing, own: Path, tmp_path: Path, name: str, content: Any, message: str) -> None:
    copy = Path(shutil.copytree(own, tmp_path / "copy"))
    if isinstance(content, bytes):
        (copy / name).write_bytes(content)
    else:
        Thing(tmp_path, "encoders/vit", REPOSITORY, TINY | {name: content}, *ENCODER_FILES)
    with pytest.raises(UserError, match=rf"{message}.*It is your own copy of 'thing'"):
        hub.fetch(copy)
    assert not hub.output.exists()


def test_the_hubs_copy_is_taken_only_where_it_is_asked_for(sites: Sites, tmp_path: Path) -> None:
    case = Thing(tmp_path, "latents/vit.safetensors", DRIVE, {"kind": "statistics"}, "stat.pt")
    (entry,) = yaml.safe_load(case.manifest.read_text())["artifacts"].values()
    other = {**entry, "source": {**REPOSITORY, "folder": "stats/b16"}}
    case.manifest.write_text(yaml.safe_dump({"artifacts": {"thing": entry, "thing-hub": other}}))
    torch.save({"mean": torch.zeros(SPEC.latent_shape), "var": torch.ones(SPEC.latent_shape)}, tmp_path / "stat.pt")
    serve(sites, {"stats/b16/stat.pt": (tmp_path / "stat.pt").read_bytes(), "stat.pt": b"another folder's"})

    def fetch(alternative: Alternative | None) -> None:
        run("thing", case.output, case.lock, source=alternative, spec=SPEC.model_dump_json(), manifest=case.manifest)

    fetch("hub")
    recorded = lock.read(case.lock).artifacts
    assert [(name, one.revision) for name, one in recorded.items()] == [("thing-hub", COMMIT)]
    assert read_record(case.output)["artifact"] == "thing-hub"
    fetch("hub")
    with pytest.raises(UserError, match=r"made of 'thing-hub', but 'thing' is asked for. .*remove it and run again"):
        fetch(None)


# Google Drive ---------------------------------------------------------------------------------------------------------

ROOT, SUB, FILE = "root" + "R" * 24, "sub" + "S" * 24, "file" + "F" * 24
UC, VIEW = "drive.google.com/uc", "drive.google.com/embeddedfolderview"
DRIVE = {"client": "drive", "folder": ROOT, "path": "decoders/graph.pb"}
CONTENT = graph("input", "pool_3", padding=3_000_000)


def listing(seen: Seen) -> Reply:
    if SUB in seen.query:
        return page("decoders", f'<a href="https://drive.google.com/file/d/{FILE}/view">graph.pb</a>')(seen)
    return page("shared", f'<a href="https://drive.google.com/drive/folders/{SUB}">decoders</a>')(seen)


@pytest.fixture
def drive(tmp_path: Path, sites: Sites, monkeypatch: pytest.MonkeyPatch) -> Thing:
    """A public folder with `decoders/graph.pb` in it."""
    monkeypatch.setattr(sys.modules[gdown.download.__module__], "DEFAULT_COOKIES_FILE", str(tmp_path / "cookies"))
    sites.add(VIEW, listing)
    return Thing(tmp_path, "results/graph.pb", DRIVE, GRAPH, "graph.pb")


def attachment(content: bytes, cut: int | None = None, *, ranges: bool = True) -> Route:
    return file(content, cut=cut, ranges=ranges, Content_Disposition='attachment; filename="graph.pb"')


SCAN_WARNING = page(
    "Cannot scan for viruses",
    '<form id="download-form" action="https://drive.usercontent.google.com/download">'
    f'<input type="hidden" name="id" value="{FILE}"><input type="hidden" name="confirm" value="t"></form>',
)
QUOTA = page("Quota exceeded", '<p class="uc-error-subcaption">Too many users have downloaded this file recently.</p>')


def test_drive_transfer_that_cannot_be_continued_starts_over(drive: Thing, sites: Sites) -> None:
    sites.add(UC, attachment(CONTENT, 2_000_000, ranges=False), attachment(CONTENT, ranges=False))
    drive.fetch()
    assert drive.output.read_bytes() == CONTENT
    assert any(seen.headers.get("Range") for seen in sites.requests(UC))


def test_drive_quota_keeps_what_was_received_and_a_warning_is_passed(drive: Thing, sites: Sites) -> None:
    sites.add(UC, attachment(CONTENT, 2_000_000), QUOTA)
    with pytest.raises(UserError, match=r"Too many users .*again in a day.*uc\?id=file.*`artifacts` in config.yaml"):
        drive.fetch()
    assert not drive.output.exists()
    assert drive.received > 0
    sites.add(UC, SCAN_WARNING)
    sites.add("drive.usercontent.google.com/download", attachment(CONTENT))
    drive.fetch()
    assert drive.output.read_bytes() == CONTENT
    assert "Range" in sites.seen[-1].headers
    assert f"id={FILE}" in sites.requests(UC)[0].query
    assert lock.read(drive.lock).artifacts["thing"].files["graph.pb"].size == len(CONTENT)


# Kaggle ---------------------------------------------------------------------------------------------------------------

LOGIN = "api.kaggle.com/v1/security.OAuthService/IntrospectToken"
API = "api.kaggle.com/v1/competitions.CompetitionApiService/DownloadDataFiles"
STORE = "storage.googleapis.com/bundle/archive.zip"


@pytest.fixture
def kaggle(tmp_path: Path, sites: Sites) -> Thing:
    """Images of a competition whose archive lies in a store that the site redirects to."""
    sites.add(LOGIN, lambda seen: Reply(200, b'{"active": true, "username": "someone"}', JSON))
    sites.add(API, lambda seen: Reply(302, b"", {"Location": f"https://{STORE}?Signature=secret"}))
    return images_of(tmp_path, "train")


def stored(content: bytes, cut: int | None = None) -> Route:
    return file(content, cut=cut, Accept_Ranges="bytes", Last_Modified="Mon, 01 Jan 2024 00:00:00 GMT")


def test_kaggle_archive_serves_both_splits(
    kaggle: Thing, sites: Sites, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    padded = {**MEMBERS, "ILSVRC/ImageSets/padding.txt": bytes(3_000_000)}
    archive = zipped(tmp_path / "archive.zip", padded).read_bytes()
    sites.add(STORE, stored(archive), stored(archive, 2_500_000), stored(archive))
    assert {split: tree(images_of(tmp_path, split).fetch()) for split in ARRANGED} == ARRANGED
    ranges = [seen.headers.get("Range") for seen in sites.requests(STORE)]
    assert ranges == [None, None, None, "bytes=2097152-"], "the address is asked for anew, and the archive comes once"
    assert sites.requests(API)[0].headers["Authorization"] == f"Bearer {TOKEN}"
    assert "secret" not in "".join(capfd.readouterr())


def test_kaggle_without_token(
    kaggle: Thing, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    with pytest.raises(UserError, match=r"no valid token. Make a token at .*/settings.* https://rules.example"):
        kaggle.fetch()
    assert capsys.readouterr().out == ""


def test_kaggle_client_that_is_not_installed(kaggle: Thing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kaggle.api.kaggle_api_extended", None)
    with pytest.raises(UserError, match=r"needs the kaggle client .*pip install kaggle.*`artifacts` in config"):
        kaggle.fetch()


# All ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("client", "place", "route", "message"),
    [
        ("hub", MAIN, status(401), r"the token that was sent is refused \(HTTP 401\).*set HF_TOKEN"),
        ("hub", MAIN, status(404, X_Error_Code="RevisionNotFound"), r"at main: not there any more"),
        ("hub", MAIN, page("Welcome to the hotel"), r"does not come from a Hugging Face hub.*proxy"),
        ("hub", WEIGHTS, file(b"x"), r"model.safetensors has .* its publisher states .* delete it"),
        ("hub", WEIGHTS, status(403), r"refused \(HTTP 403\).* accept the terms of https://huggingface.co/someone/vit"),
        ("drive", UC, page("Sign in"), r"does not hand the file out .*open https://drive.google.com/uc\?id=file"),
        ("drive", UC, lambda seen: attachment(page("Quota")(seen).body)(seen), r"web page instead.*\"Quota\""),
        ("drive", UC, attachment(CONTENT, 10), r"Download is incomplete: .*gave up after 3 attempts"),
        ("drive", VIEW, status(404), r"cannot be listed .*Open it in a browser"),
        ("drive", VIEW, page("Empty"), r"has no decoders/graph.pb, but no file at all"),
        ("kaggle", API, status(401), r"token that was sent is refused \(HTTP 401\). Make .* ~/.kaggle/access_token"),
        ("kaggle", API, status(403), r"refused \(HTTP 403\).*https://rules.example with its.*give an ImageFolder"),
        ("kaggle", LOGIN, status(403), r"no valid token. Make a token at https://www.kaggle.com/settings"),
        ("kaggle", LOGIN, status(503), r"HTTP 503; gave up after 3 attempts"),
        ("kaggle", API, page("Accept the rules"), r'web page instead of the file, saying: "Accept the rules"'),
    ],
)
def test_what_is_not_handed_out(
    request: pytest.FixtureRequest, sites: Sites, client: str, place: str, route: Route, message: str
) -> None:
    thing: Thing = request.getfixturevalue(client)
    sites.add(place, route)
    with pytest.raises(UserError, match=message) as caught:
        thing.fetch()
    assert TOKEN not in str(caught.value)
    assert not thing.output.exists()
