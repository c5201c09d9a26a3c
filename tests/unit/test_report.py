from __future__ import annotations

import json
import re
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import docutils.core
import jinja2
import numpy as np
import pytest
import yaml
from matplotlib.text import Text
from PIL import Image

from dsr.analysis.maps import OUTPUT, TokenMaps
from dsr.base.errors import UserError
from dsr.base.files import read_json, write_json
from dsr.commands import figure as figure_command
from dsr.commands import provenance as provenance_command
from dsr.config.load import Config, load
from dsr.data.npz import write_images
from dsr.report import specs
from dsr.report.figures.choose import choose_columns
from dsr.report.figures.fid import epoch_reaching, read_curves
from dsr.report.figures.kinds import KINDS, draw
from dsr.report.figures.samples import choose_samples, read_chosen
from dsr.report.figures.style import style
from dsr.report.hours import row_times
from dsr.report.page import page
from dsr.report.provenance import markdown as provenance_markdown
from dsr.report.provenance import provenance
from dsr.report.published import Published
from dsr.report.render import markdown
from dsr.report.table import Entry, collect

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def raw() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    return content


@pytest.fixture
def config(raw: dict[str, Any]) -> Config:
    return load(raw)


@pytest.fixture
def spec(config: Config) -> specs.TableSpec:
    return specs.table(config)


def write_metrics(path: Path, fid: float) -> Path:
    values = {"fid": fid, "sfid": 6.0, "inception_score": 155.0, "precision": 0.69, "recall": 0.561}
    values |= {"precision_f32": 0.691, "recall_f32": 0.5615}
    reference = {"name": "validation", "images": 50000, "sha256": "0"}
    write_json(path, {**values, "images": 50000, "reference": reference, "samples": {"sha256": "1"}})
    return path


# Provenance


def test_provenance_outside_git(config: Config, tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text("s\th:m:s\n3600.5\t1:00:00\n59.5\t0:00:59\n")
    benchmarks = {"train": tmp_path / "train.tsv", "sample": tmp_path / "missing.tsv"}
    record = provenance(config, tmp_path, benchmarks, [ROOT / "envs/tensorflow.yaml"])
    assert record["code"] == {"commit": None, "dirty": False}
    assert record["wall_seconds"] == {"train": 3660.0}
    assert set(record["rows"]) == set(config.rows)
    assert record["hardware"]["cores"] >= 1
    assert any(line.startswith("tensorflow==") for line in record["pinned"])
    text = provenance_markdown(json.loads(json.dumps(record)))
    assert "not in a git checkout" in text
    assert "1:01:00" in text


def test_provenance_command_in_git(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for arguments in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "start"]):
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True)
    (tmp_path / "new.py").touch()
    output = [tmp_path / "p.json", tmp_path / "p.md"]
    arguments = ["--spec", config.model_dump_json(), "--source", tmp_path, "--json", output[0], "--markdown", output[1]]
    monkeypatch.setattr("sys.argv", ["provenance", *map(str, arguments)])
    provenance_command.main()
    code = read_json(output[0])["code"]
    assert len(code["commit"]) == 40
    assert code["dirty"]
    assert "with uncommitted changes" in output[1].read_text()


# Figures


def write_maps(path: Path, *, blocks: int = 3, times: tuple[float, ...] = (0.1, 0.5), registers: int = 0) -> Path:
    generator = np.random.default_rng(blocks)
    shape = (2, len(times), blocks + 1, 4, 4)
    norms = generator.uniform(1, 2, shape)
    norms[..., 1, 2] = 20.0
    attention = generator.uniform(0.01, 0.05, shape)
    attention[:, :, -1] = np.nan
    TokenMaps(
        indices=np.array([7, 3]),
        images=generator.integers(0, 256, (2, 16, 16, 3), dtype=np.uint8),
        times=np.array(times, np.float32),
        layers=np.array([*map(str, range(1, blocks + 1)), OUTPUT]),
        norms=norms.astype(np.float32),
        components=generator.normal(size=shape).astype(np.float32),
        explained=np.full(shape[:3], 0.5, np.float32),
        attention=attention.astype(np.float32),
        register_attention=np.where(np.isnan(attention[..., 0, 0]), np.nan, 0.3 * (registers > 0)).astype(np.float32),
        register_norms=np.ones((*shape[:3], registers), np.float32),
        decoded=generator.integers(0, 256, (2, len(times), 16, 16, 3), dtype=np.uint8),
    ).save(path)
    return path


