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
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from dsr.analysis.maps import OUTPUT, TokenMaps
from dsr.base.errors import UserError
from dsr.base.files import write_json
from dsr.commands.figure import KINDS, Kind, draw
from dsr.config.load import Config, load
from dsr.data.npz import write_images
from dsr.report.entries import Entries, Entry
from dsr.report.figures.common import FigureInput, style
from dsr.report.figures.curves import epoch_reaching, read_curves, read_steps, registers_alone
from dsr.report.figures.maps import Columns, choose_columns
from dsr.report.figures.samples import choose_samples, read_chosen
from dsr.report.provenance import Times, write_provenance
from dsr.report.render import markdown, page
from dsr.report.table import TableInput
from tests.configuration import DEMO, ROOT, configuration, record, scored

# Provenance


def write_benchmark(folder: Path, job: str, *seconds: float) -> str:
    path = folder / f"{job}.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("s\th:m:s\n" + "".join(f"{value}\t-\n" for value in seconds), encoding="utf-8")
    return job


def provenance(config: Config, folder: Path, *entries: Entry, **known: Any) -> tuple[dict[str, Any], str]:
    """Return the record as data and as text; known are times and records."""
    times = Times.model_validate_json(json.dumps({"folder": folder, "jobs": {}, "records": {}, **known}, default=str))
    files = [folder / f"record.{kind}" for kind in ("json", "md", "html")]
    write_provenance(config, Entries(entries), folder, times, (ROOT / "envs/tensorflow.yaml",), *files)
    return json.loads(files[0].read_text()), files[1].read_text()


def test_provenance_outside_git_and_in_it(config: Config, tmp_path: Path) -> None:
    jobs = {"train": [write_benchmark(tmp_path, "train/a", 3600.5, 59.5)], "sample": ["sample/missing"]}
    record, text = provenance(config, tmp_path, jobs={"a": jobs})
    assert record["code"] == {"commit": None, "dirty": False}
    assert record["wall_seconds"] == {"train/a": 3660.0}
    assert set(record["rows"]) == set(config.rows)
    assert record["hardware"]["cores"] >= 1
    assert any(line.startswith("tensorflow") for line in record["pinned"])
    assert "not in a git checkout" in text
    assert "1:01:00" in text
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for arguments in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "start"]):
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True)
    record, text = provenance(config, tmp_path)
    assert (len(record["code"]["commit"]), record["code"]["dirty"]) == (40, True)
    assert "with uncommitted changes" in text


def test_a_row_counts_the_gpus_that_its_jobs_hold(config: Config, tmp_path: Path) -> None:
    record = tmp_path / "metrics.jsonl"
    line = {"step": 100, "steps": 100, "images_per_second": 1024.0, "restart": 0}
    record.write_text("".join(json.dumps(line | {"restart": restart}) + "\n" for restart in (0, 1)), encoding="utf-8")
    jobs = {
        "train": [write_benchmark(tmp_path, "train/a-80", 150.0)],
        "sample": [write_benchmark(tmp_path, f"sample/{images}", 1800.0) for images in ("a-80", "a-sweep/w1.5-t0-1")],
        "evaluate": [write_benchmark(tmp_path, f"evaluate/a-80{reference}", 360.0) for reference in ("", "-train")],
    }
    encoder = {"statistics": [write_benchmark(tmp_path, "statistics/siglip2-b-none", 9.0)]}
    records = {"dit-siglip2b": record, "dit-so400m": tmp_path / "missing.jsonl"}
    jobs = {"siglip2-b-none": encoder, "dit-siglip2b": jobs}
    found, _ = provenance(config, tmp_path, jobs=jobs, records=records)
    assert len(found["wall_seconds"]) == 6
    assert set(found["row_times"]) == {"dit-siglip2b"}
    row = found["row_times"]["dit-siglip2b"]
    assert row["train"] == pytest.approx(200.0)  # two attempts of 100 s
    assert row["gpu_hours"] == pytest.approx((200 + 3600) * 8 / 3600 + 720 / 3600)


# Figures


def write_maps(path: Path, *, blocks: int = 3, times: tuple[float, ...] = (0.1, 0.5), registers: int = 0) -> Path:
    random = np.random.default_rng(blocks)
    shape = (2, len(times), blocks + 1, 4, 4)
    norms, components, attention = (random.uniform(low, high, shape) for low, high in ((1, 2), (-1, 1), (0.01, 0.05)))
    norms[..., 1, 2], attention[:, :, -1] = 20.0, np.nan
    TokenMaps(
        indices=np.array([7, 3]),
        images=random.integers(0, 256, (2, 16, 16, 3), dtype=np.uint8),
        times=np.array(times, np.float32),
        layers=np.array([*map(str, range(1, blocks + 1)), OUTPUT]),
        norms=norms,
        components=components,
        explained=np.full(shape[:3], 0.5),
        attention=attention,
        register_attention=np.where(np.isnan(attention[..., 0, 0]), np.nan, 0.3 * (registers > 0)),
        register_norms=np.ones((*shape[:3], registers)),
        decoded=random.integers(0, 256, (2, len(times), 16, 16, 3), dtype=np.uint8),
    ).save(path, Entry())
    return path


