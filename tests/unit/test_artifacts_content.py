"""What artifacts are made of: weights, statistics, archives, ImageFolders."""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import stat
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dsr.artifacts import formats, imagenet, images, manifest, weights
from dsr.artifacts.checks import ArraysCheck, DecoderCheck, DenoiserCheck, GraphCheck, ImageCount, StatisticsCheck
from dsr.artifacts.errors import ArtifactError, ContentError, DiskFullError
from dsr.artifacts.fetch import fetch
from dsr.config.denoisers import Dit
from dsr.config.encoders import Decoder, Encoder
from dsr.config.specs import AutoencoderSpec, ModelSpec
from dsr.denoiser.build import build_denoiser, load_denoiser
from dsr.encoder.autoencoder import load_decoder
from dsr.encoder.statistics import Normaliser

from .artifact_manifest import write

GOLDEN = Path(__file__).parents[1] / "golden"

SPEC = AutoencoderSpec(
    encoder=Encoder(
        family="siglip2",
        hub="someone/vit",
        revision="main",
        input_size=8,
        patch_size=4,
        width=6,
        neurons="released",
        statistics="released",
    ),
    ttr_options=None,
    decoder=Decoder(hidden_size=8, depth=1, num_heads=2, intermediate_size=12),
    image_size=8,
)
DECODER = DecoderCheck(kind="decoder", channels=6, grid=2, image_size=8, decoder=SPEC.decoder)
MODEL = ModelSpec(
    denoiser=Dit(kind="dit", hidden_size=16, depth=2, num_heads=2), registers=4, channels=6, grid=2, classes=3
)
DENOISER = DenoiserCheck(kind="denoiser", model=MODEL, metadata={"decay": "0.9"})
STATISTICS = StatisticsCheck(kind="statistics", shape=(6, 2, 2))


def decoder_weights() -> dict[str, torch.Tensor]:
    return {key: torch.full(shape, 0.5) for key, shape in weights.expected_shapes(DECODER).items()}


