"""What a configuration is said to cost."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dsr.analysis.cost import Cost, decoder_flops, denoiser_cost
from dsr.artifacts import manifest
from dsr.base.errors import UserError
from dsr.base.text import duration
from dsr.config.load import Config
from dsr.denoiser.dit import build_denoiser
from dsr.encoder.autoencoder import build_decoder
from dsr.plan import costs, throughput
from dsr.plan.costs import Work, downloads, markdown
from dsr.report.rehearsal import Rehearsed, RehearsedRow, page
from tests.configuration import DEMO, configuration

HEADER = "gpu,stage,denoiser,registers,encoder,ttr,precision,batch,images_per_second,memory_gb,gflops,code,source\n"
GPU = "H100 80GB"
MANIFEST = manifest.load()
RELEASE = [entry for entry in throughput.read() if entry.code == "release"]
"""What does not change when this project's own code is measured anew."""


def planned(config: Config) -> dict[tuple[str, str], Work]:
    works = costs.works(config, MANIFEST, RELEASE, GPU)
    return {(work.name, work.label or work.stage): work for work in works}


def flops(module: torch.nn.Module, *inputs: torch.Tensor) -> int:
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        module(*inputs)
    return int(counter.get_total_flops())


@pytest.mark.parametrize("overlays", [(), (DEMO,)])
def test_formulas_count_as_the_real_modules(overlays: tuple[str, ...]) -> None:
    config = configuration(*overlays)
    for row in ("dit-siglip2b", "dit-so400m-dsr", "ditdh-siglip2b-dsr"):
        spec = config.model(row)
        with torch.device("meta"):
            denoiser = build_denoiser(spec, train_all=False).eval()
            inputs = torch.empty(1, spec.channels, spec.grid, spec.grid), torch.empty(1), torch.empty(1).long()
        parameters = [(entry.numel(), entry.requires_grad) for entry in denoiser.parameters()]
        trainable = sum(count for count, trained in parameters if trained)
        everything = sum(count for count, _ in parameters)
        assert denoiser_cost(spec) == Cost(everything, trainable, flops(denoiser, *inputs))
    for encoder in ("siglip2-b", "siglip2-so400m"):
        autoencoder = config.autoencoder(encoder, "none")
        with torch.device("meta"):
            latents = torch.empty(1, autoencoder.encoder.grid**2, autoencoder.encoder.width)
            counted = flops(build_decoder(autoencoder), latents)
        assert decoder_flops(autoencoder) == pytest.approx(counted, rel=1e-3)


def test_the_paper_is_planned_row_by_row() -> None:
    config, works = configuration(), planned(configuration())
    assert {name for name, stage in works if stage == "train"} == set(config.rows)
    train = works["dit-siglip2b-dsr", "train"]
    assert train.images == 1251 * 1024 * 800
    assert "scaled" not in train.speed.basis
    assert train.hours == pytest.approx(train.images / (8 * train.speed.images_per_second) / 3600)
    assert train.gpu_hours == pytest.approx(8 * train.hours)
    scaled = works["dit-so400m-dsr", "train"]
    assert scaled.speed.basis.startswith("scaled by GFLOPs")
    assert works["dit-so400m", "sample"].images == 3 * 50000
    # The sweep: 8 candidates of 10 000 images, and the chosen setting in full.
    assert works["dit-siglip2b", "sample, guided"].images == 8 * 10000 + 50000
    assert downloads(config, MANIFEST)["ImageNet, one archive"] == 155.0
    full = configuration(recipes={"dit": {"precision": "fp32"}})
    assert "at tf32 (no measurement at fp32)" in markdown(full, MANIFEST, RELEASE)


def test_the_plan_follows_the_configuration() -> None:
    key = ("dit-siglip2b", "train")
    before, two = planned(configuration())[key], planned(configuration(execution={"nodes": 2}))[key]
    short = planned(configuration(evaluation={"epochs": [80]}))[key]
    assert two.hours == pytest.approx(before.hours / 2)
    assert two.gpu_hours == pytest.approx(before.gpu_hours)
    assert short.hours == pytest.approx(before.hours / 10)
    fewer = configuration(execution={"processes": 4})
    assert planned(fewer)[key].hours == pytest.approx(2 * before.hours)
    # Twice the GPUs held for the same processes: the wall time stays, the bill does not.
    held = planned(configuration(resources={"train": {"gpus": 16}}))[key]
    assert held.gpu_hours == pytest.approx(2 * before.gpu_hours)
    bf16 = planned(configuration(recipes={"dit": {"precision": "bf16"}}))[key]
    assert bf16.hours < before.hours / 2
    guided = configuration(sampling={"guidance": {"strong": {"scale": 2.0}}, "sweep": None})
    assert planned(guided)["dit-siglip2b", "sample, guided"].images == 3 * 50000


def test_what_is_given_or_computed_is_not_downloaded() -> None:
    def names(config: Config) -> set[str]:
        return set(downloads(config, MANIFEST))

    everything = names(configuration())
    given = names(configuration(artifacts={"siglip2-b": "/a", "imagenet-train": "/b", "imagenet-validation": "/c"}))
    assert everything - given == {"siglip2-b", "ImageNet, one archive"}
    folders = configuration(data={"source": "imagefolder", "train": "/b", "validation": "/c"})
    assert everything - names(folders) == {"ImageNet, one archive"}
    computed = configuration(encoders={"siglip2-b": {"statistics": "computed"}})
    assert everything - names(computed) == {"statistics-siglip2-b-none", "statistics-siglip2-b-single"}
    assert planned(computed)["siglip2-b-single", "encode"].images == 1281167
    hub = configuration(sources={"decoder-siglip2-b": "hub"})
    assert names(hub) - everything == {"decoder-siglip2-b-hub"}


