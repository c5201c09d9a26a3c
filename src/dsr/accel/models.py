"""Make models fast on the device at hand: fused kernels where they run, compiled layers where they do not."""

import logging
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import nn

from dsr.accel.device import autocast, round_matmul_weights
from dsr.denoiser.dit import Denoiser
from dsr.denoiser.layers import Block, Run, run_blocks
from dsr.encoder.autoencoder import Autoencoder
from dsr.encoder.blocks import Attention

log = logging.getLogger(__name__)

TRIAL_IMAGES = 16
"""Images of a trial pass, unless the memory is too small for them."""

VARIANTS = 64
"""Shapes and modes that one piece of code may be compiled for; two models need more than PyTorch's own 8."""

OPTIONS: dict[str, str | int | bool | Callable[..., Any]] = {"comprehensive_padding": False}
"""For PyTorch's compiler. Rows with gaps would keep its matmuls from adding the bias themselves."""


def accelerate(model: Denoiser, device: torch.device, precision: str) -> None:
    """Replace how ``model``, which is on ``device``, runs its blocks; what it computes changes by rounding only.

    On a GPU the blocks run by fused kernels, unless ``precision`` is fp32, which these do not have. What does not run
    there is named in one warning, with what is used instead: PyTorch's compiler gets the blocks in the end, as it does
    elsewhere. A model that is not trained must have its weights: some are stored in another form here.
    """
    if device.type == "cuda" and precision != "fp32" and _fuse(model, device, precision):
        compile_each([model.final_layer])
    else:
        layers: list[nn.Module] = [model.final_layer, *model.blocks]
        compile_each(layers)


def _fuse(model: Denoiser, device: torch.device, precision: str) -> bool:
    """Let kernels run the blocks, in the fastest way that works; False if there is none."""
    failed: list[str] = []
    for name, make in _ways(model, device, precision, failed):
        try:
            model.run_blocks = make()
            _trial_pass(model, device, precision)
        except Exception as error:
            # Triton fails in too many ways to list: no compiler, no Python.h, a cache that cannot be written, too
            # little shared memory, an assertion.
            failed.append(f"{name} ({type(error).__name__}: {error})")
        else:
            log.info("The blocks run by %s", name)
            if failed:
                log.warning("Not available here: %s; %s are used instead", "; ".join(failed), name)
            return True
    model.run_blocks = run_blocks
    log.warning("Not available here: %s; the blocks are compiled by PyTorch instead", "; ".join(failed))
    return False


def _ways(
    model: Denoiser, device: torch.device, precision: str, failed: list[str]
) -> list[tuple[str, Callable[[], Run]]]:
    """Ways to run the blocks, the fastest first; ``failed`` gets what cannot be tried at all."""
    try:
        # Triton comes with PyTorch's CUDA builds only, so the import must wait until here.
        from dsr.accel import flash_attention, fused, matmul
    except Exception as error:
        failed.append(f"fused kernels ({type(error).__name__}: {error})")
        return []
    if not flash_attention.runs_on(device):
        failed.append("fused kernels (they need an Ampere GPU or a later one)")
        return []
    ways: list[tuple[str, Callable[[], Run]]] = [("fused kernels", lambda: fused.FusedBlocks(fuse_rope=False))]
    if precision == "tf32" or not matmul.runs_on(device):
        return ways
    if any(parameter.requires_grad for parameter in model.parameters()):
        return [("matmuls fused with RoPE", lambda: fused.FusedBlocks(fuse_rope=True)), *ways]
    blocks = cast(Iterable[Block], model.blocks)
    return [("matmuls fused with RoPE and SwiGLU", lambda: fused.FrozenBlocks(blocks)), *ways]


def _trial_pass(model: Denoiser, device: torch.device, precision: str) -> None:
    """Pass a few images through, forwards and, if the model is trained, backwards.

    Raises:
        torch.OutOfMemoryError: if there is no room for a single one.
    """
    images = TRIAL_IMAGES
    while True:
        try:
            _pass(model, device, precision, images)
            return
        except torch.OutOfMemoryError:
            if images == 1:
                raise
            images //= 2


def _pass(model: Denoiser, device: torch.device, precision: str, images: int) -> None:
    x = torch.zeros(images, model.in_channels, model.input_size, model.input_size, device=device)
    t, y = x.new_zeros(images), torch.zeros(images, dtype=torch.int64, device=device)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with autocast(device, precision), torch.set_grad_enabled(bool(trained)):
        result = model(x, t, y)
    if trained:
        torch.autograd.grad(result.float().sum(), trained, allow_unused=True)
    torch.cuda.synchronize(device)


def accelerated_encode(autoencoder: Autoencoder, device: torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a fast ``autoencoder.encode``, which is on ``device``; what it computes changes by rounding only.

    Set arithmetic and ``in_half`` before: the attention has TF32 and float16, but no fp32.
    """
    if autoencoder.in_half and autoencoder.encoder is not None:
        round_matmul_weights(autoencoder.encoder, torch.float16)
    layers = [layer for layer in autoencoder.modules() if isinstance(layer, Attention)]
    if device.type == "cuda" and (autoencoder.in_half or torch.backends.cuda.matmul.allow_tf32):
        _replace_attention(layers, torch.float16 if autoencoder.in_half else torch.float32, device)
    _prepare_compiler()
    return torch.compile(autoencoder.encode, dynamic=False, options=OPTIONS)


def _replace_attention(layers: list[Attention], dtype: torch.dtype, device: torch.device) -> None:
    """Let the attention of `dsr.accel.flash_attention` run, if it does with the heads of these layers."""
    try:
        # Triton comes with PyTorch's CUDA builds only, so the import must wait until here.
        from dsr.accel.flash_attention import attend, runs_on

        if not runs_on(device):
            return
        for heads, width in {(layer.num_heads, layer.q_proj.out_features) for layer in layers}:
            attend(torch.zeros(1, 257, 3, heads, width // heads, dtype=dtype, device=device))
        torch.cuda.synchronize(device)
    except Exception as error:
        # As above.
        log.warning("No fused attention (%s: %s); PyTorch's is used instead", type(error).__name__, error)
        return
    for layer in layers:
        layer.attend = attend


def compile_each(modules: Iterable[nn.Module]) -> None:
    """Compile modules in place, each for the exact shapes that it sees.

    Modules of one class share their code: 28 equal blocks take the time of one. What cannot be compiled (no C++
    compiler, an unknown GPU) runs as it is, with a warning of PyTorch that says why.
    """
    _prepare_compiler()
    for module in modules:
        module.compile(dynamic=False, options=OPTIONS)  # type: ignore[no-untyped-call]


def _prepare_compiler() -> None:
    import torch._dynamo  # takes a second, and only compiled code needs it
    import torch._functorch.config

    # This cache on disk does not tell bf16 from fp16: it would hand out one's code for the other.
    torch._functorch.config.enable_autograd_cache = False
    torch._dynamo.config.recompile_limit = VARIANTS
    torch._dynamo.config.suppress_errors = True