class Exploit:
    """What a pickle can do to its reader."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("exploited"),)


# Weights --------------------------------------------------------------------------------------------------------------


def test_decoder_is_converted(tmp_path: Path) -> None:
    state = decoder_weights() | {"mask_token": torch.zeros(1)}
    # Views and half precision, as training code leaves them.
    state["decoder_embed.bias"] = torch.arange(16, dtype=torch.bfloat16)[::2]
    torch.save(state, tmp_path / "model.pt")
    check = DECODER.model_copy(update={"unused": ("mask_token",)})
    weights.convert(check, tmp_path / "model.pt", tmp_path / "decoder.safetensors", {"artifact": "x"})
    loaded = load_decoder(SPEC, tmp_path / "decoder.safetensors")
    assert loaded.decoder_embed.bias.tolist() == list(range(0, 16, 2))
    weights.verify(check, tmp_path / "decoder.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra.weight": torch.zeros(1)}, r"1 decoder tensors are unexpected: extra.weight. It is another file"),
        ({"decoder_norm.bias": None}, r"1 decoder tensors are missing: decoder_norm.bias"),
        ({"decoder_norm.bias": torch.zeros(9)}, r"of another shape: decoder_norm.bias \(9,\) instead of \(8,\)"),
        ({"decoder_norm.bias": torch.full((8,), torch.nan)}, r"decoder_norm.bias holds values that are not finite"),
        (
            {"decoder_norm.bias": torch.zeros(8, dtype=torch.int32)},
            r"decoder_norm.bias holds values that are not finite",
        ),
        ({"epoch": 3}, r"expected a dictionary of tensors, found other things under epoch"),
    ],
)
def test_wrong_decoder(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    state = {key: value for key, value in {**decoder_weights(), **change}.items() if value is not None}
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(ContentError, match=message):
        weights.convert(DECODER, tmp_path / "model.pt", tmp_path / "decoder.safetensors", {})
    assert not (tmp_path / "decoder.safetensors").exists()


def test_python_objects_are_not_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"mean": Exploit()}, "model.pt")
    with pytest.raises(ContentError, match="holds Python objects, which are never loaded"):
        weights.convert(STATISTICS, Path("model.pt"), Path("out.safetensors"), {})
    assert not Path("exploited").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>no</html>",
        b"PK\x03\x04 cut off",
        b"\x80\x02}q\x00.",
        b"abc",
        b"quota exceeded",
        pickle.dumps([1], 2),
    ],
)
def test_damaged_pytorch_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(ContentError, match=r"not a PyTorch file of plain tensors|expected a dictionary of tensors"):
        weights.convert(STATISTICS, tmp_path / "model.pt", tmp_path / "out.safetensors", {})


@pytest.mark.parametrize("position", range(0, 120, 7))
def test_mutated_pytorch_file(tmp_path: Path, position: int) -> None:
    stream = io.BytesIO()
    torch.save({"mean": torch.ones(6)}, stream, _use_new_zipfile_serialization=False)
    content = bytearray(stream.getvalue())
    for value in (0, ord("R"), ord("b"), ord("s"), 0x85, 0xFF):
        content[position] = value
        (tmp_path / "model.pt").write_bytes(content)
        with pytest.raises(ContentError):
            weights.convert(STATISTICS, tmp_path / "model.pt", tmp_path / "out.safetensors", {})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({0: torch.zeros(1), 1: torch.zeros(1)}, "2 statistics tensors are unexpected: 0, 1"),
        (torch.zeros(3), "expected a dictionary of tensors, found a Tensor"),
        ({}, "expected a dictionary of tensors, found an empty one"),
    ],
)
def test_other_pytorch_file(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(ContentError, match=message):
        weights.convert(STATISTICS, tmp_path / "model.pt", tmp_path / "out.safetensors", {})


def test_truncated_pytorch_file(tmp_path: Path) -> None:
    torch.save(decoder_weights(), tmp_path / "model.pt")
    whole = (tmp_path / "model.pt").read_bytes()
    (tmp_path / "model.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ContentError, match=r"not a PyTorch file of plain tensors\. It is damaged"):
        weights.convert(DECODER, tmp_path / "model.pt", tmp_path / "out.safetensors", {})


def test_statistics_are_converted(tmp_path: Path) -> None:
    torch.save({"mean": torch.ones(6, 2, 2), "var": torch.full((6, 2, 2), 4.0)}, tmp_path / "stat.pt")
    weights.convert(STATISTICS, tmp_path / "stat.pt", tmp_path / "statistics.safetensors", {})
    normalised = Normaliser.load(tmp_path / "statistics.safetensors", (6, 2, 2))(torch.full((1, 6, 2, 2), 3.0))
    assert torch.allclose(normalised, torch.ones(()), atol=1e-5)


@pytest.mark.parametrize(
    ("mean", "var", "message"),
    [
        (
            torch.ones(6),
            torch.ones(6),
            r"2 statistics tensors are of another shape: mean \(6,\) instead of \(6, 2, 2\)",
        ),
        (torch.ones(6, 2, 2), None, r"1 statistics tensors are missing: var"),
        (torch.ones(6, 2, 2), -torch.ones(6, 2, 2), "negative variances"),
    ],
)
def test_wrong_statistics(tmp_path: Path, mean: torch.Tensor, var: torch.Tensor | None, message: str) -> None:
    torch.save({"mean": mean} if var is None else {"mean": mean, "var": var}, tmp_path / "stat.pt")
    with pytest.raises(ContentError, match=message):
        weights.convert(STATISTICS, tmp_path / "stat.pt", tmp_path / "out.safetensors", {})


@pytest.mark.parametrize("wrapped", [False, True])
def test_denoiser_is_converted(tmp_path: Path, wrapped: bool) -> None:
    state = build_denoiser(MODEL).state_dict()
    torch.save({"step": 3, "model": {}, "ema": state} if wrapped else state, tmp_path / "ema.pt")
    weights.convert(DENOISER, tmp_path / "ema.pt", tmp_path / "ema.safetensors", {"artifact": "x"})
    loaded = load_denoiser(MODEL, tmp_path / "ema.safetensors", torch.device("cpu")).state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())


def test_manifest_weights_are_those_of_the_release() -> None:
    golden = json.loads((GOLDEN / "full_size_keys.json").read_text())
    packaged = manifest.load()
    for identifier, entry in (
        ("decoder-siglip2-b", "decoder/ViTXL_hidden768"),
        ("decoder-siglip2-so400m", "decoder/ViTXL_hidden1152"),
        ("denoiser-siglip2-b", "stage2/DiT-XL_SigLIP2-B_data_lognormal"),
        ("denoiser-siglip2-b-registers", "stage2/DiT-XL_SigLIP2-B_tt_reg_data_lognormal-in_context_36"),
    ):
        check = packaged.get(identifier).check
        assert isinstance(check, DecoderCheck | DenoiserCheck)
        released = {key: tuple(value["shape"]) for key, value in golden[entry]["keys"].items()}
        assert weights.expected_shapes(check) == released


class LocalWeights:
    """The artifact `thing`: a decoder on an unreachable Drive, and a local copy of it."""

    def __init__(self, folder: Path) -> None:
        source = {"client": "drive", "folder": "x" * 30, "path": "model.pt"}
        self.manifest = write(folder / "manifest.yaml", source, DECODER.model_dump(mode="json"), "model.pt")
        self.lock, self.output = folder / "artifacts.lock", folder / "decoders" / "vit.safetensors"

    def fetch(self, local: Path | None, specification: str | None = None) -> None:
        fetch("thing", self.output, locked=self.lock, local=local, specification=specification, listed=self.manifest)


def test_local_weights_are_converted_or_linked(tmp_path: Path) -> None:
    case = LocalWeights(tmp_path)
    torch.save(decoder_weights(), tmp_path / "own.pt")
    case.fetch(tmp_path / "own.pt", SPEC.model_dump_json())
    assert not case.output.is_symlink()
    with safe_open(case.output, framework="pt") as opened:
        assert opened.metadata()["artifact"] == "thing"
    case.fetch(None)
    case.output.rename(tmp_path / "own.safetensors")
    case.fetch(tmp_path / "own.safetensors")
    assert case.output.resolve() == tmp_path / "own.safetensors"
    (tmp_path / "own.safetensors").write_bytes(b"cut off")
    with pytest.raises(ContentError, match=r"own.safetensors: not a safetensors file, or cut off .*give another one"):
        case.fetch(tmp_path / "own.safetensors")


def test_no_room_for_converted_weights(tmp_path: Path) -> None:
    case = LocalWeights(tmp_path)
    check = StatisticsCheck(kind="statistics", shape=(8, 256, 256)).model_dump(mode="json")
    write(case.manifest, {"client": "drive", "folder": "x" * 30, "path": "stat.pt"}, check, "stat.pt")
    torch.save({"mean": torch.ones(8, 256, 256), "var": torch.ones(8, 256, 256)}, tmp_path / "own.pt")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(DiskFullError, match=r"thing: File too large under .*decoders .* run the command again"):
            case.fetch(tmp_path / "own.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(case.output.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("identifier", "folder", "message"),
    [
        ("decoder-siglip2-b", True, "is a folder, expected the file itself"),
        ("statistics-siglip2-b-none", True, "is a folder, expected the file itself"),
        ("denoiser-siglip2-b", True, "is a folder, expected the file itself"),
        ("inception-graph", True, "is a folder, expected the file itself"),
        ("reference-imagenet256", True, "is a folder, expected the file itself"),
        ("siglip2-b", False, "is a file, expected the folder that holds config.json, model.safetensors"),
    ],
)
def test_local_copy_of_the_wrong_form(tmp_path: Path, identifier: str, folder: bool, message: str) -> None:
    case = LocalWeights(tmp_path)
    artifact = manifest.load().get(identifier)
    source, check = (part.model_dump(mode="json") for part in (artifact.source, artifact.check))
    write(case.manifest, source, check, *(file.name for file in artifact.files))
    own = tmp_path / "own"
    own.mkdir() if folder else own.write_bytes(b"abc")
    with pytest.raises(ContentError, match=rf"own: {message}.*your own copy of 'thing'.*give another one"):
        case.fetch(own)


def test_configuration_that_does_not_fit_is_refused_before_the_download(tmp_path: Path) -> None:
    case = LocalWeights(tmp_path)
    changed = SPEC.model_dump(mode="json")
    changed["decoder"]["depth"] = 2
    with pytest.raises(ArtifactError, match=r"does not fit the configuration .*: decoder.depth: 1 -> 2"):
        case.fetch(None, json.dumps(changed))
    with pytest.raises(ArtifactError, match=r"--spec is not the JSON of AutoencoderSpec \(encoder: Field required\)"):
        case.fetch(None, "{}")
    encoder = {
        "kind": "encoder",
        "model_type": "siglip",
        "width": 6,
        "patch_size": 4,
        "positions": 4,
        "depth": 1,
        "intermediate_size": 9,
    }
    source = {"client": "hub", "repository": "someone/other", "revision": "v1"}
    write(case.manifest, source, encoder, *formats.ENCODER_FILES)
    with pytest.raises(ArtifactError, match=r"hub: someone/other -> someone/vit; revision: v1 -> main"):
        case.fetch(None, SPEC.model_dump_json(exclude={"decoder"}))


# Graph and arrays -----------------------------------------------------------------------------------------------------


def test_graph_of_the_evaluator() -> None:
    check = manifest.load().get("inception-graph").check
    assert isinstance(check, GraphCheck)
    formats.verify_graph(check, GOLDEN / "evaluator" / "stub_inception_seed0.pb")


def test_arrays(tmp_path: Path) -> None:
    check = ArraysCheck(kind="arrays", shapes={"arr_0": (2, 4, 4, 3), "mu": (5,)})
    path = tmp_path / "reference.npz"
    np.savez(path, arr_0=np.zeros((2, 4, 4, 3), np.uint8), mu=np.zeros(5), more=np.zeros(1))
    formats.verify_arrays(check, path)
    np.savez(path, arr_0=np.zeros((2, 4, 4, 3), np.uint8), mu=np.zeros(4))
    with pytest.raises(ContentError, match=r"mu is float64 \(4,\), expected numbers \(5,\)"):
        formats.verify_arrays(check, path)
    np.savez(path, arr_0=np.zeros((2, 4, 4, 3), np.uint8))
    with pytest.raises(ContentError, match=r"has no array mu, but arr_0"):
        formats.verify_arrays(check, path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ContentError, match=r"was cut off"):
        formats.verify_arrays(check, path)


# Images ---------------------------------------------------------------------------------------------------------------

COUNT = ImageCount(images=4, classes=2)
TRAIN, VALIDATION = "ILSVRC/Data/CLS-LOC/train", "ILSVRC/Data/CLS-LOC/val"
SOLUTION = "ImageId,PredictionString\n" + "".join(f"v_{i},n0{i % 2} 1 2 3 4 n09 5 6 7 8\n" for i in range(4))
MEMBERS = {
    "LOC_val_solution.csv": SOLUTION.encode(),
    **{f"{TRAIN}/n0{i % 2}/t_{i}.JPEG": bytes([i]) * 50 for i in range(4)},
    **{f"{VALIDATION}/v_{i}.JPEG": bytes([i]) * 50 for i in range(4)},
}


def zipped(path: Path, members: dict[str, bytes] = MEMBERS) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def tarred(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


ARRANGED = {
    "train": {f"n0{i % 2}/t_{i}.JPEG": bytes([i]) * 50 for i in (0, 2, 1, 3)},
    "validation": {f"n0{i % 2}/v_{i}.JPEG": bytes([i]) * 50 for i in (0, 2, 1, 3)},
}


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("nested", [False, True])
def test_archive_becomes_an_image_folder(tmp_path: Path, split: imagenet.Split, nested: bool) -> None:
    members = MEMBERS
    if nested:
        inside = {name: content for name, content in MEMBERS.items() if name.endswith("JPEG")}
        members = {"LOC_val_solution.csv": SOLUTION.encode(), "imagenet_patched.tar.gz": tarred(inside)}
    imagenet.from_archive(zipped(tmp_path / "a.zip", members), split, tmp_path / "out", COUNT)
    assert tree(tmp_path / "out") == ARRANGED[split]
    assert not (tmp_path / ".out.partial").exists()


@pytest.mark.parametrize("split", ["train", "validation"])
def test_extraction_goes_on_where_it_stopped(tmp_path: Path, split: imagenet.Split) -> None:
    archive = zipped(tmp_path / "a.zip")
    # A damaged member in the middle, as after a failing disk.
    content = archive.read_bytes()
    damaged = content.replace(bytes([2]) * 50, bytes([7]) * 50)
    archive.write_bytes(damaged)
    with pytest.raises(ContentError, match=r"_2.JPEG in the archive: damaged"):
        imagenet.from_archive(archive, split, tmp_path / "out", COUNT)
    assert not (tmp_path / "out").exists()
    kept = list((tmp_path / ".out.partial").rglob("*.JPEG"))
    assert len(kept) == 2
    for path in kept:
        os.utime(path, (1, 1))
    archive.write_bytes(content)
    imagenet.from_archive(archive, split, tmp_path / "out", COUNT)
    assert tree(tmp_path / "out") == ARRANGED[split]
    untouched = [path.name for path in (tmp_path / "out").rglob("*.JPEG") if path.stat().st_mtime == 1]
    assert sorted(untouched) == sorted(path.name for path in kept)


@pytest.mark.parametrize(
    ("change", "split", "message"),
    [
        ({f"{TRAIN}/n01/t_1.JPEG": None, f"{TRAIN}/n01/t_3.JPEG": None}, "train", "1 class folders instead of 2; 2 im"),
        ({f"{TRAIN}/n01/t_3.JPEG": None}, "train", "3 images instead of 4"),
        ({f"{TRAIN}/t_3.JPEG": b"x"}, "train", "unexpected place in the archive"),
        ({f"{VALIDATION}/v_9.JPEG": b"x"}, "validation", "does not say which class v_9.JPEG shows"),
        ({"LOC_val_solution.csv": None}, "validation", "holds no LOC_val_solution.csv"),
        ({"LOC_val_solution.csv": b"\xff\xfe\x00"}, "validation", "expected columns ImageId,PredictionString"),
        ({"LOC_val_solution.csv": b"a,b\n1,2\n"}, "validation", "expected columns ImageId,PredictionString"),
        (
            {"LOC_val_solution.csv": b"ImageId,PredictionString\nv_0,../n01 1\n"},
            "validation",
            "'../n01' is not a plain",
        ),
        (dict.fromkeys((name for name in MEMBERS if TRAIN in name), None), "train", f"holds no {TRAIN}"),
    ],
)
def test_wrong_archive(tmp_path: Path, change: dict[str, Any], split: imagenet.Split, message: str) -> None:
    members = {name: content for name, content in {**MEMBERS, **change}.items() if content is not None}
    with pytest.raises(ContentError, match=message):
        imagenet.from_archive(zipped(tmp_path / "a.zip", members), split, tmp_path / "out", COUNT)
    assert not (tmp_path / "out").exists()


def test_file_that_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"<html>")
    with pytest.raises(ContentError, match=r"a.zip \(a zip is expected\): damaged \(File is not a zip file\)"):
        imagenet.from_archive(tmp_path / "a.zip", "train", tmp_path / "out", COUNT)


def test_damaged_compression(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{TRAIN}/n00/t_0.JPEG", bytes(range(256)))
    content = bytearray(path.read_bytes())
    start = content.index(b".JPEG") + 5
    content[start : start + 20] = b"\xff" * 20
    path.write_bytes(content)
    with pytest.raises(ContentError, match=r"t_0.JPEG in the archive: damaged \(Error -3 while decompressing"):
        imagenet.from_archive(path, "train", tmp_path / "out", COUNT)


@pytest.mark.parametrize(
    ("flag", "method", "message"),
    [(1, 0, "is encrypted, password required"), (0, 97, "compression method is not supported")],
)
def test_archive_that_python_cannot_read(tmp_path: Path, flag: int, method: int, message: str) -> None:
    path = zipped(tmp_path / "a.zip")
    content = bytearray(path.read_bytes())
    for start, place in ((content.index(b"PK\x03\x04"), 6), (content.index(b"PK\x01\x02"), 8)):
        content[start + place], content[start + place + 2] = flag, method
    path.write_bytes(content)
    with pytest.raises(ContentError, match=rf"a.zip.*: cannot be read \(.*{message}"):
        imagenet.from_archive(path, "validation", tmp_path / "out", COUNT)


def test_tar_with_its_own_folder_first(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        folder = tarfile.TarInfo("./")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, content in MEMBERS.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    imagenet.from_archive(zipped(tmp_path / "a.zip", {"a.tar": stream.getvalue()}), "train", tmp_path / "out", COUNT)
    assert tree(tmp_path / "out") == ARRANGED["train"]


@pytest.mark.parametrize(
    "name", ["../evil.JPEG", "/evil.JPEG", f"{TRAIN}/n01/../../../../../evil", "C:/evil", "..\\evil"]
)
@pytest.mark.parametrize("nested", [False, True])
def test_archive_cannot_leave_its_folder(tmp_path: Path, name: str, nested: bool) -> None:
    members = {**MEMBERS, name: b"evil"}
    if nested:
        members = {"a.tar.gz": tarred({name: b"evil", **MEMBERS})}
    (tmp_path / "in").mkdir()
    with pytest.raises(ContentError, match="points outside its folder; refusing to extract"):
        imagenet.from_archive(zipped(tmp_path / "in" / "a.zip", members), "train", tmp_path / "in" / "out", COUNT)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    assert not tree(tmp_path / "in" / ".out.partial")


@pytest.mark.parametrize("kind", ["zip", tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE])
def test_links_in_archives_are_refused(tmp_path: Path, kind: str | bytes) -> None:
    path = zipped(tmp_path / "a.zip", {} if isinstance(kind, bytes) else MEMBERS)
    with zipfile.ZipFile(path, "a") as archive:
        if isinstance(kind, bytes):
            stream = io.BytesIO()
            with tarfile.open(fileobj=stream, mode="w") as tar:
                info = tarfile.TarInfo(f"{TRAIN}/n01/link")
                info.type, info.linkname = kind, "/etc/passwd"
                tar.addfile(info)
            archive.writestr("a.tar", stream.getvalue())
        else:
            link = zipfile.ZipInfo(f"{TRAIN}/n01/link")
            link.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(link, "/etc/passwd")
    with pytest.raises(ContentError, match=r"is a link; refusing|is not a plain file; refusing"):
        imagenet.from_archive(path, "train", tmp_path / "out", COUNT)
    assert not tree(tmp_path / ".out.partial")


@pytest.fixture
def own_images(tmp_path: Path) -> Path:
    """The competition's archive, extracted by the user."""
    with zipfile.ZipFile(zipped(tmp_path / "a.zip")) as archive:
        archive.extractall(tmp_path / "own")
    return tmp_path / "own"


