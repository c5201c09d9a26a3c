"""Training in this process: what is resumed, refused, kept, published and reported."""

from __future__ import annotations

import logging
import platform
import shutil
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from dsr.accel.device import Fetched
from dsr.base import files
from dsr.base.distributed import World
from dsr.base.errors import UserError
from dsr.base.files import read_record
from dsr.config.specs import WeightsSpec, content
from dsr.data.prepare import write_index, write_shard
from dsr.denoiser.dit import build_denoiser
from dsr.training import checkpoint
from dsr.training.batches import Samples, Share, items
from dsr.training.learner import MovingAverage, NotFiniteError
from dsr.training.loop import train

from .training_row import BATCH, ONE, STEPS, differences, final_state, largest_gap, tiny_job, tiny_spec


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "run-a")
    return tmp_path / "run-a"


def test_a_run_stopped_after_every_step_equals_one_that_never_stopped(
    row: Path, finished: Path, tmp_path: Path
) -> None:
    job = tiny_job(row, tmp_path / "run-a", minutes=0.0)
    attempts = 1
    while not train(job, ONE):
        attempts += 1
    assert attempts == 4 * STEPS
    assert differences(final_state(job.run_dir), final_state(finished)) == []
    assert differences(load_file(job.output), load_file(finished / "ema-4-0.9.safetensors")) == []


def test_milestones_in_a_chain_equal_one_long_run(row: Path, finished: Path, tmp_path: Path) -> None:
    first = tiny_job(row, tmp_path / "run-a", epoch=1)
    assert train(first, ONE)
    assert train(tiny_job(row, tmp_path / "run-a", epoch=4, after=first.output), ONE)
    assert differences(final_state(tmp_path / "run-a"), final_state(finished)) == []


def test_a_masked_loss_is_the_mean_over_the_tokens_of_the_batch_that_are_left(
    row: Path, finished: Path, tmp_path: Path
) -> None:
    plain = final_state(finished)["model"]
    models = {}
    for name, norm, options in (("half", 2.8, {}), ("parts", 2.8, {"micro_batch": 2}), ("all", 1e6, {})):
        assert train(tiny_job(row, tmp_path / name, spec=tiny_spec(mask_norm=norm), **options), ONE)
        models[name] = final_state(tmp_path / name)["model"]
    assert largest_gap(models["half"], models["parts"]) < 1e-6
    assert largest_gap(models["half"], plain) > 1e-4
    assert largest_gap(models["all"], plain) < 1e-6


@pytest.mark.parametrize("options", [{"micro_batch": 2}, {"workers": 1}])
def test_accumulation_and_workers_do_not_change_the_result(
    row: Path, finished: Path, tmp_path: Path, options: dict[str, int]
) -> None:
    assert train(tiny_job(row, tmp_path / "run-a", **options), ONE)
    assert largest_gap(final_state(tmp_path / "run-a")["model"], final_state(finished)["model"]) < 1e-6


def test_published_weights_are_the_first_average_with_buffers_and_provenance(finished: Path) -> None:
    output = finished.parent / "run-a-epoch-4" / "ema.safetensors"
    state = final_state(finished)
    weights = load_file(output)
    assert weights.keys() == state["model"].keys()
    average = state["averages"]["0.9"]
    assert all(torch.equal(weights[name], average.get(name, state["model"][name])) for name in weights)
    made = content(WeightsSpec(train=tiny_spec(), epoch=4, decay=0.9))
    record = read_record(output)
    assert record.pop("versions") == {"python": platform.python_version(), "torch": torch.__version__}
    assert {*record} == {"spec", "step", "code", "commit", "dirty"}
    assert (record["spec"], record["step"], record["code"]) == (made, 12, checkpoint.code())
    assert not torch.equal(load_file(finished / "ema-4-0.99.safetensors")["pos_embed"], weights["pos_embed"])


