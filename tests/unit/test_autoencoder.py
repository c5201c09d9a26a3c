"""The decoder, and the autoencoder around encoder, statistics and decoder."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import pytest
import torch
from safetensors.torch import load_file

from dsr.accel import models as accelerate
from dsr.base.errors import UserError
from dsr.config.encoders import TestTimeRegisters as Registers
from dsr.config.specs import EncoderSpec, StatisticsSpec
from dsr.encoder.autoencoder import build_decoder, load_autoencoder, load_encoder
from dsr.encoder.blocks import Attention, attend
from dsr.encoder.statistics import LatentStatistics
from tests.unit import tiny_encoder
from tests.unit.tiny_encoder import SIZE, WIDTH, pixels


def test_decoder_positions_do_not_depend_on_the_seed_and_cls_has_none() -> None:
    table = build_decoder(tiny_encoder.spec()).decoder_pos_embed
    assert torch.equal(table, build_decoder(tiny_encoder.spec()).decoder_pos_embed)
    assert not table[0, 0].any()
    # The first half encodes the column: equal within a column, different within a row.
    grid = table[0, 1:, :8].reshape(4, 4, 8)
    assert torch.equal(grid[0], grid[3])
    assert not torch.equal(grid[:, 0], grid[:, 3])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("autoencoder")
    parts = tiny_encoder.write_parts(place, tiny_encoder.spec(), {0: (3, 17)})
    return {"encoder": tiny_encoder.write_folder(place / "encoder"), **parts}


def test_latents_are_tokens_in_row_major_order_and_normalised(files: dict[str, Path]) -> None:
    autoencoder = load_autoencoder(tiny_encoder.spec(Registers()), **files)
    images = pixels(2, 80)
    assert autoencoder.encoder is not None
    tokens = autoencoder.encoder(autoencoder.encoder.preprocess(images))
    statistics = load_file(files["statistics"])
    latents = autoencoder.encode(images)
    assert latents.shape == (2, WIDTH, 4, 4)
    raw = tokens[:, 1 * 4 + 2]
    want = (raw - statistics["mean"][:, 1, 2]) / (statistics["var"][:, 1, 2] + 1e-5).sqrt()
    torch.testing.assert_close(latents[:, :, 1, 2], want)
    assert autoencoder.decode(latents).shape == (2, 3, SIZE, SIZE)
    assert not autoencoder.training
    assert not any(parameter.requires_grad for parameter in autoencoder.parameters())


def test_autocast_does_not_reach_the_encoder(files: dict[str, Path]) -> None:
    autoencoder = load_autoencoder(tiny_encoder.spec(Registers()), **files)
    images = pixels(1)
    with torch.autocast("cpu", torch.bfloat16):
        latents = autoencoder.encode(images)
    assert torch.equal(latents, autoencoder.encode(images))


def test_float16_matmuls_change_latents_by_rounding_only(files: dict[str, Path]) -> None:
    autoencoder = load_autoencoder(tiny_encoder.spec(Registers()), **files)
    exact = autoencoder.encode(pixels(2))
    autoencoder.in_half = True
    rounded = autoencoder.encode(pixels(2))
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).norm() < 2e-3 * exact.norm()
    accelerate.accelerated_encode(autoencoder, torch.device("cpu"))
    assert torch.equal(autoencoder.encode(pixels(2)), rounded), "weights are stored as autocast rounds them"


def test_decode_only_and_encode_only(files: dict[str, Path]) -> None:
    spec = tiny_encoder.spec(Registers())
    whole = load_autoencoder(spec, **files)
    latents = torch.randn(1, WIDTH, 4, 4)
    decoding = load_autoencoder(spec, **{**files, "encoder": None})
    assert torch.equal(decoding.decode(latents), whole.decode(latents))
    with pytest.raises(ValueError, match="can only decode"):
        decoding.encode(pixels(1))
    encoding = load_autoencoder(spec, **{**files, "decoder": None})
    assert torch.equal(encoding.encode(pixels(1)), whole.encode(pixels(1)))
    with pytest.raises(ValueError, match="can only encode"):
        encoding.decode(latents)


def test_statistics_of_another_encoder_of_the_same_shape_are_refused(files: dict[str, Path], tmp_path: Path) -> None:
    place, plain = tmp_path / "statistics.safetensors", tiny_encoder.spec()
    encoding = EncoderSpec.model_validate(plain.model_dump(exclude={"decoder"}))
    statistics = LatentStatistics((WIDTH, 4, 4))
    statistics.update(torch.randn(8, WIDTH, 4, 4))
    statistics.save(place, StatisticsSpec(encoding=encoding, images=8, flip=True))
    assert load_autoencoder(plain, **{**files, "neurons": None, "statistics": place})
    with pytest.raises(UserError, match=rf"^{place} was made with other settings .*ttr_options: None -> "):
        load_autoencoder(tiny_encoder.spec(Registers()), **{**files, "statistics": place})


def test_files_must_fit_the_specification(files: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="no neuron file: a neuron file is needed"):
        load_autoencoder(tiny_encoder.spec(Registers()), **{**files, "neurons": None})
    with pytest.raises(UserError, match=r"json: .* test-time registers, and only there"):
        load_autoencoder(tiny_encoder.spec(), **files)
    wider = tiny_encoder.spec()
    wider = wider.model_copy(update={"encoder": wider.encoder.model_copy(update={"width": 64})})
    with pytest.raises(UserError, match="width is 32, but the configuration"):
        load_encoder(wider, encoder=files["encoder"], neurons=None)


@pytest.mark.parametrize("maximum", ["shared", "per-neuron"])
def test_encoding_compiles_without_graph_breaks(files: dict[str, Path], maximum: str) -> None:
    autoencoder = load_autoencoder(tiny_encoder.spec(Registers(maximum=maximum)), **files)
    images = pixels(2, 80)
    torch._dynamo.reset()
    compiled = torch.compile(autoencoder.encode, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(images), autoencoder.encode(images), rtol=1e-5, atol=1e-5)


def broken(_: torch.Tensor) -> NoReturn:
    raise RuntimeError("out of resource: shared memory")


UNAVAILABLE = "No fused attention (RuntimeError: out of resource: shared memory); PyTorch's is used instead"


@pytest.mark.parametrize(
    ("replacement", "runs", "messages"), [(attend, True, []), (broken, True, [UNAVAILABLE]), (broken, False, [])]
)
def test_an_attention_that_runs_replaces_pytorchs(
    files: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    replacement: Callable[[torch.Tensor], torch.Tensor],
    runs: bool,
    messages: list[str],
) -> None:
    """What GPUs run needs Triton and a GPU, and is replaced here."""
    seen: list[tuple[int, ...]] = []

    def fast(packed: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(packed.shape))
        return replacement(packed)

    module = SimpleNamespace(attend=fast, runs_on=lambda _: runs)
    monkeypatch.setitem(sys.modules, "dsr.accel.flash_attention", module)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    autoencoder = load_autoencoder(tiny_encoder.spec(Registers()), **files)
    layers = [layer for layer in autoencoder.modules() if isinstance(layer, Attention)]
    expected = autoencoder.encode(pixels(2))
    accelerate._replace_attention(layers, torch.float32, torch.device("cpu"))
    assert torch.equal(autoencoder.encode(pixels(2)), expected)
    assert caplog.messages == messages
    if replacement is attend:
        assert seen == [(1, 257, 3, 4, 8), *[(2, 17, 3, 4, 8)] * len(layers)]
    else:
        assert all(layer.attend is attend for layer in layers)


@pytest.mark.usefixtures("restored_arithmetic")
def test_float32_matmuls_keep_pytorchs_attention(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.dtype] = []
    monkeypatch.setattr(accelerate, "_replace_attention", lambda _, dtype, __: asked.append(dtype))
    autoencoder = load_autoencoder(tiny_encoder.spec(), **{**files, "neurons": None})
    cases = [
        ("cuda", False, False),
        ("cpu", True, False),
        ("cuda", True, False),
        ("cuda", False, True),
        ("cuda", True, True),
    ]
    for device, tf32, half in cases:
        torch.backends.cuda.matmul.allow_tf32, autoencoder.in_half = tf32, half
        accelerate.accelerated_encode(autoencoder, torch.device(device))
    assert asked == [torch.float32, torch.float16, torch.float16]
