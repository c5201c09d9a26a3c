"""From the numbers of images to their pixels, by Euler's method with classifier-free guidance, for both denoisers."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dsr.accel.device import HALF, Fetched, autocast, round_matmul_weights, usable_precision
from dsr.accel.models import accelerate, compile_each
from dsr.base.errors import UserError
from dsr.base.randomness import balanced_labels, noise
from dsr.config.sampling import Guidance
from dsr.config.specs import SampleSpec
from dsr.denoiser.dit import load_denoiser
from dsr.encoder.autoencoder import load_autoencoder, quantised
from dsr.flow import Flow

Images = npt.NDArray[np.uint8]
Drawing = Callable[[], Images]
"""Images that are being drawn: waits for them, uint8 (n, H, W, 3), in any thread."""
Predictor = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x_t (B, C, S, S), t (B,), labels (B,)) -> what the denoiser predicts (B, C, S, S)."""


def guided(model: Predictor, x: Tensor, t: Tensor, y: Tensor, null_label: int, guidance: Guidance) -> Tensor:
    """Predict (B, C, S, S) fp32 by one forward of a doubled batch, with labels and with the null label.

    D = D_null + scale (D_class - D_null) for the samples whose time lies in the interval, D_class for the others. Mixed
    velocities are those of mixed data.
    """
    labels = torch.cat([y, torch.full_like(y, null_label)])
    conditional, unconditional = model(torch.cat([x, x]), torch.cat([t, t]), labels).float().chunk(2)
    mixed = unconditional + guidance.scale * (conditional - unconditional)
    return torch.where(acts(t, guidance).view(-1, 1, 1, 1), mixed, conditional)


def acts(t: Tensor, guidance: Guidance) -> Tensor:
    """Return where guidance acts, bool of the shape of ``t``: a scale other than 1, and t in the closed interval."""
    low, high = guidance.interval
    return (t >= low) & (t <= high) & (guidance.scale != 1)


def trajectory(
    model: Predictor, flow: Flow, noise: Tensor, y: Tensor, *, null_label: int, steps: int, guidance: Guidance
) -> Iterator[Tensor]:
    """Yield the ``steps`` states (B, C, S, S) of Euler's method from noise to latents, by steps - 1 predictions.

    State and time stay fp32, whatever the model computes in. Where guidance does not act there is no null forward.
    """
    grid = flow.time_grid(steps)
    active = acts(grid, guidance).tolist()
    grid = grid.to(noise.device)
    x = noise
    yield x
    for index in range(steps - 1):
        t = grid[index].expand(len(x))
        prediction = guided(model, x, t, y, null_label, guidance) if active[index] else model(x, t, y).float()
        x = x + (grid[index + 1] - grid[index]) * flow.velocity(x, prediction, t)
        yield x


def drawing(pixels: Tensor, numbers: Sequence[int]) -> Drawing:
    """Take pixels (n, 3, H, W) of the images of these numbers from the device, which does not wait for it."""
    images, finite = Fetched(quantised(pixels)), Fetched(pixels.isfinite().all())

    def wait() -> Images:
        if not finite.values():
            raise UserError(
                f"images {numbers[0]} to {numbers[-1]} are not finite numbers: the weights, statistics or decoder"
                " are damaged or do not belong together"
            )
        return images.values().numpy()

    return wait


class Sampler:
    """Draws images with the weights of one file; image i depends on (seed, i) alone.

    Raises:
        UserError: if a file is missing or does not fit ``spec``, or guidance is asked of a denoiser without null label.
    """

    def __init__(
        self,
        spec: SampleSpec,
        *,
        weights: Path,
        statistics: Path,
        decoder: Path,
        device: torch.device,
        compiled: bool = False,
    ) -> None:
        if spec.guidance is None:
            raise ValueError("a sampler needs a guidance")
        if spec.guidance.scale != 1 and not spec.model.denoiser.class_dropout:
            raise UserError(
                f"guidance.scale {spec.guidance.scale}: the denoiser was trained with class_dropout 0 and has no null"
                " label; sample it unguided"
            )
        self._spec, self._guidance, self._device = spec, spec.guidance, device
        self._flow = Flow.from_config(spec.flow)
        self._labels = balanced_labels(spec.model.classes, spec.images, spec.seed)
        model = load_denoiser(spec.model, weights, device, spec.weights)
        self._autoencoder = load_autoencoder(
            spec.autoencoder, encoder=None, neurons=None, statistics=statistics, decoder=decoder
        ).to(device)
        self._precision = usable_precision(spec.precision, device)
        if self._precision in HALF:
            round_matmul_weights(model, HALF[self._precision])
            round_matmul_weights(self._autoencoder, HALF[self._precision])
        if compiled and self._autoencoder.decoder is not None:
            accelerate(model, device, self._precision)
            compile_each(self._autoencoder.decoder.decoder_layers)
        self._model: Predictor = model

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self._spec.model.classes

    def of_classes(self, labels: Sequence[int], seed: int = 0, numbers: Sequence[int] | None = None) -> Images:
        """Draw one image of each of these classes, uint8 (n, H, W, 3); image i depends on (seed, i) and its class.

        ``numbers`` are the i of each, from 0 on if they are not given.

        Raises:
            UserError: if there is no such class, or a pixel is not a finite number.
        """
        if wrong := [label for label in labels if not 0 <= label < self.classes]:
            raise UserError(f"class {wrong[0]}: expected 0 to {self.classes - 1}")
        return self._start(numbers or range(len(labels)), torch.tensor(labels), seed)()

    def start(self, numbers: Sequence[int]) -> Drawing:
        """Begin to draw the images of these numbers; a GPU goes on while the caller does something else.

        What it returns gives them when they are there; a UserError if a pixel is not a finite number.
        """
        return self._start(numbers, self._labels[list(numbers)], self._spec.seed)

    @torch.inference_mode()
    def _start(self, numbers: Sequence[int], labels: Tensor, seed: int) -> Drawing:
        latents = self.latents(numbers, labels, seed)
        with autocast(self._device, self._precision):
            return drawing(self._autoencoder.decode(latents), numbers)

    @torch.inference_mode()
    def latents(self, numbers: Sequence[int], labels: Tensor, seed: int) -> Tensor:
        """Draw normalised latents, (n, C, S, S) fp32, of classes ``labels`` (n,) int64."""
        spec = self._spec
        shape = (spec.model.channels, spec.model.grid, spec.model.grid)
        start = noise(seed, "sample", numbers, shape, self._device)
        states = trajectory(
            self._model,
            self._flow,
            # In memory as the denoiser takes and leaves latents, so that nothing is transposed on the way.
            start.contiguous(memory_format=torch.channels_last),
            labels.to(self._device),
            null_label=spec.model.classes,
            steps=spec.steps,
            guidance=self._guidance,
        )
        with autocast(self._device, self._precision):
            return deque(states, maxlen=1).pop()
