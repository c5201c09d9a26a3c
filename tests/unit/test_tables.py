"""Tables: published values, what is compared, seeds and references, and what is named by the configuration."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from dsr.base.errors import UserError
from dsr.base.files import read_json, write_json
from dsr.config.load import Config, load
from dsr.plan.throughput import PACKAGED
from dsr.report.encoders import write_backbones
from dsr.report.entries import METRICS, Entries, Entry
from dsr.report.published import Published, departures, expected
from dsr.report.render import TableFiles, latex, markdown, write_table
from dsr.report.table import TableInput, references, sampling_seeds, track, training_seeds, with_variants
from tests.configuration import configuration, record, scored


def table_of(config: Config, *entries: Entry, name: str = "") -> TableInput:
    """Return these entries and, of every row at every epoch that they lack, one that has not been scored."""
    given = {(one.row, one.epoch): one for one in entries if one.guidance == "unguided"}
    places = [(row, epoch) for row in config.rows for epoch in config.epochs(row)]
    missing = [Entry(row=row, epoch=epoch) for row, epoch in places if (row, epoch) not in given]
    order = {row: place for place, row in enumerate(config.rows)}
    return TableInput(config, tuple(sorted([*entries, *missing], key=lambda one: order.get(one.row, 99))), name)


def shown(config: Config, *entries: Entry, name: str = "") -> tuple[pd.DataFrame, str]:
    """Return the table of these entries as data and as text."""
    given = table_of(config, *entries, name=name)
    return given.frame, markdown(given)


def table_files(folder: Path) -> TableFiles:
    """Return where a table is written in a folder."""
    return TableFiles(*(folder / f"table.{ending}" for ending in ("md", "csv", "html", "tex")))


@pytest.fixture
def entry(tmp_path: Path) -> Entry:
    """A row of the paper, scored."""
    return scored(tmp_path / "metrics.json", 5.91)


def demo_of(config: Config) -> Config:
    data = config.data.model_copy(update={"source": "digits", "classes": 10})
    return config.model_copy(update={"name": "Digits", "data": data})


# Published values


def test_published_values_agree_across_tables(config: Config) -> None:
    published = Published()
    frame = pd.DataFrame(published.all)
    known, chart = frame[frame["table"] != "chart"], frame[frame["table"] == "chart"]
    assert (known.groupby(["row", "epochs", "guidance"])[[*METRICS]].nunique() <= 1).all(axis=None)
    assert not known.duplicated(["table", "row", "epochs", "guidance"]).any()
    assert chart[["inception_score", "precision", "recall", "gflops"]].isna().all(axis=None)
    assert published.chart("dit-siglip2b")[0] == (40, 7.97)
    assert {line["row"] for line in published.lines("main")} | {"dit-so400m-dsr"} == set(config.rows)
    for name in ("encoder-registers", "diffusion-registers", "scaling"):
        assert list(config.tables[name].rows) == [line["row"] for line in published.lines(name)]
        assert config.tables[name].epochs == (80,)


ABLATIONS, REFERENCE = (f"profiles/{name}/config-overlay.yaml" for name in ("ablations", "reference-weights"))

COMPUTED = {name: {"statistics": "computed"} for name in ("siglip2-b", "siglip2-so400m")}


def test_the_projects_configurations_are_the_papers_experiment() -> None:
    config = configuration(ABLATIONS, REFERENCE)
    assert not any(departures(config, row) for row in config.rows)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data": {"classes": 5}, "encoders": COMPUTED, "sampling": {"sweep": None}}, "data.classes: 1000 -> 5"),
        ({"data": {"train_images": 1000000}}, "data.train_images: 1281167 -> 1000000"),
        ({"sampling": {"images": 10000}}, "sampling.images: 50000 -> 10000"),
        ({"encoders": {"siglip2-b": {"hub": "someone/own"}}}, "dit-siglip2b.encoder.hub: google/siglip2-base"),
        ({"recipes": {"dit": {"lr": 1e-3}}}, "rows.dit-siglip2b.recipe.lr: 0.0002 -> 0.001"),
        ({"denoisers": {"dit-xl": {"register_start": 4}}}, "denoiser.register_start: 8 -> 4"),
        ({"rows": {"dit-siglip2b": {"registers": 16}}}, "rows.dit-siglip2b.registers: 0 -> 16"),
        ({"rows": {"dit-siglip2b": {"compare_with": "dit-siglip2b-masked"}}}, "recipe.mask_norm: 100.0 -> None"),
        ({"recipes": {"dit": {"seed": 1, "precision": "bf16", "ema": [0.9999, 0.99]}}}, ""),
    ],
)
def test_published_values_stand_only_beside_the_papers_experiment(
    change: dict[str, Any], said: str, entry: Entry
) -> None:
    given = table_of(configuration(**change), entry)
    text = markdown(given)
    known = given.frame.set_index(["row", "epoch", "guidance"])["published_fid"].get(("dit-siglip2b", 80, "unguided"))
    assert pd.isna(known) if said else known == 5.89
    assert said in "; ".join(given.departures["dit-siglip2b"])
    if given.comparable:
        assert said in text
    else:
        assert "No number here is comparable" in text
        for form in (text, latex(given)):
            assert "5.91" in form
            assert "not the paper's experiment" in form
            assert not any(number in form for number in ("5.89", "3.26", "156.54", "arXiv"))


# The table


def test_table_compares_what_is_there_and_names_what_is_not(config: Config, entry: Entry, tmp_path: Path) -> None:
    missing = tmp_path / "rows/dit-siglip2b/epoch-800/metrics.json"
    given = table_of(config, entry, Entry(row=entry.row, epoch=800, metrics=missing, run=f"snakemake {missing}"))
    lines = given.frame[given.frame["guidance"] == "unguided"]
    line, absent = (lines.set_index(["row", "epoch"]).loc[("dit-siglip2b", epoch)] for epoch in (80, 800))
    assert (line["difference_fid"], line["difference_precision"]) == (pytest.approx(0.02), pytest.approx(0.004))
    assert line["published_from"] == "tables"
    assert line["measured_precision_f32"] == 0.691
    assert line["measured_gflops"] == pytest.approx(238.121091)
    assert line["difference_params_millions"] == 1, "of 676.95 from 676, at the published precision"
    assert set(shown(config, entry, name="scaling")[0]["difference_gflops"].dropna()) == {0}
    assert pd.isna([line["published_gflops"], line["difference_gflops"], absent["measured_fid"]]).all()
    assert (absent["status"], absent["run"], absent["published_fid"]) == ("not run", f"snakemake {missing}", 3.85)

    text = markdown(given)
    assert "not comparable" not in text
    assert f"`snakemake {missing}`" in text
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    assert cells[5][:6] == ["dit-siglip2b", "80", "unguided", "published", "5.89", "156.54"]
    assert cells[6][3:] == ["measured", "5.91", "155.00", "0.690", "0.561", "676.95", "238.121", "0.9999", "validation"]
    assert cells[7][3:6] == ["difference", "+0.02", "-1.54"]
    assert cells[9][3:5] == ["measured", "not run"]
    assert "validation (50000 images)" in text
    assert r"\bottomrule" in latex(given)


def test_a_table_of_other_settings_is_refused(entry: Entry, tmp_path: Path) -> None:
    files = table_files(tmp_path)
    with pytest.raises(UserError, match=r"metrics\.json .*samples: default -> "):
        write_table(configuration(), Entries((entry,)), files)
    record(configuration(), entry)
    write_table(configuration(), Entries((entry,)), files)
    for change, said in (
        ({"sampling": {"steps": 9}}, "samples.steps: 50 -> 9"),
        ({"recipes": {"dit": {"lr": 1e-3}}}, "samples.weights.train.recipe.lr: 0.0002 -> 0.001"),
    ):
        with pytest.raises(UserError, match=rf"metrics\.json was made with other settings .*{said}"):
            write_table(configuration(**change), Entries((entry,)), files)


def test_footnotes_say_what_is_asked_for_or_recorded(config: Config, entry: Entry) -> None:
    frame, text = shown(config)
    assert "50 grid points, which are 49 network" in text
    assert frame["guidance"].value_counts().to_dict() == {"unguided": 6 * 3, "chosen": 4}
    assert frame["published_fid"].notna().sum() == 7 + 4
    assert (frame["status"] == "not run").all()
    made = configuration(
        sampling={"steps": 9, "images": 10000, "seeds": [0], "precision": "fp32"},
        recipes={"dit": {"ema": [0.99], "precision": "bf16"}},
    )
    record(made, entry)
    frame, text = shown(config, Entry(**dict(entry)))
    assert "10000 images per row, classes balanced, sampling seed 0" in text
    assert "9 grid points, which are 8 network evaluations" in text
    assert "sampling in fp32, training in bf16" in text
    assert frame[frame["status"] == "measured"]["ema_decay"].tolist() == [0.99]


def test_rows_with_images_of_one_colour_are_flagged(config: Config, tmp_path: Path) -> None:
    flagged = scored(tmp_path / "a.json", 5.91, constant=3)
    given = table_of(config, flagged, scored(tmp_path / "b.json", 4.58, "dit-siglip2b-dsr"))
    measured = given.frame[given.frame["status"] == "measured"]
    assert measured["constant_images"].tolist() == [3, 0]
    for text in (markdown(given), latex(given)):
        assert "5.91 †" in text
        assert "4.58 †" not in text
        assert "† 3 of the 50000 images of dit-siglip2b, epoch 80, unguided, are one colour" in text
        assert text.count("one colour") == 1


def test_incomplete_metrics_are_refused(config: Config, entry: Entry, tmp_path: Path) -> None:
    write_json(tmp_path / "metrics.json", {"fid": 1.0})
    with pytest.raises(UserError, match=r"metrics.json: no inception_score, precision, recall"):
        shown(config, entry)


# Several seeds, several references


def test_seeds_give_mean_and_deviation_and_references_stand_side_by_side(config: Config, tmp_path: Path) -> None:
    scores = [("validation", 0, 5.8), ("validation", 1, 6.0), ("validation", 2, 6.2), ("train", 0, 5.5)]
    entries = [scored(tmp_path / f"{name}-{seed}", fid, seed=seed, reference=name) for name, seed, fid in scores]
    entries.append(entries[-1].model_copy(update={"seed": 1, "metrics": tmp_path / "missing.json"}))
    given = table_of(config, *entries)
    assert sampling_seeds(given).lines.to_numpy().tolist() == [
        ["dit-siglip2b", "80", "unguided", "validation", "3", "6.00 ± 0.20", "5.89", "+0.11"]
    ]  # of `train` there is one seed
    demo, chart = table_of(demo_of(config), *entries), table_of(config, *entries, name="epochs")
    assert sampling_seeds(demo).lines.iloc[0, -2:].tolist() == ["", ""]
    assert sampling_seeds(chart).lines.iloc[0, -2:].tolist() == ["5.68", "+0.32 *"]
    found = references(given)
    assert [*found.lines][-2:] == ["FID, validation", "FID, train"]
    assert found.lines.to_numpy().tolist() == [["dit-siglip2b", "80", "unguided", "0", "5.80", "5.50"]]

    text = markdown(given)
    assert text.index("## Sampling seeds") < text.index("## References") < text.index("## How this was measured")
    assert latex(given).count(r"\begin{table}") == 4
    wider = with_variants(given)
    line = wider[(wider["row"] == "dit-siglip2b") & (wider["epoch"] == 80)].iloc[0]
    assert (line["seeds"], line["fid_mean"], line["fid_train"]) == (3, pytest.approx(6.0), 5.5)
    alone = table_of(config, entries[0])
    assert "Sampling seeds" not in markdown(alone)
    assert list(with_variants(alone)) == list(alone.frame)


def test_training_seeds_are_rows_that_differ_in_the_seed_only(raw: dict[str, Any], tmp_path: Path) -> None:
    for seed in (1, 2):
        raw["recipes"][f"dit-seed{seed}"] = {**raw["recipes"]["dit"], "seed": seed}
        again = {"recipe": f"dit-seed{seed}", "compare_with": "dit-siglip2b"}
        raw["rows"][f"dit-siglip2b-seed{seed}"] = {**raw["rows"]["dit-siglip2b"], **again}
    config = load(raw)
    fids = {"dit-siglip2b": 5.7, "dit-siglip2b-seed1": 6.1, "dit-siglip2b-seed2": 6.2, "dit-siglip2b-dsr": 4.5}
    entries = [scored(tmp_path / f"{row}.json", fid, row) for row, fid in fids.items()]
    given = table_of(config, *entries)
    frame = given.frame
    line = frame[(frame["row"] == "dit-siglip2b-seed2") & (frame["status"] == "measured")].iloc[0]
    assert line["difference_fid"] == pytest.approx(0.31)
    names = "dit-siglip2b, dit-siglip2b-seed1, dit-siglip2b-seed2"
    seeds = training_seeds(given).lines.to_numpy().tolist()
    assert seeds == [[names, "80", "unguided", "3", "6.00 ± 0.26", "5.89", "+0.11"]]
    assert "## Training seeds" in markdown(given)


# Guidance that a sweep chose


def test_guidance_is_printed_beside_the_published_guided_fid(raw: dict[str, Any], tmp_path: Path) -> None:
    raw["sampling"]["guidance"]["w15"] = {"scale": 1.5, "interval": [0.1, 0.9]}
    config, chosen = load(raw), {"scale": 1.25, "interval": [0.0, 0.9]}
    entries = [scored(tmp_path / f"{name}.json", 3.5, epoch=800, guidance=name) for name in ("chosen", "w15")]
    write_json(tmp_path / "chosen.json", read_json(tmp_path / "chosen.json") | {"guidance": chosen})
    frame, text = shown(config, *entries)
    lines = frame[frame["status"] == "measured"].set_index("guidance")
    line = lines.loc["chosen"]
    assert (line["guidance_scale"], line["guidance_low"], line["guidance_high"]) == (1.25, 0.0, 0.9)
    assert lines["difference_fid"].to_dict() == pytest.approx({"chosen": -0.08, "w15": -0.08})
    assert lines["published_recall"].isna().all()
    assert "w15 has scale 1.5 for t in [0.1, 0.9]" in text
    assert "| chosen: scale 1.25 for t in [0, 0.9] | published | 3.58 |" in re.sub(" +", " ", text)
    assert "the one of 8 settings" in text
    assert "Choosing on FID is common practice" in text
    without = config.model_copy(update={"sampling": config.sampling.model_copy(update={"sweep": None})})
    assert "Choosing on FID" not in shown(without)[1]


# Whether a row is on track


def test_an_fid_is_judged_by_all_that_is_published_of_its_epoch(config: Config, tmp_path: Path) -> None:
    # A table says 5.89 and the chart 5.68; another run may be 0.26 off either.
    known = expected(config, "dit-siglip2b", 80)
    assert known.published == (5.68, 5.89)
    verdicts = [known.verdict(fid) for fid in (5.3, 5.43, 6.1, 6.3)]
    assert verdicts == ["below (better)", "on track", "on track", "above (worse)"]
    entries = [scored(tmp_path / row, 8.0, row, 40) for row in [*config.rows][:3]]
    lines = track(table_of(config, *entries)).lines.set_index("Row")
    assert lines.loc["dit-siglip2b"].tolist() == ["40", "8.00", "7.97", "7.62 to 8.32", "on track"]
    assert lines.loc["dit-siglip2b-dsr", "Verdict"] == "above (worse)"
    assert lines.loc["dit-so400m", "Verdict"] == "not comparable (no FID is published at epoch 40)"
    other = configuration(recipes={"dit": {"ema": [0.9995]}})
    assert expected(other, "dit-siglip2b", 40).verdict(8.0) == (
        "not comparable (rows.dit-siglip2b.recipe.ema: 0.9999 -> 0.9995)"
    )
    assert track(table_of(demo_of(config), *entries)).lines.empty


# Tables that the configuration names


def test_a_row_that_is_not_configured_names_the_command_that_runs_it(
    config: Config, entry: Entry, tmp_path: Path
) -> None:
    command = "snakemake --configfile overlay.yaml metrics.json"
    other = Entry(row="dit-siglip2b-ttr", epoch=80, metrics=tmp_path / "missing.json", run=command)
    frame, text = shown(config, entry, other, name="encoder-registers")
    assert frame["status"].tolist() == ["measured", "not reproduced", "not run", "not run", *["not reproduced"] * 2]
    assert f"dit-siglip2b-ttr, epoch 80, unguided: `{command}`" in text
    assert "**dit-siglip2b-ttr**: SigLIP2-B + test-time register (not configured)." in text
    assert "**dit-siglip2b-masked**: SigLIP2-B + loss masking (tau = 100, 0.1 % of tokens) (not reproduced)." in text
    assert text.count("not reproduced |") == 3
    assert "Loss masking" in text
    assert "Guidance chosen" not in text
    frame, _ = shown(demo_of(config), entry, name="encoder-registers")
    assert frame["status"].tolist().count("not part of the demo") == 4


def test_epochs_are_compared_with_the_chart(config: Config, entry: Entry) -> None:
    frame, text = shown(config, entry, name="epochs")
    assert frame[frame["row"] == "dit-siglip2b"]["epoch"].tolist() == [40, 80, 160, 200, 320, 800]
    assert frame[frame["status"] == "measured"].iloc[0]["difference_fid"] == pytest.approx(5.91 - 5.68)
    assert "uncertain by 0.05" in text
    assert set(frame["published_from"]) == {"chart"}
    demo = TableInput(demo_of(config), (entry,), "epochs")
    assert len(demo.frame) == 1
    assert "uncertain by 0.05" not in markdown(demo)


# Encoders side by side


def test_encoders_stand_side_by_side_with_what_is_known_of_each(config: Config, entry: Entry, tmp_path: Path) -> None:
    best = {"siglip2-b": "single", "siglip2-so400m": "recursive"}
    pairs = [(name, ttr) for name in best for ttr in ("none", best[name])]
    encoders = [scored(tmp_path / f"{name}-{ttr}.json", 0.7, "", 0, encoder=name, ttr=ttr) for name, ttr in pairs]
    missing = [Entry(row=row, epoch=80, metrics=tmp_path / "missing.json") for row in [*config.rows][1:4]]
    entries, files = Entries((*encoders, entry, *missing)), table_files(tmp_path)
    record(config, *entries.root)

    def written(**options: Any) -> list[list[str]]:
        write_backbones(config, entries, files, **options)
        text = files.markdown_file.read_text(encoding="utf-8")
        lines = [line for line in text.splitlines() if line.startswith("| sig")]
        return [[cell.strip().replace(",", "") for cell in line.split("|")[1:-1]] for line in lines]

    lines = written()
    assert [(line[0], line[1]) for line in lines] == pairs
    # 12 and 27 blocks; published: 86 and 412 million with embeddings.
    assert [line[3] for line in lines] == ["85.1", "85.1", "411.5", "411.5"]
    assert lines[0][8:] == ["0.70", "5.91", "5.68 and 5.89"]
    assert lines[2][8:] == ["0.70", "", "7.04"]
    assert all(float(cell) > 0 for line in lines for cell in line[4:8])
    speeds = pd.read_csv(PACKAGED, dtype={"batch": "Int64", "registers": "Int64"})
    speeds["images_per_second"] *= 2
    speeds[speeds.code == "own"].assign(code="rehearsal").to_csv(tmp_path / "throughput.csv", index=False)
    faster = written(measured=tmp_path / "throughput.csv")[0][6]
    assert float(faster) == pytest.approx(2 * float(lines[0][6]), rel=0.02)