def inputs_of(kind: str, folder: Path) -> dict[str, Path]:
    if kind == "averages":
        fids = {"80:0.9995": 6.1, "80:0.9999": 5.9, "800:0.9995": 3.8, "800:0.9999": 3.9}
        files = {f"dit-siglip2b:{key}": write_metrics(folder / f"{key}.json", fid) for key, fid in fids.items()}
        return files | {"dit-siglip2b:800:0.999": folder / "missing.json"}
    if kind == "fid":
        return {
            "dit-siglip2b:80": write_metrics(folder / "a.json", 5.9),
            "dit-siglip2b:800": write_metrics(folder / "b.json", 3.9),
            "dit-siglip2b-dsr:80": write_metrics(folder / "c.json", 4.6),
            "dit-siglip2b-dsr:800": folder / "missing.json",
        }
    if kind == "samples":
        for name in ("a", "b"):
            write_images(folder / f"{name}.npz", [np.zeros((20, 8, 8, 3), np.uint8)], 20, (8, 8, 3))
        return {name: folder / f"{name}.npz" for name in ("a", "b")}
    return {
        "a": write_maps(folder / "a.npz"),
        "b": write_maps(folder / "b.npz", registers=4),
        "deeper": write_maps(folder / "deeper.npz", blocks=5),
    }


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_is_drawn_inside_the_figure(kind: str, config: Config, tmp_path: Path) -> None:
    spec = specs.figure(config, ["dit-siglip2b"]).model_copy(update={"classes": 10, "images": 9})
    inputs = inputs_of(kind, tmp_path)
    draw(kind, spec, inputs, tmp_path / "figure.png", tmp_path / "figure.svg")
    assert min(Image.open(tmp_path / "figure.png").size) > 200
    assert ElementTree.parse(tmp_path / "figure.svg").getroot().tag.endswith("svg")
    with style():
        figure = KINDS[kind](spec, inputs)
        figure.draw_without_rendering()
        ticks = {
            label
            for axes in figure.axes
            for axis in (axes.xaxis, axes.yaxis)
            for label in axis.get_ticklabels(which="both")
        }
        texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text() and text not in ticks]
        boxes = [text.get_window_extent() for text in texts]
        everything = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    assert everything.x0 >= 0
    assert everything.y0 >= 0
    assert everything.x1 <= width
    assert everything.y1 <= height
    for number, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[number + 1 :])


@pytest.mark.parametrize("kind", ["norms", "attention", "outliers", "components"])
def test_an_encoder_has_one_time(kind: str, config: Config, tmp_path: Path) -> None:
    inputs = {
        "siglip2-b:none": write_maps(tmp_path / "none.npz", times=(0.0,)),
        "siglip2-b:single": write_maps(tmp_path / "single.npz", times=(0.0,)),
    }
    with style():
        figure = KINDS[kind](specs.figure(config), inputs)
        figure.draw_without_rendering()
    words = " ".join(text.get_text() for text in figure.findobj(Text)).replace("\n", " ")
    assert "in the encoder" in words
    assert "siglip2-b + test-time register" in words
    assert "t = " not in words


def test_time_and_image_can_be_chosen(config: Config, tmp_path: Path) -> None:
    spec = specs.figure(config, image=3).model_copy(update={"time": 0.1})
    inputs = inputs_of("norms", tmp_path)
    with style():
        words = [text.get_text() for text in KINDS["norms"](spec, inputs).texts]
    assert any("validation image 3 · t = 0.1" in word.replace("\n", " ") for word in words)
    for wrong, message in (({"time": 0.2}, "time 0.2"), ({"image": 1}, "image 1")):
        with style(), pytest.raises(UserError, match=message):
            KINDS["norms"](spec.model_copy(update=wrong), inputs)


def test_every_figure_of_denoisers_has_the_papers_layers(config: Config, tmp_path: Path) -> None:
    names = ["dit-siglip2b", "ditdh-siglip2b"]
    spec = specs.figure(config, names)
    depths = dict(zip(names, (28, 30), strict=True))
    inputs = {name: write_maps(tmp_path / f"{name}.npz", blocks=blocks) for name, blocks in depths.items()}
    columns = choose_columns(spec, {name: TokenMaps.load(path) for name, path in inputs.items()})
    shown = [f"block {block}" for block in (3, 13, 21, 25, 26, 27)] + [OUTPUT]
    assert columns.headings == shown
    assert columns.same
    with style():
        norms, outliers = (KINDS[kind](spec, inputs) for kind in ("norms", "outliers"))
    words = [text.get_text() for text in norms.texts]
    assert [word for word in words if word in shown] == shown
    assert [label.get_text() for label in outliers.axes[0].get_xticklabels()] == shown
    assert specs.figure(config).layers == ()