class LocalImages:
    """The artifact `thing`: one split of the images."""

    def __init__(self, folder: Path, split: str) -> None:
        source = {"client": "kaggle", "competition": "imagenet", "split": split}
        check = {"kind": "images", **COUNT.model_dump()}
        self.manifest = write(folder / f"{split}.yaml", source, check, "imagenet.zip")
        self.output, self.lock = folder / "raw" / split, folder / "artifacts.lock"

    def fetch(self, local: Path, specification: str | None = None) -> Path:
        fetch("thing", self.output, locked=self.lock, local=local, specification=specification, listed=self.manifest)
        return self.output


@pytest.mark.parametrize("split", ["train", "validation"])
def test_extracted_archive_is_linked(tmp_path: Path, own_images: Path, split: str) -> None:
    output = LocalImages(tmp_path, split).fetch(own_images)
    assert tree(output.resolve()) == ARRANGED[split]
    images_there = [path for path in output.resolve().rglob("*") if path.suffix == ".JPEG"]
    assert all(own_images in path.resolve().parents for path in images_there), "nothing is copied"


def test_archive_of_the_user_is_extracted(tmp_path: Path) -> None:
    assert tree(LocalImages(tmp_path, "validation").fetch(zipped(tmp_path / "mine.zip"))) == ARRANGED["validation"]