def test_the_demo_has_a_plan_too() -> None:
    config = configuration(DEMO)
    text = markdown(config, MANIFEST, RELEASE)
    assert "asks for no GPU" in text
    assert re.search(r"## Downloads\s+None", text)
    assert not any(work.speed for work in costs.works(config, MANIFEST, RELEASE, GPU))


def test_averages_that_are_partly_initial_weights_are_said_by_milestone() -> None:
    recipes = {"dit": {"ema": [0.9999, 0.99]}}
    text = markdown(configuration(DEMO, recipes=recipes, evaluation={"epochs": [2, 24]}), MANIFEST, RELEASE)
    assert "- dit-siglip2b, epoch 2 (88 steps): 99% with decay 0.9999, 41% with decay 0.99\n" in text
    assert "- dit-siglip2b, epoch 24 (1,056 steps): 90% with decay 0.9999\n" in text
    assert "initial weights" not in markdown(configuration(), MANIFEST, RELEASE)


def test_own_measurements_go_before_the_releases_and_another_gpu_can_be_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "throughput.csv"
    own = ("H100 80GB,train,dit-xl,36,siglip2-b,single,tf32,64,310,50,834.7,own,test",
           "A100 40GB,train,dit-xl,36,siglip2-b,single,tf32,32,100,30,834.7,own,test")  # fmt: skip
    path.write_text(HEADER + "\n".join(own) + "\n", encoding="utf-8")
    measurements = [*RELEASE, *throughput.read(path)]
    job = costs.train_job(configuration(), MANIFEST, "dit-siglip2b-dsr")
    found = throughput.speed(measurements, GPU, job)
    assert (found.images_per_second, found.basis) == (310, "measured, 64 images a GPU")
    other = throughput.speed(measurements, GPU, job.model_copy(update={"registers": 0, "gflops": 834.7 / 2}))
    assert (other.images_per_second, other.basis) == (620, "scaled by GFLOPs, 64 images a GPU")
    assert throughput.gpu_of(measurements, None) == throughput.gpu_of(measurements, "gpu:8") == GPU
    assert throughput.gpu_of(measurements, "gpu:a100:8") == "A100 40GB"
    text = markdown(configuration(resources={"train": {"gres": "gpu:a100:8"}}), MANIFEST, measurements)
    assert "Estimated for A100 40GB:" in text
    unknown = markdown(configuration(resources={"train": {"gres": "gpu:b200:8"}}), MANIFEST, measurements)
    assert "Estimated for H100 80GB, because nothing was measured on gpu:b200:8:" in unknown


def test_a_rehearsal_is_read_from_records_and_logs_and_then_planned_with(tmp_path: Path) -> None:
    lines = [
        {"restart": restart, "images_per_second": 8.0 * speed, "uptime": 60.0 * restart + 30, "gpu": "NVIDIA H200",
         "peak_memory_gib": 54.25}
        for restart in (0, 1) for speed in (1, 2, 250, 250)
    ]  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    (tmp_path / "state-00000004.pt").write_bytes(bytes(3_000_000))
    log = "Micro-batch: 64 of a process's 128\nThe blocks run by fused kernels\nSaved /a/state.pt in 2.0 s\nResumed at"
    (tmp_path / "train.log").write_text(f"{log} step 4; loading took 1.5 s\n", encoding="utf-8")
    (tmp_path / "sample.log").write_text("a, 10.0 images/s, 1 s to go\n35.0 images/s by this process", encoding="utf-8")
    (tmp_path / "evaluate.tsv").write_text("s\th:m:s\n42.5\t0:00:42\n", encoding="utf-8")
    row = RehearsedRow(
        run=tmp_path, log=tmp_path / "train.log", sample=tmp_path / "sample.log", evaluate=tmp_path / "evaluate.tsv"
    )
    config, missing = configuration(), row.model_copy(update={"run": tmp_path / "missing"})
    given = Rehearsed(rows={"dit-siglip2b-dsr": row, "dit-so400m": missing}, made={"siglip2-b": tmp_path})
    text, measured = page(config, MANIFEST, given)
    cells = [cell.strip() for cell in next(x for x in text.splitlines() if x.startswith("| dit")).split("|")[1:-1]]
    assert cells[1:10] == ["2", "54.2", "64", "250.0", "90.0", "2.0", "2", "1.5", "fused kernels"]
    assert cells[10:] == ["35.0", "42.5"]
    assert "NOT TRAINED: dit-so400m." in text
    assert "random weights: siglip2-b." in text
    job = costs.train_job(config, MANIFEST, "dit-siglip2b-dsr")
    found = throughput.speed([*measured, *throughput.read()], "H200 141GB", job)
    assert (found.images_per_second, found.basis) == (250, "measured, rehearsal on this cluster, 64 images a GPU")
    assert "NOT SCORED" not in text
    (tmp_path / "evaluate.tsv").unlink()
    assert "NOT SCORED: dit-siglip2b-dsr." in page(config, MANIFEST, given)[0]
    (tmp_path / "train.log").write_text("Not available here: fused kernels (no compiler)", encoding="utf-8")
    assert "FALLBACK: fused kernels (no compiler)" in page(config, MANIFEST, given)[0]


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "throughput.csv"
    path.write_text(HEADER + "H100 80GB,train,,,,,tf32,,fast,,,own,test\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"throughput.csv, line 2: images_per_second: Input should be a valid number"):
        throughput.read(path)


def test_durations_read_well() -> None:
    assert [*map(duration, (None, 0.005, 0.5, 3.25, 50.5))] == ["-", "18 s", "30 min", "3:15 h", "2 d 02:30"]