def test_the_epoch_is_said_once_or_beside_every_row(raw: dict[str, Any]) -> None:
    overlay = yaml.safe_load((ROOT / "profiles/reference-weights/config-overlay.yaml").read_text(encoding="utf-8"))
    config = load({**raw, "rows": raw["rows"] | overlay["rows"]})
    late, early = overlay["rows"]
    spec = specs.figure(config, [late, early])
    assert (spec.note, spec.labels[late], spec.labels[early]) == ("", f"{late}, epoch 800", f"{early}, epoch 80")
    assert (specs.figure(config, [late]).note, specs.figure(config, [early]).note) == ("epoch 800", "epoch 80")
    same = specs.figure(config, [late, "dit-siglip2b"])
    assert (same.note, late in same.labels) == ("epoch 800", False)
    chosen = load({**raw, "figures": {**raw["figures"], "epoch": 80}})
    assert specs.figure(chosen, ["dit-siglip2b"]).note == "epoch 80"


def test_colours_of_norms_mean_the_same_in_every_figure(config: Config, tmp_path: Path) -> None:
    path = write_maps(tmp_path / "a.npz")
    louder = TokenMaps.load(path)
    louder.norms[..., 0, 0] *= 50
    louder.save(tmp_path / "b.npz")
    inputs = {"a": path, "b": tmp_path / "b.npz"}
    with style():
        figures = [KINDS["times"](specs.figure(config), {name: file}) for name, file in inputs.items()]
        figures.append(KINDS["norms"](specs.figure(config), inputs))
    bars = {figure.axes[-1].get_ylim() for figure in figures}
    assert len(bars) == 1


def test_networks_of_different_depth_are_compared_at_equal_shares_of_it(config: Config, tmp_path: Path) -> None:
    files = {
        "a": TokenMaps.load(write_maps(tmp_path / "a.npz", blocks=6)),
        "b": TokenMaps.load(write_maps(tmp_path / "b.npz", blocks=3)),
    }
    columns = choose_columns(specs.figure(config, ["dit-siglip2b"]), files)
    assert columns.headings == ["depth 1/3", "depth 2/3", "last block", OUTPUT]
    assert columns.layers == {"a": ["2", "4", "6", OUTPUT], "b": ["1", "2", "3", OUTPUT]}
    assert choose_columns(specs.figure(config), {"a": files["a"]}).headings[0] == "block 1"


def test_figures_are_reproducible(config: Config, tmp_path: Path) -> None:
    inputs = inputs_of("norms", tmp_path)
    for name in ("first", "second"):
        draw("norms", specs.figure(config), inputs, tmp_path / f"{name}.png", tmp_path / f"{name}.svg")
    for kind in ("png", "svg"):
        assert (tmp_path / f"first.{kind}").read_bytes() == (tmp_path / f"second.{kind}").read_bytes()


def test_epoch_reaching_interpolates_in_the_logarithm() -> None:
    curve = [(100, 4.0), (400, 3.0)]
    assert epoch_reaching(curve, 3.5) == (pytest.approx(200.0), (100, 400))
    assert epoch_reaching(curve, 3.0) == (400.0, None)
    assert epoch_reaching(curve, 5.0) == (100.0, None)
    assert epoch_reaching(curve, 2.0) is None


def test_published_curves_need_about_four_times_fewer_epochs() -> None:
    published = Published.read()
    epoch, value = published.chart("dit-siglip2b")[-1]
    reached = epoch_reaching(published.chart("dit-siglip2b-dsr"), value)
    assert reached is not None
    assert 3.5 < epoch / reached.epoch < 4.5


def test_curves_of_fid_leave_out_what_is_missing(config: Config, tmp_path: Path) -> None:
    inputs = inputs_of("fid", tmp_path)
    assert read_curves(inputs) == {"dit-siglip2b": [(80, 5.9), (800, 3.9)], "dit-siglip2b-dsr": [(80, 4.6)]}
    demo = specs.figure(config).model_copy(update={"published": False})
    with style(), pytest.raises(UserError, match="none of the metrics files exists"):
        KINDS["fid"](demo, {"dit-siglip2b:80": tmp_path / "missing.json"})


def test_the_arrow_says_between_which_epochs_it_is_interpolated(config: Config, tmp_path: Path) -> None:
    fids = {
        "dit-siglip2b:80": 5.89,
        "dit-siglip2b:800": 3.85,
        "dit-siglip2b-dsr:80": 4.58,
        "dit-siglip2b-dsr:800": 3.26,
    }
    inputs = {key: write_metrics(tmp_path / f"{key}.json", value) for key, value in fids.items()}
    with style():
        figure = KINDS["fid"](specs.figure(config), inputs)
    words = [text.get_text() for text in figure.findobj(Text)]
    assert any("(measured)" in text and "interpolated between epochs 80 and 800" in text for text in words)


def test_the_arrow_compares_rows_that_differ_in_registers_only(config: Config) -> None:
    spec = specs.figure(config)
    assert (spec.baseline, spec.faster) == ("dit-siglip2b", "dit-siglip2b-dsr")


