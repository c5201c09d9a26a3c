"""What artifacts are made of: weights, statistics, archives, ImageFolders."""

from __future__ import annotations

import io
import json
import os
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dsr.artifacts import imagenet, manifest, weights
from dsr.artifacts.fetch import look_for_names
from dsr.artifacts.manifest import FileCheck, ImageCount, WeightsCheck
from dsr.base.errors import UserError
from dsr.base.files import read_record
from dsr.base.tensors import assign
from dsr.config.encoders import Decoder
from dsr.config.specs import AutoencoderSpec, EncoderSpec, ModelSpec
from dsr.config.training import Dit, DitDh
from dsr.denoiser.dit import build_denoiser, load_denoiser
from dsr.encoder.autoencoder import build_decoder, load_decoder
from dsr.encoder.statistics import Normaliser
from tests.configuration import configuration

from . import tiny_encoder
from .artifact_manifest import ARRANGED, COUNT, MEMBERS, SOLUTION, TRAIN, VALIDATION, Thing, images_of, tree, zipped

GOLDEN = Path(__file__).parents[1] / "golden"

SPEC = AutoencoderSpec(
    encoder=tiny_encoder.entry(input_size=8, patch_size=4, width=6),
    ttr_options=None,
    decoder=Decoder(hidden_size=8, depth=1, num_heads=2, intermediate_size=12),
    image_size=8,
)
ENCODING = EncoderSpec.model_validate(SPEC.model_dump(exclude={"decoder"}))
DECODER = WeightsCheck(kind="decoder")
DIT_TINY = Dit(kind="dit", hidden_size=16, depth=2, num_heads=2)
DIT_DH_TINY = DitDh(kind="dit-dh", hidden_size=(16, 24), depth=(2, 1), num_heads=(2, 2))
DENOISER = WeightsCheck(kind="denoiser")
STATISTICS = WeightsCheck(kind="statistics")


def decoder_weights() -> dict[str, torch.Tensor]:
    return {key: torch.full_like(value, 0.5) for key, value in build_decoder(SPEC).state_dict().items()}