def entries_of(kind: str, folder: Path) -> tuple[Entry, ...]:
    one, other = "dit-siglip2b", "dit-siglip2b-dsr"
    if kind in ("averages", "fid"):
        known: list[tuple[float, str, int, float | None]] = [(5.9, one, 80, None), (3.9, one, 800, None)]
        known += [(6.1, one, 80, 0.9995), (3.8, one, 800, 0.9995)] if kind == "averages" else [(4.6, other, 80, None)]
        entries = [scored(folder / f"{fid}.json", fid, row, epoch, decay=decay) for fid, row, epoch, decay in known]
        return *entries, entries[-1].model_copy(update={"epoch": 800, "metrics": folder / "missing.json"})
    if kind == "training":
        lines = [{"step": step, "loss": 1 / step, "grad_norm": 2 / step, "restart": 0} for step in (100, 200, 300)]
        lines.append(lines[1] | {"loss": 0.5, "restart": 1})
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / "metrics.jsonl").write_text(text, encoding="utf-8")
        return tuple(Entry(row=row, epoch=80, record=folder / "metrics.jsonl") for row in (one, other))
    if kind in ("samples", "reconstruction"):
        for name in ("a", "b"):
            write_images(folder / f"{name}.npz", [np.zeros((20, 8, 8, 3), np.uint8)], 20, (8, 8, 3))
        if kind == "reconstruction":
            originals = Entry(samples=folder / "a.npz")
            return originals, Entry(encoder="siglip2-so400m", ttr="recursive", samples=folder / "b.npz")
        return tuple(Entry(row=name, epoch=80, samples=folder / f"{name}.npz") for name in ("a", "b"))
    made: dict[str, dict[str, Any]] = {"a": {}, "b": {"registers": 4}, "deeper": {"blocks": 5}}
    return maps_of(folder, made)[: 1 if kind == "times" else 3]


def maps_of(folder: Path, rows: dict[str, dict[str, Any]]) -> tuple[Entry, ...]:
    """Write the maps of rows, each with these options."""
    made = {row: write_maps(folder / f"{row}.npz", **options) for row, options in rows.items()}
    return tuple(Entry(row=row, epoch=800, maps=path) for row, path in made.items())


def figure_of(kind: Kind, config: Config, *entries: Entry, image: int | None = None) -> Figure:
    with style():
        figure = KINDS[kind](FigureInput(config, entries, image))
        figure.draw_without_rendering()
        return figure


def columns_of(config: Config, *entries: Entry) -> Columns:
    given = FigureInput(config, entries)
    return choose_columns(given, given.maps())


def words_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text)]


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_texts_of_no_kind_touch(kind: Kind, raw: dict[str, Any], tmp_path: Path) -> None:
    raw["figures"]["grid"] = 9
    config = load(raw)
    config = config.model_copy(update={"data": config.data.model_copy(update={"classes": 10})})
    figure = figure_of(kind, config, *entries_of(kind, tmp_path))
    with style():
        both = [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
        ticks = {label for axis in both for label in axis.get_ticklabels(which="both")}
        texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text() and text not in ticks]
        boxes = [text.get_window_extent() for text in texts]
    for number, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[number + 1 :])


def test_figures_and_provenance_of_other_settings_are_refused(config: Config, tmp_path: Path) -> None:
    write_json(tmp_path / "samples.json", {})
    encoder = write_maps(tmp_path / "encoder.npz", times=(0.0,))
    entries = {
        "maps.npz.*images: ": Entry(row="dit-siglip2b", epoch=80, maps=write_maps(tmp_path / "maps.npz")),
        "encoder.npz.*images: ": Entry(encoder="siglip2-b", ttr="single", maps=encoder),
        "samples.json.*steps: 50 -> 9": Entry(row="dit-siglip2b", epoch=80, samples=tmp_path / "samples.npz"),
    }
    record(config, *entries.values())
    Entries(tuple(entries.values())).require(config)
    other = configuration(figures={"images": [3, 7]}, sampling={"steps": 9})
    for said, entry in entries.items():
        with pytest.raises(UserError, match=said):
            draw("norms", other, Entries((entry,)), tmp_path / "figure.png", tmp_path / "figure.svg")
        with pytest.raises(UserError, match=said):
            provenance(other, tmp_path, entry)