def test_samples_are_chosen_by_class_and_not_by_looks(tmp_path: Path) -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(4), 5))
    chosen = choose_samples(labels, 9)
    assert labels[chosen].tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3]
    assert chosen[:3].tolist() == np.flatnonzero(labels == 0)[:3].tolist()
    assert labels[choose_samples(labels, 2)].tolist() == [0, 3]
    images = np.random.default_rng(0).integers(0, 256, (200, 4, 4, 3), dtype=np.uint8)
    write_images(tmp_path / "samples.npz", [images], 200, (4, 4, 3))
    assert np.array_equal(read_chosen(tmp_path / "samples.npz", np.array([150, 3])), images[[150, 3]])


def test_figure_command(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = [f"{key}={path}" for key, path in inputs_of("outliers", tmp_path).items()]
    arguments = ["outliers", "--spec", specs.figure(config).model_dump_json(), "--inputs", *inputs]
    monkeypatch.setattr("sys.argv", ["figure", *arguments, "--png", str(tmp_path / "o.png")])
    figure_command.main()
    assert (tmp_path / "o.png").exists()


# Captions


@pytest.mark.parametrize("caption", sorted((ROOT / "docs/captions").glob("*.rst")), ids=lambda path: path.stem)
def test_captions_are_valid_and_quote_the_configuration(caption: Path, raw: dict[str, Any]) -> None:
    source = caption.read_text(encoding="utf-8")
    template = jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(source)
    assert "snakemake.config" in source or "snakemake.wildcards" in source
    texts = set()
    for kind in ("norms", "components", "attention", "outliers"):
        for published in (True, False):
            wildcards = SimpleNamespace(row="dit-siglip2b", kind=kind, table="scaling")
            job = SimpleNamespace(config={**raw, "published": published}, wildcards=wildcards)
            text = template.render(snakemake=job, files=[])
            docutils.core.publish_string(text, writer="html5", settings_overrides={"halt_level": 2, "report_level": 2})
            texts.add(text)
    assert len(texts) == (4 if "wildcards.kind" in source else 2 if "published" in source else 1)


def test_the_report_opens_with_the_table(raw: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "table1.html").write_text('<p class="a">5 < 6\n\n<b>FID</b></p>\n', encoding="utf-8")
    files = [SimpleNamespace(path=tmp_path / name) for name in ("fid.png", "table1.html")]
    source = (ROOT / "docs/captions/workflow.rst").read_text(encoding="utf-8")
    text = jinja2.Environment().from_string(source).render(snakemake=SimpleNamespace(config=raw), files=files)
    parts = docutils.core.publish_parts(text, writer="html5", settings_overrides={"halt_level": 2, "report_level": 2})
    assert '<iframe class="opening" title="Table 1" srcdoc="&lt;p class=&#34;a&#34;' in parts["html_body"]
    assert parts["html_body"].count("<iframe") == 1


# Pages


def test_a_page_holds_the_table_and_loads_nothing(spec: specs.TableSpec, tmp_path: Path) -> None:
    metrics = {Entry("dit-siglip2b", 80, "unguided"): write_metrics(tmp_path / "metrics.json", 5.91)}
    published = Published.read()
    html = page(markdown(spec, collect(spec, metrics, {}, published), published) + "\n<script>bad()</script>\n")
    assert html.count("<table>") == 1
    lines = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line) for line in html.split("<tr>")[1:]]
    assert lines[0][:5] == ["Row", "Epochs", "Guidance", "Value", "FID"]
    assert lines[2][3:5] == ["measured", "5.91"]
    assert "<title>Taming Outlier Tokens" in html
    assert "&lt;script&gt;" in html
    assert "http" not in html.partition("<body>")[0]
    assert "src=" not in html


def test_a_row_counts_the_gpus_that_its_jobs_hold(config: Config, tmp_path: Path) -> None:
    record = tmp_path / "metrics.jsonl"
    line = {"step": 100, "steps": 100, "images_per_second": 1024.0, "restart": 0}
    record.write_text("".join(json.dumps(line | {"restart": restart}) + "\n" for restart in (0, 1)), encoding="utf-8")
    wall = {"train:dit-siglip2b:80": 150.0, "statistics:siglip2-b:none": 9.0}
    wall |= {f"sample:dit-siglip2b:80:{images}": 1800.0 for images in ("unguided-seed0", "sweep/w1.5-t0-1")}
    wall |= {f"evaluate:dit-siglip2b:80:unguided-seed0{reference}": 360.0 for reference in ("", ":train")}
    times = row_times(config, wall, {"dit-siglip2b": record, "dit-so400m": tmp_path / "missing.jsonl"})
    assert set(times) == {"dit-siglip2b"}
    assert times["dit-siglip2b"]["train"] == pytest.approx(200.0)  # two attempts of 100 s
    assert times["dit-siglip2b"]["gpu_hours"] == pytest.approx((200 + 3600) * 8 / 3600 + 720 / 3600)