def test_image_folder_is_linked(tmp_path: Path, own_images: Path) -> None:
    case = LocalImages(tmp_path, "train")
    case.output.mkdir(parents=True)
    assert case.fetch(own_images / TRAIN).resolve() == own_images / TRAIN
    with pytest.raises(ContentError, match=r"2 class folders instead of 3; 4 images instead of 6\."):
        case.fetch(own_images / TRAIN, '{"images": 6, "classes": 3}')


def test_validation_image_that_is_missing(tmp_path: Path, own_images: Path) -> None:
    (own_images / VALIDATION / "v_2.JPEG").unlink()
    with pytest.raises(ContentError, match=r"v_2.JPEG: missing, but .*LOC_val_solution.csv lists it"):
        LocalImages(tmp_path, "validation").fetch(own_images)
    (own_images / "LOC_val_solution.csv").unlink()
    with pytest.raises(ContentError, match=r"LOC_val_solution.csv: missing"):
        LocalImages(tmp_path, "validation").fetch(own_images)


def test_wrong_image_folders(tmp_path: Path) -> None:
    for name in ("n01/a.JPEG", "n01/notes.txt", "n02/b.png", ".cache/x", "n03/readme.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert images.count(tmp_path) == {".cache": 0, "n01": 1, "n02": 1, "n03": 0}
    with pytest.raises(
        ContentError, match=r"4 class folders instead of 3; no images in .cache, n03; 2 images instead of 3"
    ):
        images.verify(tmp_path, images=3, classes=3)
    with pytest.raises(ContentError, match=r"nowhere: no such folder; expected one sub-folder of images per class"):
        images.verify(tmp_path / "nowhere", images=1, classes=1)


def test_wrong_encoder_weights(tmp_path: Path) -> None:
    check = manifest.load().get("dinov2-b-registers").check
    (tmp_path / "config.json").write_text('{"model_type": "dinov2_with_registers"}')
    (tmp_path / "preprocessor_config.json").write_text("{}")
    good = formats.encoder_shapes(check)  # type: ignore[arg-type]
    tensors = {name: torch.zeros(shape) for name, shape in good.items()}
    save_file(tensors, tmp_path / "model.safetensors")
    formats.verify_encoder(check, tmp_path)  # type: ignore[arg-type]
    del tensors["embeddings.register_tokens"]
    save_file(tensors, tmp_path / "model.safetensors")
    message = r"embeddings.register_tokens has shape none: it is missing, expected \(1, 4, 768\)"
    with pytest.raises(ContentError, match=message):
        formats.verify_encoder(check, tmp_path)  # type: ignore[arg-type]
    assert load_file(tmp_path / "model.safetensors").keys() == tensors.keys()
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ContentError, match="expected a JSON object"):
        formats.verify_encoder(check, tmp_path)  # type: ignore[arg-type]