@pytest.mark.parametrize("kind", ["norms", "attention", "outliers", "components"])
def test_an_encoder_has_one_time(kind: Kind, config: Config, tmp_path: Path) -> None:
    path = write_maps(tmp_path / "maps.npz", times=(0.0,))
    entries = (Entry(encoder="siglip2-b", maps=path), Entry(encoder="siglip2-b", ttr="single", maps=path))
    words = " ".join(words_of(figure_of(kind, config, *entries))).replace("\n", " ")
    assert "in the encoder" in words
    assert "siglip2-b + test-time register" in words
    assert "t = " not in words


def test_time_and_image_can_be_chosen(raw: dict[str, Any], tmp_path: Path) -> None:
    entries = entries_of("norms", tmp_path)
    early, other = (load({**raw, "figures": {**raw["figures"], "times": [time]}}) for time in (0.1, 0.2))
    words = " ".join(words_of(figure_of("norms", early, *entries, image=3))).replace("\n", " ")
    assert "validation image 3 · t = 0.1" in words
    for config, image, message in ((other, 3, "time 0.2"), (early, 1, "image 1")):
        with pytest.raises(UserError, match=message):
            figure_of("norms", config, *entries, image=image)


def test_figures_have_the_papers_layers_or_equal_shares_of_the_depth(config: Config, tmp_path: Path) -> None:
    entries = maps_of(tmp_path, {"dit-siglip2b": {"blocks": 28}, "ditdh-siglip2b": {"blocks": 30}})
    shown = [f"block {block}" for block in (3, 13, 21, 25, 26, 27)] + [OUTPUT]
    assert columns_of(config, *entries).headings == shown
    outliers = figure_of("outliers", config, *entries).axes[0]
    assert [label.get_text() for label in outliers.get_xticklabels()] == shown
    encoder = Entry(encoder="deep", maps=write_maps(tmp_path / "encoder.npz", blocks=28, times=(0.0,)))
    assert columns_of(config, encoder).headings[0] == "block 5"
    columns = columns_of(config, *maps_of(tmp_path, {"a": {"blocks": 6}, "b": {"blocks": 3}}))
    assert columns.headings == ["depth 1/3", "depth 2/3", "last block", OUTPUT]
    assert columns.layers == {"a": ["2", "4", "6", OUTPUT], "b": ["1", "2", "3", OUTPUT]}


def test_the_epoch_is_said_once_or_beside_every_row(config: Config) -> None:
    late, early, same = (Entry(row=row, epoch=epoch) for row, epoch in (("a", 800), ("b", 80), ("c", 800)))
    both, one = FigureInput(config, (late, early)), FigureInput(config, (late, same))
    assert (both.subtitle, both.labels) == ([config.name], ["a, epoch 800", "b, epoch 80"])
    assert (one.subtitle, one.labels) == ([config.name, "epoch 800"], ["a", "c"])


def test_the_epoch_to_draw_can_be_chosen(raw: dict[str, Any]) -> None:
    config = configuration("profiles/reference-weights/config-overlay.yaml")
    late, early, *_ = (row for row in config.rows if row not in raw["rows"])
    assert [config.drawn_epoch(row) for row in (late, early, "dit-siglip2b")] == [800, 80, 800]
    assert load({**raw, "figures": {**raw["figures"], "epoch": 80}}).drawn_epoch("dit-siglip2b") == 80


def test_colours_of_norms_mean_the_same_in_every_figure(config: Config, tmp_path: Path) -> None:
    one, other = entries = maps_of(tmp_path, {"a": {}, "b": {}})
    louder = TokenMaps.load(tmp_path / "a.npz")
    louder.norms[..., 0, 0] *= 50
    louder.save(tmp_path / "b.npz", Entry())
    figures = [figure_of("times", config, one), figure_of("times", config, other), figure_of("norms", config, *entries)]
    assert len({figure.axes[-1].get_ylim() for figure in figures}) == 1


def test_figures_are_reproducible(config: Config, tmp_path: Path) -> None:
    entries = Entries(entries_of("training", tmp_path))
    for name in ("first", "second"):
        draw("training", config, entries, tmp_path / f"{name}.png", tmp_path / f"{name}.svg")
    for kind in ("png", "svg"):
        assert (tmp_path / f"first.{kind}").read_bytes() == (tmp_path / f"second.{kind}").read_bytes()
    assert min(Image.open(tmp_path / "first.png").size) > 200
    assert ElementTree.parse(tmp_path / "first.svg").getroot().tag.endswith("svg")


def test_epoch_reaching_interpolates_in_the_logarithm() -> None:
    curve = [(100, 4.0), (400, 3.0)]
    assert epoch_reaching(curve, 3.5) == (pytest.approx(200.0), (100, 400))
    assert epoch_reaching(curve, 3.0) == (400.0, None)
    assert epoch_reaching(curve, 5.0) == (100.0, None)
    assert epoch_reaching(curve, 2.0) is None