def test_frozen_tables_stay(row: Path, finished: Path, tmp_path: Path) -> None:
    assert train(tiny_job(row, tmp_path / "run-a", spec=tiny_spec(train_all=False)), ONE)
    frozen, trained = final_state(tmp_path / "run-a"), final_state(finished)
    table = build_denoiser(tiny_spec().model).pos_embed
    assert torch.equal(frozen["model"]["pos_embed"], table)
    assert not torch.equal(trained["model"]["pos_embed"], table)
    assert len(frozen["optimizer"]["state"]) == len(trained["optimizer"]["state"]) - 3


def test_bfloat16_trains_with_float32_weights(row: Path, tmp_path: Path) -> None:
    assert train(tiny_job(row, tmp_path / "run-a", epoch=1, spec=tiny_spec(precision="bf16")), ONE)
    assert {value.dtype for value in final_state(tmp_path / "run-a")["model"].values()} == {torch.float32}


def test_a_finished_milestone_is_published_again_without_training_and_not_with_other_code(
    row: Path, copy: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (copy / "metrics.jsonl").read_text()
    job = tiny_job(row, copy)
    assert train(job, ONE)
    assert files.sha256(job.output) == files.sha256(copy / "ema-4-0.9.safetensors")
    assert (copy / "metrics.jsonl").read_text() == before
    assert caplog.text.count("published again, and nothing is trained; to train afresh, move") == 1
    job.output.unlink()
    monkeypatch.setattr(checkpoint, "code", lambda: "other")
    with pytest.raises(UserError, match=rf"the code that trains has changed since: move {copy} away to train afresh"):
        train(job, ONE)
    assert not job.output.exists()


def test_a_finished_milestone_whose_state_was_removed_is_published_again(row: Path, copy: Path) -> None:
    for state in copy.glob("state-*.pt"):
        state.unlink()
    job = tiny_job(row, copy)
    assert train(job, ONE)
    assert job.output.exists()
    with pytest.raises(UserError, match=r"other settings .*train.recipe.lr: 0.001 -> 1.0"):
        train(tiny_job(row, copy, spec=tiny_spec(lr=1.0)), ONE)


def test_an_average_that_is_partly_initial_weights_is_said_once(
    row: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert train(tiny_job(row, tmp_path / "run-a", epoch=1, spec=tiny_spec(ema=[0.9999, 0.1])), ONE)
    assert caplog.text.count("still partly initial weights (100% with decay 0.9999)") == 1
    assert not tiny_spec(ema=[0.99]).recipe.initial_weights_left(460)
    assert tiny_spec(ema=[0.99]).recipe.initial_weights_left(458) == "1% with decay 0.99"


def test_a_milestone_in_the_past_without_its_averages_is_refused(row: Path, copy: Path) -> None:
    with pytest.raises(UserError, match=r"already at epoch 4.00 and kept no averages of epoch 2"):
        train(tiny_job(row, copy, epoch=2), ONE)


def test_a_milestone_without_the_state_of_the_one_before_is_never_a_new_run(row: Path, tmp_path: Path) -> None:
    job = tiny_job(row, tmp_path / "run-a", after=2)
    with pytest.raises(UserError, match="epoch 4 continues from epoch 2, but there is no saved state"):
        train(job, ONE)
    assert not list(tmp_path.glob("run-a/state-*"))
    assert not train(tiny_job(row, tmp_path / "run-a", minutes=0.0), ONE)
    with pytest.raises(UserError, match=r"is at epoch 0\.33, but epoch 2 should be done"):
        train(job, ONE)


def test_another_recipe_is_refused_with_its_keys(row: Path, copy: Path) -> None:
    with pytest.raises(UserError, match=r"spec\.recipe\.lr: 0\.001 -> 0\.5"):
        train(tiny_job(row, copy, epoch=5, spec=tiny_spec(lr=0.5)), ONE)


@pytest.mark.parametrize("changed", ["images", "statistics", "encoder/model.safetensors", "neurons"])
def test_other_inputs_are_refused(row: Path, copy: Path, tmp_path: Path, changed: str) -> None:
    other = shutil.copytree(row, tmp_path / "row")
    if changed == "images":
        Image.new("RGB", (16, 16)).save(next((other / "images/raw/class-0").glob("*.png")))
        write_shard(other / "images/raw", 16, 0, 1, other / "images/shard-00000.zip")
        write_index([other / "images/shard-00000.zip"], other / "images/index.npz")
    elif changed == "neurons":
        path = other / "neurons.json"
        path.write_text(path.read_text().replace("5", "6"))
    else:
        path = other / ("statistics.safetensors" if changed == "statistics" else changed)
        save_file({name: tensor + 0.5 for name, tensor in load_file(path).items()}, path)
    with pytest.raises(UserError, match=rf"inputs\.{changed}: .*\n.* move {copy} away to train afresh"):
        train(tiny_job(other, copy, epoch=5), ONE)
    assert train(tiny_job(row, copy, epoch=4), ONE)


def test_a_changed_recipe_in_a_new_directory_says_what_changed(
    row: Path, copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        train(tiny_job(row, copy.parent / "run-b", epoch=1, spec=tiny_spec(lr=0.01)), ONE)
    assert "starts from the beginning; compared with run-a:\n  recipe.lr: 0.001 -> 0.01" in caplog.text


def test_a_damaged_newest_state_falls_back_and_ends_the_same(
    row: Path, finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run-a"
    for _ in range(5):
        assert not train(tiny_job(row, run, minutes=0.0), ONE)
    newest = run / "state-00000005.pt"
    newest.write_bytes(newest.read_bytes()[:-1000])
    assert train(tiny_job(row, run), ONE)
    assert "state-00000005.pt is damaged" in caplog.text
    assert differences(final_state(run), final_state(finished)) == []
    assert [line["step"] for line in files.read_json_lines(run / "metrics.jsonl")][3:7] == [4, 5, 5, 6]


def test_a_loss_that_is_not_finite_stops_before_the_step(row: Path, tmp_path: Path) -> None:
    job = tiny_job(row, tmp_path / "run-a", spec=tiny_spec(lr=1e30), checkpoint_minutes=1e-9)
    with pytest.raises(NotFiniteError, match=r"stopped at step 2: loss .* last good state is .*state-00000001\.pt"):
        train(job, ONE)
    kept = files.sha256(job.run_dir / "state-00000001.pt")
    with pytest.raises(NotFiniteError, match="step 2"):
        train(job, ONE)
    assert files.sha256(job.run_dir / "state-00000001.pt") == kept
    assert not job.output.exists()


@pytest.mark.parametrize(("micro_batch", "remedy"), [(None, "set execution.micro_batch to 4"), (1, "use GPUs")])
def test_a_step_that_does_not_fit_says_what_to_set_and_loses_nothing(
    row: Path, finished: Path, tmp_path: Path, micro_batch: int | None, remedy: str
) -> None:
    run = tmp_path / "run-a"
    assert not train(tiny_job(row, run, minutes=0.0), ONE)

    def allocate(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", allocate)
        with pytest.raises(UserError, match=rf"images at once do not fit; {remedy}.*\(CUDA out of memory"):
            train(tiny_job(row, run, micro_batch=micro_batch), ONE)
    assert train(tiny_job(row, run), ONE)
    assert differences(final_state(run), final_state(finished)) == []


def test_metrics_count_restarts_and_average_over_the_interval(row: Path, finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run-a"
    assert not train(tiny_job(row, run, minutes=0.0, log_every=4), ONE)
    assert train(tiny_job(row, run, log_every=4), ONE)
    lines = files.read_json_lines(run / "metrics.jsonl")
    about = [(line["step"], line["steps"], line["restart"]) for line in lines]
    assert about == [(1, 1, 0), (4, 3, 1), (8, 4, 1), (12, 4, 1)]
    every = files.read_json_lines(finished / "metrics.jsonl")
    assert lines[2]["loss"] == pytest.approx(sum(line["loss"] for line in every[4:8]) / 4)
    assert lines[2]["epoch"] == pytest.approx(8 / STEPS)


def test_tensorboard_files_are_written(row: Path, tmp_path: Path) -> None:
    train(tiny_job(row, tmp_path / "run-a", epoch=1, tensorboard=True), ONE)
    assert list(tmp_path.glob("run-a/tensorboard/events.*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epoch": 4, "after": 4}, "0 < after < epoch"),
        ({"micro_batch": 3}, r"recipe\.batch: 8 is not divisible by 1 processes x a micro-batch of 3"),
        ({"images": Path("nowhere/index.npz")}, "nowhere/index.npz: no such file"),
        ({"spec": tiny_spec(batch=48)}, r"recipe\.batch: 48 is more than the 24 training images"),
        ({"spec": tiny_spec().model_copy(update={"images": 25})}, "images is 24, but the configuration says 25"),
    ],
)
def test_wrong_jobs_are_refused_before_anything_is_written(
    row: Path, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        train(tiny_job(row, tmp_path / "run-a", **change), ONE)  # type: ignore[arg-type]
    assert not (tmp_path / "run-a").exists()


def test_processes_and_micro_batches_share_the_same_samples() -> None:
    spec = tiny_spec()

    def steps(size: int, micro_batch: int | None, first: int, count: int) -> list[list[tuple[int, bool]]]:
        batches: list[list[tuple[int, bool]]] = [[] for _ in range(count)]
        for rank in range(size):
            share = Share.of(World(rank, size, torch.device("cpu")), BATCH, micro_batch)
            for step, part in share.places(first, first + count):
                batches[step - first] += items(spec, step, part)
        return batches

    whole = steps(1, None, 0, 2 * STEPS)
    assert steps(2, None, 0, 2 * STEPS) == whole
    assert steps(2, 2, 4, 2) == whole[4:6]
    assert {index for batch in whole[:STEPS] for index, _ in batch} == set(range(24))
    assert 0 < sum(flip for batch in whole for _, flip in batch) < 48


def samples_of(read: Mock, share: Share, **steps: int) -> Samples:
    """Return samples of images that ``read`` gives, which are encoded as zeros."""
    images = Mock(image_size=4, labels=np.zeros(24, np.int64), read=read)
    return Samples(tiny_spec(), images, lambda pixels: torch.zeros(len(pixels), 8, 4, 4), ONE, share, **steps)


def test_an_image_that_cannot_be_read_stops_the_step_that_needs_it_and_none_before() -> None:
    read = Mock(side_effect=[np.zeros((4, 4, 3))] * BATCH + [OSError("Input/output error")])
    samples = samples_of(read, Share.of(ONE, BATCH, None), first=0)
    assert len([*samples.next_step()]) == 1
    samples.prepare()
    with pytest.raises(OSError, match="Input/output error"):
        next(samples.next_step())


def test_the_next_images_are_encoded_behind_the_optimizer_and_before_the_loss_is_waited_for(
    row: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    def noted(owner: type, name: str, event: str) -> None:
        method = getattr(owner, name)

        def call(self: object, *arguments: object) -> object:
            order.append(event)
            return method(self, *arguments)

        monkeypatch.setattr(owner, name, call)

    noted(MovingAverage, "update", "average")
    noted(Samples, "prepare", "prepare")
    noted(Fetched, "values", "wait")
    assert train(tiny_job(row, tmp_path / "run-a", epoch=1), ONE)
    step = ["average"] * (len(order) // STEPS - 2) + ["prepare", "wait"]
    assert order == step * STEPS


def test_images_of_the_next_step_can_be_read_before_it_is_asked_for_and_none_after_the_last() -> None:
    read, share, counts = Mock(return_value=np.zeros((4, 4, 3))), Share.of(ONE, BATCH, BATCH // 2), []
    samples = samples_of(read, share, first=1, last=3)
    for _ in range(2):
        for _ in samples.next_step():
            counts.append(read.call_count)
        samples.prepare()
        counts.append(read.call_count)
    assert counts == [4, 8, 12, 12, 16, 16]
    expected = [index for place in share.places(1, 3) for index, _ in items(tiny_spec(), *place)]
    assert [call.args[0] for call in read.call_args_list] == expected
    with pytest.raises(ValueError, match="after the last step"):
        next(samples.next_step())