class Exploit:
    """What a pickle can do to its reader."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("exploited"),)


# Weights --------------------------------------------------------------------------------------------------------------


def test_decoder_is_converted(tmp_path: Path) -> None:
    state = decoder_weights()
    # Views and half precision, as training code leaves them.
    state["decoder_embed.bias"] = torch.arange(16, dtype=torch.bfloat16)[::2]
    torch.save(state, tmp_path / "model.pt")
    weights.convert(DECODER, SPEC, tmp_path / "model.pt", tmp_path / "decoder.safetensors", {"artifact": "x"})
    loaded = load_decoder(SPEC, tmp_path / "decoder.safetensors")
    assert loaded.decoder_embed.bias.tolist() == list(range(0, 16, 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra.weight": torch.zeros(1)}, r'model.pt: .*another model.*: Unexpected key\(s\) .*: "extra.weight"'),
        ({"decoder_norm.bias": None}, r'Missing key\(s\) in state_dict: "decoder_norm.bias"'),
        ({"decoder_norm.bias": torch.zeros(9)}, r"size mismatch for decoder_norm.bias: .*\[9\].*\[8\]"),
        ({"decoder_norm.bias": torch.full((8,), torch.nan)}, r"decoder_norm.bias holds values that are not finite"),
        ({"epoch": 3}, r"expected a dictionary of tensors"),
    ],
)
def test_wrong_decoder(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    state = {key: value for key, value in {**decoder_weights(), **change}.items() if value is not None}
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(UserError, match=message):
        weights.convert(DECODER, SPEC, tmp_path / "model.pt", tmp_path / "decoder.safetensors", {})
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def saved(content: object, **options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()


def test_damaged_and_other_pytorch_files_are_refused_and_run_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cut_off = saved({"mean": torch.zeros(1000)})[:2000]
    # PyTorch stumbles over each in another way, as over an index or a letter in the last two.
    damaged = [b"", b"<html>no</html>", b"PK\x03\x04 cut off", b"\x80\x02}q\x00.", cut_off, b"R", b"X\1\0\0\0\xff."]
    for content in (*damaged, saved(torch.zeros(3)), saved({"mean": Exploit()})):
        Path("model.pt").write_bytes(content)
        with pytest.raises(UserError, match=r"^model.pt: .*(plain tensors|dictionary of tensors|another model)"):
            weights.convert(STATISTICS, ENCODING, Path("model.pt"), Path("out.safetensors"), {})
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


@pytest.mark.parametrize("key", [None, "model", "ema"])
@pytest.mark.parametrize("tables", [True, False])
@pytest.mark.parametrize("denoiser", [DIT_TINY, DIT_DH_TINY])
def test_denoiser_is_converted(tmp_path: Path, key: str | None, tables: bool, denoiser: Dit | DitDh) -> None:
    model = ModelSpec(denoiser=denoiser, registers=4, channels=6, grid=2, classes=3)
    state = build_denoiser(model).state_dict()
    given = {name: value for name, value in state.items() if tables or not name.endswith(weights.TABLES)}
    assert (len(given) == len(state)) is tables
    content = {"step": 3, "model": {}, key: given} if key else given
    torch.save(content, tmp_path / "ema.pt")
    weights.convert(DENOISER, model, tmp_path / "ema.pt", tmp_path / "ema.safetensors", {"artifact": "x"})
    loaded = load_denoiser(model, tmp_path / "ema.safetensors", torch.device("cpu")).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())
    del given["t_embedder.W"]
    torch.save(content, tmp_path / "ema.pt")
    with pytest.raises(UserError, match=r'ema.pt: .*Missing key\(s\) in state_dict: "t_embedder.W"'):
        weights.convert(DENOISER, model, tmp_path / "ema.pt", tmp_path / "ema.safetensors", {})


REFERENCE = configuration("profiles/reference-weights/config-overlay.yaml")
DINO = REFERENCE.autoencoder("dinov2-b-registers", "none")
DIT, DIT_DH = "stage2/DiT-XL_SigLIP2-B", "stage2/DiTDH-XL_SigLIP2-B"


@pytest.mark.parametrize(
    ("entry", "spec"),
    [
        ("decoder/ViTXL_hidden768", REFERENCE.autoencoder("siglip2-b", "none")),
        ("decoder/ViTXL_hidden1152", REFERENCE.autoencoder("siglip2-so400m", "none")),
        ("decoder/ViTXL_hidden768", DINO),
        (f"{DIT}_data_lognormal", REFERENCE.model("reference-siglip2b")),
        (f"{DIT}_tt_reg_data_lognormal-in_context_36", REFERENCE.model("reference-siglip2b-registers")),
        (f"{DIT}_data_lognormal", REFERENCE.model("rae-siglip2b")),
        # DINOv2-B's latents are as large as SigLIP2-B's.
        (f"{DIT_DH}_data_lognormal", REFERENCE.model("rae-ditdh-dinov2b")),
    ],
)
def test_published_files_of_full_size_are_taken_whole(
    tmp_path: Path, entry: str, spec: AutoencoderSpec | ModelSpec
) -> None:
    keys = json.loads((GOLDEN / "full_size_keys.json").read_text())[entry]["keys"]
    # One number in the file for every tensor of full size.
    state = {key: torch.zeros(()).expand(value["shape"]) for key, value in keys.items()}
    torch.save(state, path := tmp_path / "ema.pt")
    with torch.device("meta"):
        model = build_denoiser(spec) if isinstance(spec, ModelSpec) else build_decoder(spec)
    assign(model, weights.with_tables(spec, weights.read_checkpoint(path), path), path)
    assert all(value.device.type == "cpu" for value in model.state_dict().values())


def test_the_dinov2_decoder_draws_256_pixels_of_latents_of_224() -> None:
    assert (DINO.encoder.input_size, DINO.latent_shape) == (224, (768, 16, 16))
    with torch.device("meta"):
        assert build_decoder(DINO)(torch.zeros(1, 256, 768)).shape == (1, 3, 256, 256)


@pytest.mark.parametrize("encoder", ["siglip2-b", "dinov2-b-registers"])
def test_published_statistics_of_full_size_are_taken(tmp_path: Path, encoder: str) -> None:
    spec = REFERENCE.encoding(encoder, "none")
    torch.save({"mean": torch.ones(768, 16, 16), "var": torch.full((768, 16, 16), 4.0)}, tmp_path / "stat.pt")
    weights.convert(STATISTICS, spec, tmp_path / "stat.pt", tmp_path / "statistics.safetensors", {})
    normalise = Normaliser.load(tmp_path / "statistics.safetensors", spec.latent_shape)
    assert normalise(torch.full((1, 768, 16, 16), 3.0)).mean() == pytest.approx(1, abs=1e-5)


def test_local_weights_are_converted_or_linked(tmp_path: Path) -> None:
    case = Thing(tmp_path, "decoders/vit.safetensors", None, {"kind": "decoder"}, "model.pt")
    with pytest.raises(UserError, match="thing: nobody publishes it; give a copy of your own"):
        case.fetch(spec=SPEC)
    torch.save(decoder_weights(), tmp_path / "own.pt")
    case.fetch(tmp_path / "own.pt", SPEC)
    assert not case.output.is_symlink()
    assert read_record(case.output)["artifact"] == "thing"
    case.fetch(spec=SPEC)
    case.output.rename(tmp_path / "own.safetensors")
    case.fetch(tmp_path / "own.safetensors", SPEC)
    assert case.output.resolve() == tmp_path / "own.safetensors"
    (tmp_path / "own.safetensors").write_bytes(b"cut off")
    with pytest.raises(UserError, match=r"own.safetensors: not a safetensors file, or cut off .*give another one"):
        case.fetch(tmp_path / "own.safetensors", SPEC)
    with pytest.raises(UserError, match=rf"{tmp_path} is a folder, expected a file: model.pt, or a .safetensors file"):
        case.fetch(tmp_path, SPEC)
    with pytest.raises(UserError, match=r"--spec: content of kind 'decoder' needs the JSON of AutoencoderSpec \("):
        case.fetch(spec=ENCODING)


# Graph and arrays -----------------------------------------------------------------------------------------------------


def test_files_of_the_evaluator_are_known_by_their_names(tmp_path: Path) -> None:
    look_for_names(manifest.load().artifacts["inception-graph"].check, GOLDEN / "evaluator/stub_inception_seed0.pb")
    check, path = FileCheck(kind="arrays", names=("arr_0", "mu")), tmp_path / "reference.npz"
    np.savez(path, arr_0=np.zeros(2), mu=np.zeros(5), more=np.zeros(1))
    look_for_names(check, path)
    np.savez(path, arr_0=np.zeros(2))
    with pytest.raises(UserError, match="lacks mu"):
        look_for_names(check, path)


# Images ---------------------------------------------------------------------------------------------------------------

BOTH_SPLITS = pytest.mark.parametrize("split", ["train", "validation"])


def tarred(members: dict[str, bytes]) -> bytes:
    """Return an archive of files, and of links and a device, which are no images."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE):
            info = tarfile.TarInfo("./" if kind == tarfile.DIRTYPE else f"{TRAIN}/n01/link.JPEG")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


