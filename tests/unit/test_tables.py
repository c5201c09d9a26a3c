"""Tables: published values, what is compared, seeds and references, and what is named by the configuration."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from dsr.base.errors import UserError
from dsr.base.files import write_json
from dsr.base.markup import pipe_table
from dsr.commands import table as table_command
from dsr.commands.keyed import keyed_paths
from dsr.config.load import Config, load
from dsr.config.sampling import Guidance
from dsr.report import specs
from dsr.report.published import METRICS, Published
from dsr.report.render import latex, markdown
from dsr.report.table import Entry, collect
from dsr.report.variants import Variant, read_fids, reference_lines, seed_lines, training_lines, with_variants

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


def write_metrics(path: Path, fid: float, constant: int = 0) -> Path:
    values = {"fid": fid, "sfid": 6.0, "inception_score": 155.0, "precision": 0.69, "recall": 0.561}
    values |= {"precision_f32": 0.691, "recall_f32": 0.5615}
    reference = {"name": "validation", "images": 50000, "sha256": "0"}
    write_json(
        path,
        {**values, "images": 50000, "reference": reference, "samples": {"sha256": "1", "constant_images": constant}},
    )
    return path


# Published values


def test_published_values_agree_across_tables_and_rows_are_the_projects(config: Config) -> None:
    published = Published.read()
    known = published.frame[published.frame["table"] != "chart"]
    for _, group in known.groupby(["row", "epochs", "setting"]):
        for metric in METRICS:
            assert group[metric].nunique() <= 1
    assert set(published.lines("main")["row"]) | {"dit-so400m-dsr"} == set(config.rows)
    assert not known.duplicated(["table", "row", "epochs", "setting"]).any()
    chart = published.frame[published.frame["table"] == "chart"]
    assert chart["source"].str.contains("chart").all()
    assert chart[["inception_score", "precision", "recall", "gflops"]].isna().all(axis=None)


def test_published_values() -> None:
    published = Published.read()
    assert published.value("dit-siglip2b-dsr", 800, "unguided", "fid") == 3.26
    assert published.value("dit-siglip2b", 800, "guided", "fid") == 3.58
    assert published.value("dit-siglip2b", 800, "guided", "recall") is None
    assert published.value("dit-so400m-dsr", 80, "unguided", "fid") is None
    assert published.value("dit-siglip2b", 40, "unguided", "fid") is None
    assert published.constant("scaling", "dit-siglip2b-dsr", 80, "unguided", "gflops") == 262.9
    assert published.constant("main", "dit-siglip2b-dsr", 80, "unguided", "gflops") is None
    assert published.constant("main", "ditdh-siglip2b", 800, "guided", "params_millions") == 839
    assert published.constant("main", "ditdh-siglip2b", 80, "unguided", "params_millions") is None
    assert published.constant("main", "dit-so400m", 80, "unguided", "params_millions") is None
    assert published.constant("a table of mine", "dit-siglip2b", 80, "unguided", "params_millions") == 676
    assert published.chart("dit-siglip2b")[0] == (40, 7.97)
    assert len(published.chart("dit-siglip2b-dsr")) == 8


# The table


@pytest.mark.parametrize(
    ("row", "trainable", "flops", "expected"),
    [
        ("dit-siglip2b", 676953216, 238121091072, ["+1", "+0.0"]),
        ("dit-siglip2b-dsr", 676953216, 262872000000, ["+1", "+0.0"]),
        ("dit-siglip2b", 675400000, 238249999999, ["-1", "+0.1"]),
    ],
)
def test_counts_are_compared_at_the_published_precision(
    config: Config, tmp_path: Path, row: str, trainable: int, flops: int, expected: list[str]
) -> None:
    write_json(tmp_path / "cost.json", {"trainable": trainable, "flops": flops})
    cells = []
    for spec in (specs.table(config), specs.comparison(config, "scaling")):
        frame = collect(spec, {}, {row: tmp_path / "cost.json"}, Published.read())
        frame = frame[(frame["row"] == row) & (frame["epoch"] == 80)]
        lines = [line.split("|") for line in markdown(spec, frame, Published.read()).splitlines() if "|" in line]
        cells.append(dict(zip((cell.strip() for cell in lines[0]), (cell.strip() for cell in lines[4]), strict=True)))
    main, scaling = cells
    assert [main["Parameters (M)"], scaling["GFLOPs"]] == expected
    assert main["GFLOPs"] == scaling["Parameters (M)"] == ""


def test_table_compares_what_is_there_and_names_what_is_not(spec: specs.TableSpec, tmp_path: Path) -> None:
    write_json(tmp_path / "cost.json", {"parameters": 677248384, "trainable": 676953216, "flops": 238121091072})
    missing = tmp_path / "rows/dit-siglip2b/epoch-800/metrics.json"
    metrics = {
        Entry("dit-siglip2b", 80, "unguided"): write_metrics(tmp_path / "metrics.json", 5.91),
        Entry("dit-siglip2b", 800, "unguided"): missing,
    }
    spec = spec.model_copy(update={"commands": {"dit-siglip2b:800:unguided": f"snakemake {missing}"}})
    published = Published.read()
    frame = collect(spec, metrics, {"dit-siglip2b": tmp_path / "cost.json"}, published)
    frame = frame[frame["setting"] == "unguided"].set_index(["row", "epoch"])
    line = frame.loc[("dit-siglip2b", 80)]
    assert line["difference_fid"] == pytest.approx(0.02)
    assert line["published_from"] == "tables"
    assert line["difference_precision"] == pytest.approx(0.004)
    assert line["measured_precision_f32"] == 0.691
    assert line["measured_gflops"] == pytest.approx(238.121091)
    assert pd.isna(line["published_gflops"])
    assert line["difference_params_millions"] == 1  # 676.95 against 676
    absent = frame.loc[("dit-siglip2b", 800)]
    assert (absent["status"], absent["run"]) == ("not run", f"snakemake {missing}")
    assert absent["published_fid"] == 3.85
    assert pd.isna(absent["measured_fid"])

    text = markdown(spec, frame.reset_index(), published)
    assert "not comparable" not in text
    assert f"`snakemake {missing}`" in text
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    assert cells[2][:6] == ["dit-siglip2b", "80", "unguided", "published", "5.89", "156.54"]
    assert cells[3][3:] == ["measured", "5.91", "155.00", "0.690", "0.561", "676.95", "238.121", "0.9999", "validation"]
    assert cells[4][3:6] == ["difference", "+0.02", "-1.54"]
    assert cells[6][3:5] == ["measured", "not run"]
    assert "49 network evaluations" in text
    assert "validation (50000 images)" in text
    assert r"\bottomrule" in latex(spec, frame.reset_index(), published)


def test_rows_with_images_of_one_colour_are_flagged(spec: specs.TableSpec, tmp_path: Path) -> None:
    metrics = {
        Entry("dit-siglip2b", 80, "unguided"): write_metrics(tmp_path / "a.json", 5.91, constant=3),
        Entry("dit-siglip2b-dsr", 80, "unguided"): write_metrics(tmp_path / "b.json", 4.58),
    }
    frame = collect(spec, metrics, {}, Published.read())
    assert frame[frame["status"] == "measured"]["constant_images"].tolist() == [3, 0]
    for text in (markdown(spec, frame, Published.read()), latex(spec, frame, Published.read())):
        assert "5.91 †" in text
        assert "4.58 †" not in text
        assert "† 3 of the 50000 images of dit-siglip2b, epoch 80, unguided, are one colour" in text
        assert text.count("one colour") == 1


def test_the_table_lists_published_rows_that_nobody_asked_to_measure(spec: specs.TableSpec) -> None:
    frame = collect(spec, {}, {}, Published.read())
    assert len(frame) == 7 + 4  # four of them with guidance
    assert (frame["status"] == "not run").all()
    assert (frame["run"] == "").all()


def test_guided_settings_meet_the_published_guided_fid(spec: specs.TableSpec, tmp_path: Path) -> None:
    settings = {"unguided": Guidance(), "w15": Guidance(scale=1.5, interval=(0.1, 0.9))}
    guided = spec.model_copy(update={"settings": settings})
    path = write_metrics(tmp_path / "metrics.json", 3.5)
    frame = collect(guided, {Entry("dit-siglip2b", 800, "w15"): path}, {}, Published.read())
    line = frame[frame["status"] == "measured"].iloc[0]
    assert line["difference_fid"] == pytest.approx(-0.08)
    assert pd.isna(line["published_recall"])
    assert "w15 has scale 1.5 for t in [0.1, 0.9]" in markdown(guided, frame, Published.read())


def test_at_demo_scale_published_values_stand_apart(spec: specs.TableSpec, tmp_path: Path) -> None:
    demo = spec.model_copy(update={"published": False, "source": "digits", "name": "Digits", "epochs": (5, 10)})
    metrics = {Entry("dit-siglip2b", 10, "unguided"): write_metrics(tmp_path / "metrics.json", 33.25)}
    published = Published.read()
    frame = collect(demo, metrics, {}, published)
    text = markdown(demo, frame, published)
    own, apart = text.split("## Published (ImageNet-256, not comparable)")
    assert "handwritten digits" in own
    assert "33.25" in own
    for number in ("5.89", "3.26", "156.54", "arXiv"):
        assert number not in own
        assert number not in latex(demo, frame, published)
    assert "33.25" not in apart
    assert "5.89" in apart
    assert "arXiv" not in apart


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (Entry("dit-x", 80, "unguided"), "row 'dit-x'"),
        (Entry("dit-siglip2b", 79, "unguided"), "epoch '79'"),
        (Entry("dit-siglip2b", 80, "strong"), "guidance setting 'strong'"),
    ],
)
def test_metrics_of_unknown_rows_are_refused(spec: specs.TableSpec, entry: Entry, message: str) -> None:
    with pytest.raises(UserError, match=message):
        collect(spec, {entry: Path("metrics.json")}, {}, Published.read())


def test_incomplete_metrics_are_refused(spec: specs.TableSpec, tmp_path: Path) -> None:
    write_json(tmp_path / "metrics.json", {"fid": 1.0})
    with pytest.raises(UserError, match=r"metrics.json: no inception_score, precision, recall"):
        collect(spec, {Entry("dit-siglip2b", 80, "unguided"): tmp_path / "metrics.json"}, {}, Published.read())


def test_arguments_with_keys() -> None:
    assert keyed_paths(["a=x/y=z", "b=c"]) == {"a": Path("x/y=z"), "b": Path("c")}
    assert Entry.parse("row:80") == ("row", 80, "unguided")
    assert Entry.parse("row:80:w15") == ("row", 80, "w15")
    for wrong in ("row", "row:eighty", ":80", "a:1:b:c"):
        with pytest.raises(UserError, match="row:epoch"):
            Entry.parse(wrong)
    with pytest.raises(UserError, match="key=path"):
        keyed_paths(["a"])
    with pytest.raises(UserError, match="given twice"):
        keyed_paths(["a=1", "a=2"])


def test_markdown_tables_are_aligned() -> None:
    lines = pipe_table(["Name", "FID"], [["a|b", "1.50"], ["", "10.25"]], ["FID"]).splitlines()
    assert lines[1] == "| ---- | ----: |"
    assert lines[2] == r"| a\|b |  1.50 |"
    assert len({len(line) for line in lines}) == 1


def test_table_command_needs_neither_torch_nor_tensorflow(spec: specs.TableSpec, tmp_path: Path) -> None:
    metrics = write_metrics(tmp_path / "metrics.json", 5.9)
    arguments = ["--spec", spec.model_dump_json(), "--metrics", f"dit-siglip2b:80={metrics}"]
    arguments += ["--markdown", str(tmp_path / "t.md"), "--csv", str(tmp_path / "t.csv")]
    code = (
        "import sys; from dsr.commands import table; table.main();"
        "print([name for name in ('torch', 'tensorflow') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
    assert pd.read_csv(tmp_path / "t.csv").loc[0, "measured_fid"] == 5.9


def test_a_wrong_argument_is_one_line(
    spec: specs.TableSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = ["--spec", spec.model_dump_json(), "--metrics", "dit-siglip2b=x", "--markdown", "a", "--csv", "b"]
    monkeypatch.setattr("sys.argv", ["table", *arguments])
    with pytest.raises(SystemExit):
        table_command.main()
    assert "'dit-siglip2b' is not row:epoch" in caplog.text


# Several seeds, several references


def test_seeds_give_mean_and_deviation_and_references_stand_side_by_side(spec: specs.TableSpec, tmp_path: Path) -> None:
    keys = {"validation:0": 5.8, "validation:1": 6.0, "validation:2": 6.2, "train:0": 5.5, "train:1": None}
    files = {}
    for key, fid in keys.items():
        path = tmp_path / f"{key}.json"
        files[Variant.parse(f"dit-siglip2b:80:unguided:{key}")] = path if fid is None else write_metrics(path, fid)
    fids = read_fids(files)
    published = Published.read()
    _, lines = seed_lines(spec, fids, published)
    assert lines == [
        ["dit-siglip2b", "80", "unguided", "validation", "3", "6.00 ± 0.20", "5.89", "+0.11"]
    ]  # of `train` there is one seed
    assert seed_lines(spec, {key: fid + 1 for key, fid in fids.items()}, published)[1][0][-1] == "+1.11 *"
    assert seed_lines(spec, fids, None)[1][0][-2:] == ["", ""]
    chart = spec.model_copy(update={"published_list": specs.CHART})
    assert seed_lines(chart, fids, published)[1][0][-2:] == ["5.68", "+0.32 *"]
    heading, lines = reference_lines(fids)
    assert heading[-2:] == ["FID, validation", "FID, train"]
    assert lines == [["dit-siglip2b", "80", "unguided", "0", "5.80", "5.50"]]

    metrics = {Entry("dit-siglip2b", 80, "unguided"): write_metrics(tmp_path / "metrics.json", 5.8)}
    frame = collect(spec, metrics, {}, published)
    text = markdown(spec, frame, published, fids)
    assert text.index("## Sampling seeds") < text.index("## References") < text.index("## How this was measured")
    assert "Sampling seeds" not in markdown(spec, frame, published)
    assert latex(spec, frame, published, fids).count(r"\begin{table}") == 3
    wider = with_variants(spec, frame, fids)
    line = wider[(wider["row"] == "dit-siglip2b") & (wider["epoch"] == 80)].iloc[0]
    assert (line["seeds"], line["fid_mean"], line["fid_train"]) == (3, pytest.approx(6.0), 5.5)
    assert list(with_variants(spec, frame, {})) == list(frame)
    with pytest.raises(UserError, match="row:epoch:guidance:reference:seed"):
        Variant.parse("dit-siglip2b:80")


def test_training_seeds_are_rows_that_differ_in_the_seed_only(raw: dict[str, Any], tmp_path: Path) -> None:
    for seed in (1, 2):
        raw["recipes"][f"dit-seed{seed}"] = {**raw["recipes"]["dit"], "seed": seed}
        again = {"recipe": f"dit-seed{seed}", "compare_with": "dit-siglip2b"}
        raw["rows"][f"dit-siglip2b-seed{seed}"] = {**raw["rows"]["dit-siglip2b"], **again}
    spec, published = specs.table(load(raw)), Published.read()
    fids = {"dit-siglip2b": 5.7, "dit-siglip2b-seed1": 6.1, "dit-siglip2b-seed2": 6.2, "dit-siglip2b-dsr": 4.5}
    metrics = {Entry(row, 80, "unguided"): write_metrics(tmp_path / f"{row}.json", fid) for row, fid in fids.items()}
    frame = collect(spec, metrics, {}, published)
    line = frame[(frame["row"] == "dit-siglip2b-seed2") & (frame["status"] == "measured")].iloc[0]
    assert line["difference_fid"] == pytest.approx(0.31)
    _, lines = training_lines(spec, frame)
    names = "dit-siglip2b, dit-siglip2b-seed1, dit-siglip2b-seed2"
    assert lines == [[names, "80", "unguided", "3", "6.00 ± 0.26", "5.89", "+0.11"]]
    assert "## Training seeds" in markdown(spec, frame, published)


# Guidance that a sweep chose


def test_the_chosen_guidance_is_printed_beside_the_published_guided_fid(spec: specs.TableSpec, tmp_path: Path) -> None:
    entry, setting = Entry("dit-siglip2b", 800, "chosen"), tmp_path / "guidance.json"
    write_json(setting, {"scale": 1.25, "interval": [0.0, 0.9]})
    metrics = {entry: write_metrics(tmp_path / "metrics.json", 3.5)}
    frame = collect(spec, metrics, {}, Published.read(), {entry: setting})
    line = frame[frame["status"] == "measured"].iloc[0]
    assert (line["guidance_scale"], line["guidance_low"], line["guidance_high"]) == (1.25, 0.0, 0.9)
    assert line["difference_fid"] == pytest.approx(-0.08)
    text = markdown(spec, frame, Published.read())
    assert "| chosen: scale 1.25 for t in [0, 0.9] | published | 3.58 |" in re.sub(" +", " ", text)
    assert "the one of 8 settings" in text
    assert "Choosing on FID is what everybody does" in text
    without = spec.model_copy(update={"sweep": None})
    assert "everybody" not in markdown(without, collect(without, {}, {}, Published.read()), Published.read())


# Tables that the configuration names


@pytest.mark.parametrize("name", ["encoder-registers", "diffusion-registers", "scaling"])
def test_tables_have_the_published_rows_in_the_published_order(config: Config, name: str) -> None:
    assert list(config.tables[name].rows) == Published.read().lines(name)["row"].tolist()
    assert config.tables[name].epochs == (80,)


def test_a_row_that_is_not_configured_names_the_command_that_runs_it(config: Config, tmp_path: Path) -> None:
    command = "snakemake --configfile overlay.yaml metrics.json"
    spec = specs.comparison(config, "encoder-registers", {"dit-siglip2b-ttr:80:unguided": command})
    metrics = {Entry("dit-siglip2b", 80, "unguided"): write_metrics(tmp_path / "metrics.json", 5.91)}
    published = Published.read()
    frame = collect(spec, metrics, {}, published)
    assert len(frame) == 6
    assert frame["status"].tolist() == ["measured", "not reproduced", "not run", "not run", *["not reproduced"] * 2]
    text = markdown(spec, frame, published)
    assert f"dit-siglip2b-ttr, epoch 80, unguided: `{command}`" in text
    assert "**dit-siglip2b-ttr**: SigLIP2-B + test-time register (not configured)." in text
    assert "**dit-siglip2b-masked**: SigLIP2-B + loss masking (tau = 100, 0.1 % of tokens) (not reproduced)." in text
    assert text.count("not reproduced |") == 3
    assert "Loss masking" in text
    assert "Guidance chosen" not in text

    digits = config.model_copy(update={"data": config.data.model_copy(update={"source": "digits"})})
    frame = collect(specs.comparison(digits, "encoder-registers"), metrics, {}, published)
    assert frame["status"].tolist().count("not part of the demo") == 4


def test_epochs_are_compared_with_the_chart(config: Config, tmp_path: Path) -> None:
    spec = specs.comparison(config, "epochs")
    metrics = {Entry("dit-siglip2b", 80, "unguided"): write_metrics(tmp_path / "metrics.json", 5.91)}
    frame = collect(spec, metrics, {}, Published.read())
    assert frame[frame["row"] == "dit-siglip2b"]["epoch"].tolist() == [40, 80, 160, 200, 320, 800]
    assert frame[frame["status"] == "measured"].iloc[0]["difference_fid"] == pytest.approx(5.91 - 5.68)
    assert "uncertain by 0.05" in markdown(spec, frame, Published.read())
    assert set(frame["published_from"]) == {"chart"}
    demo = spec.model_copy(update={"published": False, "source": "digits"})
    frame = collect(demo, metrics, {}, Published.read())
    assert len(frame) == 1
    assert "uncertain by 0.05" in markdown(demo, frame, Published.read())