def test_curves_of_fid_leave_out_what_is_missing(config: Config, tmp_path: Path) -> None:
    entries = entries_of("fid", tmp_path)
    assert read_curves(entries) == {"dit-siglip2b": [(80, 5.9), (800, 3.9)], "dit-siglip2b-dsr": [(80, 4.6)]}
    with pytest.raises(UserError, match="none of the metrics files exists"):
        figure_of("fid", configuration(DEMO), entries[-1])


def test_steps_that_were_done_again_count_once(config: Config, tmp_path: Path) -> None:
    (entry, other) = entries_of("training", tmp_path)
    assert entry.record is not None
    losses = {step: line["loss"] for step, line in read_steps(entry.record).items()}
    assert losses == {100: 0.01, 200: 0.5, 300: pytest.approx(1 / 300)}
    missing = other.model_copy(update={"record": tmp_path / "missing.jsonl"})
    assert len(figure_of("training", config, entry, missing).axes[0].lines) == 1
    with pytest.raises(UserError, match="no row has been trained yet"):
        figure_of("training", config, missing)


def test_the_arrow_compares_rows_that_differ_in_registers_only(config: Config, tmp_path: Path) -> None:
    assert registers_alone(config) == ("dit-siglip2b", "dit-siglip2b-dsr")
    last = scored(tmp_path / "last.json", 3.26, "dit-siglip2b-dsr", 800)
    words = words_of(figure_of("fid", config, *entries_of("fid", tmp_path)[:-1], last))
    assert any("(measured)" in text and "interpolated between epochs 80 and 800" in text for text in words)


def test_samples_are_chosen_by_class_and_not_by_looks(tmp_path: Path) -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(4), 5))
    chosen = choose_samples(labels, 9)
    assert labels[chosen].tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3]
    assert chosen[:3].tolist() == np.flatnonzero(labels == 0)[:3].tolist()
    assert labels[choose_samples(labels, 2)].tolist() == [0, 3]
    images = np.random.default_rng(0).integers(0, 256, (200, 4, 4, 3), dtype=np.uint8)
    write_images(tmp_path / "samples.npz", [images], 200, (4, 4, 3))
    assert np.array_equal(read_chosen(tmp_path / "samples.npz", np.array([150, 3])), images[[150, 3]])


# Captions

STRICT = {"halt_level": 2, "report_level": 2}


@pytest.mark.parametrize("caption", sorted((ROOT / "docs/captions").glob("*.rst")), ids=lambda path: path.stem)
@pytest.mark.parametrize(
    ("kind", "source"), [("norms", "kaggle"), ("components", "digits"), ("attention", "kaggle"), ("outliers", "digits")]
)
def test_captions_are_valid(caption: Path, kind: str, source: str, raw: dict[str, Any]) -> None:
    template = jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(caption.read_text(encoding="utf-8"))
    raw["data"]["source"] = source
    job = {"wildcards": SimpleNamespace(row="dit-siglip2b", kind=kind)}
    job["params"] = SimpleNamespace(options=["--table", "scaling"])
    text = template.render(snakemake=SimpleNamespace(config={**raw, "failed": "- train"}, **job), files=[])
    docutils.core.publish_string(text, writer="html5", settings_overrides=STRICT)


def test_the_report_opens_with_the_table(raw: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "table1.html").write_text('<p class="a">5 < 6\n\n<b>FID</b></p>\n', encoding="utf-8")
    files = [SimpleNamespace(path=tmp_path / name) for name in ("fid.png", "table1.html")]
    source = (ROOT / "docs/captions/workflow.rst").read_text(encoding="utf-8")
    text = jinja2.Environment().from_string(source).render(snakemake=SimpleNamespace(config=raw), files=files)
    parts = docutils.core.publish_parts(text, writer="html5", settings_overrides=STRICT)
    assert '<iframe class="opening" title="Table 1" srcdoc="&lt;p class=&#34;a&#34;' in parts["html_body"]
    assert parts["html_body"].count("<iframe") == 1


# Pages


def test_a_page_holds_the_table_and_loads_nothing(config: Config, tmp_path: Path) -> None:
    given = TableInput(config, (scored(tmp_path / "m.json", 5.91),))
    html = page(markdown(given) + "\n<script>bad()</script>\n")
    assert html.count("<table>") == 2  # and whether it is on track
    lines = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line) for line in html.split("<tr>")[1:]]
    assert lines[0][:5] == ["Row", "Epochs", "Guidance", "Value", "FID"]
    assert lines[2][3:5] == ["measured", "5.91"]
    assert "<title>Taming Outlier Tokens" in html
    assert "&lt;script&gt;" in html
    assert "http" not in html.partition("<body>")[0]
    assert "src=" not in html