@BOTH_SPLITS
@pytest.mark.parametrize("nested", [False, True])
def test_archive_becomes_an_image_folder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, split: imagenet.Split, nested: bool
) -> None:
    caplog.set_level("INFO")
    (folder := tmp_path / "in").mkdir()
    hidden = (".DS_Store", "n01/._t_1.JPEG", "__MACOSX/n01/x.JPEG", "../../../../../evil")
    others = [*(f"{imagenet.FOLDERS[split]}/{name}" for name in hidden), "../evil.JPEG", "/evil.JPEG", "..\\evil"]
    members = MEMBERS | dict.fromkeys(others, b"x")
    if nested:
        members = {"LOC_val_solution.csv": SOLUTION.encode(), "imagenet_patched.tar.gz": tarred(members)}
    archive = zipped(folder / "a.zip", members)
    assert tree(imagenet.arrange(archive, split, folder / "out", COUNT)) == ARRANGED[split]
    assert caplog.messages == [f"{archive}: 4 hidden files are left out"]
    assert [path.name for path in tmp_path.iterdir()] == ["in"], "nothing leaves the folder"
    assert not any("evil" in path.name for path in tmp_path.rglob("*"))


@BOTH_SPLITS
def test_extraction_goes_on_where_it_stopped(tmp_path: Path, split: imagenet.Split) -> None:
    archive = zipped(tmp_path / "a.zip")
    # A damaged member in the middle, as after a failing disk.
    content = archive.read_bytes()
    damaged = content.replace(bytes([2]) * 50, bytes([7]) * 50)
    archive.write_bytes(damaged)
    os.utime(archive, (1, 1))
    with pytest.raises(UserError, match=r"a.zip: damaged.*_2.JPEG"):
        imagenet.arrange(archive, split, tmp_path / "out", COUNT)
    kept = list(tmp_path.rglob("*.JPEG"))
    assert len(kept) == 2
    for path in kept:
        os.utime(path, (1, 1))
    archive.write_bytes(content)
    os.utime(archive, (1, 1))
    made = imagenet.arrange(archive, split, tmp_path / "out", COUNT)
    assert tree(made) == ARRANGED[split]
    untouched = [path.name for path in made.rglob("*.JPEG") if path.stat().st_mtime == 1]
    assert sorted(untouched) == sorted(path.name for path in kept)


@BOTH_SPLITS
@pytest.mark.parametrize("same_name", [True, False])
def test_another_archive_begins_anew(tmp_path: Path, split: imagenet.Split, same_name: bool) -> None:
    wrong = {name: bytes(50) if name.endswith("JPEG") else content for name, content in MEMBERS.items()}
    for number in range(4, 6):
        wrong |= {f"{TRAIN}/n01/t_{number}.JPEG": b"", f"{VALIDATION}/n01/v_{number}.JPEG": b""}
    with pytest.raises(UserError, match="holds 6 images, but"):
        imagenet.arrange(zipped(tmp_path / "a.zip", wrong), split, tmp_path / "out", COUNT)
    made = imagenet.arrange(zipped(tmp_path / ("a.zip" if same_name else "b.zip")), split, tmp_path / "out", COUNT)
    assert tree(made) == ARRANGED[split]
    assert len([*tmp_path.glob(".out.*")]) == 1


