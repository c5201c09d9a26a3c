"""Which micro-batch is taken where memory is short, with a denoiser that runs out of memory on demand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from dsr.base.distributed import World
from dsr.base.errors import UserError
from dsr.denoiser.dit import build_denoiser
from dsr.flow import Flow
from dsr.training import trials
from dsr.training.batches import blank
from dsr.training.learner import Learner

from .training_row import BATCH, ONE, STEPS, tiny_spec

SPEC = tiny_spec()
ONE_GPU = World(rank=0, size=1, device=torch.device("cuda"))


def learner_that_fits(images: int) -> Learner:
    """Return a learner on the CPU whose forward pass has memory for so many images."""
    model = build_denoiser(SPEC.model)

    def allocate(_: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        if len(arguments[0]) > images:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    model.register_forward_pre_hook(allocate)
    return Learner(model, Flow.from_config(SPEC.flow), SPEC.recipe, ONE, steps_per_epoch=STEPS)


@pytest.fixture
def resets(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """What PyTorch needs to be asked as if there were a GPU; resets of the peak memory."""
    devices: list[torch.device] = []
    monkeypatch.setattr(trials, "blank", lambda model, images, _: blank(model, images, ONE.device))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=80 * 2**30))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", devices.append)
    return devices


@pytest.mark.parametrize(("room", "taken", "tries"), [(8, 8, 1), (7, 4, 2), (1, 1, 4)])
def test_the_part_of_a_process_is_halved_until_it_fits(
    resets: list[torch.device], room: int, taken: int, tries: int
) -> None:
    learner = learner_that_fits(room)
    before = [parameter.clone() for parameter in learner.model.parameters()]
    share = trials.largest_share(ONE_GPU, BATCH, learner, SPEC.model)
    assert (share.micro_batch, len(share.parts)) == (taken, BATCH // taken)
    assert all(map(torch.equal, learner.model.parameters(), before))
    assert all(parameter.grad is None for parameter in learner.model.parameters())
    assert not learner.optimizer.state
    assert resets == [ONE_GPU.device] * tries, "a try is no part of the peak that training reports"


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (BATCH, "1 images at once do not fit; use GPUs with more memory"),
        (75, "75 images at once do not fit; set execution.micro_batch to 25, and run the same command again"),
    ],
)
@pytest.mark.usefixtures("resets")
def test_what_cannot_be_halved_any_more_is_an_error(batch: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        trials.largest_share(ONE_GPU, batch, learner_that_fits(0), SPEC.model)


def test_without_a_gpu_nothing_is_tried() -> None:
    assert trials.largest_share(ONE, BATCH, learner_that_fits(0), SPEC.model).micro_batch == BATCH