@pytest.mark.parametrize(
    ("change", "split", "message"),
    [
        ({f"{TRAIN}/n01/t_{i}.JPEG": None for i in (1, 3)}, "train", r"a.zip: holds 1 classes .* configuration says 2"),
        ({f"{TRAIN}/n01/t_3.JPEG": None}, "train", "holds 3 images, but the configuration says 4"),
        ({f"{TRAIN}/t_3.JPEG": b"x"}, "train", "unexpected place in the archive"),
        ({f"{VALIDATION}/v_9.JPEG": b"x"}, "validation", "does not say which class v_9.JPEG shows"),
        ({"LOC_val_solution.csv": None}, "validation", "expected the columns ImageId,PredictionString"),
        ({"LOC_val_solution.csv": b"a,b\n1,2\n"}, "validation", "expected the columns ImageId,PredictionString"),
        ({"LOC_val_solution.csv": SOLUTION.replace("n0", "../n0").encode()}, "validation", "'../n00' is not a plain"),
        (dict.fromkeys((name for name in MEMBERS if TRAIN in name), None), "train", r"per class \(there is none"),
    ],
)
def test_wrong_archive(tmp_path: Path, change: dict[str, Any], split: imagenet.Split, message: str) -> None:
    members = {name: content for name, content in {**MEMBERS, **change}.items() if content is not None}
    with pytest.raises(UserError, match=message):
        imagenet.arrange(zipped(tmp_path / "a.zip", members), split, tmp_path / "out", COUNT)
    assert not (tmp_path / "out").exists()


def test_archive_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{TRAIN}/n00/t_0.JPEG", bytes(range(256)))
    deflated = path.read_bytes()
    start = deflated.index(b".JPEG") + 5
    nested = tarred({f"{TRAIN}/n00/t_0.JPEG": np.random.default_rng(0).bytes(100_000)})
    says_encrypted = zipped(path).read_bytes().replace(b"PK\1\2\x14\3\x14\0\0", b"PK\1\2\x14\3\x14\0\1")
    for content, reason in (
        (deflated[:start] + b"\xff" * 20 + deflated[start + 20 :], "Error -3 while decompressing"),
        (b"<html>", "File is not a zip file"),
        (says_encrypted, "is encrypted, password required"),
        (zipped(path, {"a.tar.gz": nested[:50_000]}).read_bytes(), ""),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"a.zip: damaged, or not the competition's zip \(.*{reason}"):
            imagenet.arrange(path, "train", tmp_path / "out", COUNT)


@pytest.fixture
def own_images(tmp_path: Path) -> Path:
    """The competition's archive, extracted by the user."""
    with zipfile.ZipFile(zipped(tmp_path / "a.zip")) as archive:
        archive.extractall(tmp_path / "own")
    return tmp_path / "own"


@BOTH_SPLITS
def test_extracted_archive_is_linked(tmp_path: Path, own_images: Path, split: str) -> None:
    output = images_of(tmp_path, split).fetch(own_images)
    assert tree(output.resolve()) == ARRANGED[split]
    images_there = [path for path in output.resolve().rglob("*") if path.suffix == ".JPEG"]
    assert all(own_images in path.resolve().parents for path in images_there), "nothing is copied"


@pytest.mark.parametrize("sorted_into_classes", [True, False])
def test_validation_images_as_people_have_them(tmp_path: Path, own_images: Path, sorted_into_classes: bool) -> None:
    if sorted_into_classes:
        for place, content in ARRANGED["validation"].items():
            (own_images / VALIDATION / place).parent.mkdir(exist_ok=True)
            (own_images / VALIDATION / place).write_bytes(content)
            (own_images / VALIDATION / Path(place).name).unlink()
    else:
        solution = own_images / "LOC_val_solution.csv"
        solution.write_bytes(b"\xef\xbb\xbf" + solution.read_bytes().replace(b"\n", b"\r\n"))
    assert tree(images_of(tmp_path, "validation").fetch(own_images)) == ARRANGED["validation"]


def test_image_folder_is_linked(tmp_path: Path, own_images: Path) -> None:
    case = images_of(tmp_path, "train")
    case.output.mkdir(parents=True)
    assert case.fetch(own_images / TRAIN).resolve() == own_images / TRAIN
    with pytest.raises(UserError, match=r"holds 2 classes \(n00 to n01\), but the configuration says 3"):
        case.fetch(own_images / TRAIN, ImageCount(images=6, classes=3))
