"""Registers in other people's models: the library, and the examples of docs/registers.md."""

from __future__ import annotations

import copy
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models import VisionTransformer as TorchvisionViT
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    SiglipVisionConfig,
    SiglipVisionModel,
    ViTConfig,
    ViTModel,
)

from dsr.base.errors import UserError
from dsr.config.encoders import TestTimeRegisters
from dsr.encoder.siglip2 import Siglip2Encoder
from dsr.encoder.ttr import with_registers
from dsr.registers import Layout, add_diffusion_registers, add_test_time_registers, find_register_neurons, token_norms
from dsr.registers.diffusion import repeated, unrotated
from tests.unit import tiny_encoder

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


# Diffusion registers


class Block(nn.Module):
    """Attention with a rotary table and a condition per token."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, norm_first=True, batch_first=True)

    def forward(self, x: Tensor, condition: Tensor, rotary: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, str]:
        if rotary is not None:
            x = x * rotary[0] + x.flip(-1) * rotary[1]
        return self.layer(x + condition), "and something else"


class Dit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.call: Callable[..., Any] = lambda block, x, **others: block(x, **others)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        rotary = torch.full((9, 8), 0.6), torch.full((9, 8), 0.8)
        for block in self.blocks:
            x, _ = self.call(block, x, condition=condition, rotary=rotary)
        return x


HOOKS = {"condition": lambda value: repeated(value, 4), "rotary": lambda value: unrotated(value, 4)}


@pytest.fixture
def dit() -> Dit:
    torch.manual_seed(0)
    return Dit()


def add(dit: Dit) -> Dit:
    return add_diffusion_registers(dit, dit.blocks, start=1, width=8, count=4, arguments=HOOKS)


def test_registers_enter_take_part_and_leave(dit: Dit) -> None:
    x, condition = torch.randn(2, 9, 8), torch.randn(2, 9, 8)
    plain, blocks = copy.deepcopy(dit), list(dit.blocks)
    add(dit)
    rotary = torch.full((9, 8), 0.6), torch.full((9, 8), 0.8)
    tokens, _ = plain.blocks[0](x, condition, rotary)
    registers = dit.diffusion_registers
    tokens = torch.cat([(registers.tokens + registers.positions).expand(2, -1, -1), tokens], dim=1)
    wide = torch.cat([condition.mean(1, keepdim=True).expand(-1, 4, -1), condition], dim=1)
    tables = torch.cat([torch.ones(4, 8), rotary[0]]), torch.cat([torch.zeros(4, 8), rotary[1]])
    for block in plain.blocks[1:]:
        tokens, _ = block(tokens, wide, tables)
    assert torch.equal(dit(x, condition), tokens[:, 4:])
    dit(x, condition).sum().backward()
    assert registers.tokens.grad.abs().sum() > 0
    assert list(dit.blocks) == blocks, "blocks and their attributes are still the model's own"


def test_checkpoints_load_before_and_after(dit: Dit) -> None:
    plain = {name: value + 1 for name, value in dit.state_dict().items()}
    add(dit)
    tokens = dit.diffusion_registers.tokens.detach().clone()
    dit.load_state_dict(plain)
    assert torch.equal(dit.diffusion_registers.tokens, tokens)
    assert all(torch.equal(dit.state_dict()[name], value) for name, value in plain.items())
    assert dit.state_dict().keys() - plain.keys() == {"diffusion_registers.tokens", "diffusion_registers.positions"}
    other = add(Dit())
    other.load_state_dict(dit.state_dict())
    assert torch.equal(other.diffusion_registers.tokens, tokens)


def test_gradient_checkpointing_and_the_compiler_change_nothing(dit: Dit) -> None:
    x, condition = torch.randn(2, 9, 8), torch.randn(2, 9, 8)
    add(dit)
    expected = dit(x, condition)
    expected.sum().backward()
    gradient = dit.diffusion_registers.tokens.grad.clone()
    assert torch.equal(torch.compile(dit, backend="eager", fullgraph=True)(x, condition), expected), "no graph break"
    dit.zero_grad()
    dit.call = lambda block, x, condition, rotary: checkpoint(block, x, condition, rotary, use_reentrant=False)
    dit(x, condition).sum().backward()
    assert torch.equal(dit.diffusion_registers.tokens.grad, gradient)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": 5}, "registers 5: give 0 or a perfect square"),
        ({"start": 3}, "start 3: the model has blocks 0-2"),
        ({"arguments": {"rope": abs}}, "Block has no argument 'rope'; it has x, condition, rotary"),
    ],
)
def test_what_cannot_be_is_refused(dit: Dit, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        add_diffusion_registers(dit, dit.blocks, **{"start": 1, "width": 8, "count": 4, **changes})


# Test-time registers

SHAPE = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 32, "patch_size": 8}
MLP = {"intermediate_size": 64}


def timm(**changes: Any) -> VisionTransformer:
    shape = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 4, "mlp_ratio": 2.0}
    return VisionTransformer(**{**shape, "num_classes": 0, **changes})


def features(vit: nn.Module, images: Tensor) -> Tensor:
    """What a model of any library makes of all its tokens."""
    found = vit.forward_features(images) if hasattr(vit, "forward_features") else vit(images)
    return getattr(found, "last_hidden_state", found)


MODELS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "timm": (timm, 1),
    "timm, trained registers": (lambda: timm(reg_tokens=4), 5),
    "timm, norm in the MLP": (lambda: timm(scale_mlp_norm=True), 1),
    "ViT": (lambda: ViTModel(ViTConfig(**SHAPE, **MLP)), 1),
    "DINOv2": (lambda: Dinov2Model(Dinov2Config(**SHAPE, mlp_ratio=2)), 1),
    "DINOv2, gated": (lambda: Dinov2Model(Dinov2Config(**SHAPE, mlp_ratio=2, use_swiglu_ffn=True)), 1),
    "CLIP": (lambda: CLIPVisionModel(CLIPVisionConfig(**SHAPE, **MLP)), 1),
    "SigLIP": (lambda: SiglipVisionModel(SiglipVisionConfig(**SHAPE, **MLP)), 0),
    "torchvision": (lambda: TorchvisionViT(32, 8, num_layers=3, num_heads=4, hidden_dim=32, mlp_dim=64), 1),
}
"""Models and the number of their tokens that are no image."""


@pytest.mark.parametrize(("make", "prefix"), MODELS.values(), ids=MODELS)
@torch.no_grad()
def test_planted_outliers_are_found_and_moved(make: Callable[[], nn.Module], prefix: int) -> None:
    torch.manual_seed(0)
    vit = make().eval()
    layout, images = Layout.of(vit), torch.randn(4, 3, 32, 32)
    assert layout.prefix == prefix
    plain, state = features(vit, images), list(vit.state_dict())
    assert torch.equal(features(add_test_time_registers(vit, {}), images), plain), "no neuron, nothing changes"
    # Hidden unit 5 of block 1 fires on one token, and writes a large vector there.
    unit = nn.functional.one_hot(torch.tensor(5), layout.outputs[1].in_features)

    def fire(_: nn.Module, args: tuple[Tensor]) -> Tensor:
        return args[0] + 1000 * unit * (torch.arange(args[0].shape[1]) == prefix + 3)[:, None]

    layout.outputs[1].register_forward_pre_hook(fire)
    norms = token_norms(vit, images)
    assert norms.shape == (3, 4, 16)
    threshold = 2 * norms[0].max().item()
    assert (norms[-1] > threshold).any()
    assert find_register_neurons(vit, [images[:2], images[2:]], norm_threshold=threshold, top_k=1) == {1: (5,)}
    shape = features(vit, images).shape
    add_test_time_registers(vit, {1: (5,)}, kept=0)
    assert (token_norms(vit, images) < threshold).all()
    assert features(vit, images).shape == shape
    assert list(vit.state_dict()) == state
    assert features(vit.to(torch.float64), images.double()).dtype == torch.float64
    with pytest.raises(UserError, match=r"norm_threshold .*: the largest norm seen is"):
        find_register_neurons(vit, [images.double()], norm_threshold=threshold, top_k=1)


@torch.no_grad()
def test_it_is_the_intervention_of_our_own_encoders(tmp_path: Path) -> None:
    folder, images = tiny_encoder.write_folder(tmp_path), tiny_encoder.pixels(2) * 2 - 1
    own = with_registers(Siglip2Encoder.load(folder, tiny_encoder.SIZE), {1: (3, 9)}, TestTimeRegisters(registers=2))
    vit = SiglipVisionModel.from_pretrained(folder).eval()
    add_test_time_registers(vit, {1: (9, 3)}, registers=2, kept=1, shared=True)
    torch.testing.assert_close(features(vit, images), vit.vision_model.post_layernorm(own.pre_norm(images)))


@torch.no_grad()
def test_intermediate_layers_have_the_image_tokens_only() -> None:
    torch.manual_seed(0)
    vit, images = timm(dynamic_img_size=True).eval(), torch.randn(2, 3, 32, 32)
    add_test_time_registers(vit, {0: (1,), 2: (2,)})
    for layer in vit.get_intermediate_layers(images, n=2):
        assert layer.shape == (2, 16, 32)
    final, layers = vit.forward_intermediates(images, indices=[0, 2], output_fmt="NLC")
    assert [layer.shape for layer in layers] == [(2, 16, 32)] * 2
    assert torch.equal(final, vit.forward_features(images)), "a pass that ended early leaves nothing behind"
    assert vit.forward_features(torch.randn(2, 3, 64, 48)).shape == (2, 49, 32)


SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential, "Sequential: its blocks.*dsr.registers.Layout"),
        (lambda: Eva(**SMALL, use_rot_pos_emb=True), "Eva: rope"),
        (
            lambda: Beit(**SMALL, use_rel_pos_bias=True),
            "Beit: blocks.0.attn.relative_position_bias_table has a row per",
        ),
    ],
)
def test_a_model_that_cannot_have_them_is_named(model: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(UserError, match=message):
        add_test_time_registers(model(), {0: (1,)})
    with pytest.raises(UserError, match="layer 7 does not exist"):
        add_test_time_registers(timm(), {7: (1,)})


# The examples and what the library needs


def test_the_library_needs_pytorch_alone() -> None:
    needed = "import sys, torch; known = {*sys.modules}; import dsr.registers; print(*{*sys.modules} - known)"
    imported = subprocess.run([sys.executable, "-c", needed], check=True, capture_output=True, text=True).stdout
    assert {name.partition(".")[0] for name in imported.split()} == {"dsr"}


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run an example here, where its large packages are imported once; returns what it prints."""

    def run(name: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_diffusion_registers_in_the_original_dit(example: Callable[..., str]) -> None:
    printed = example("add_diffusion_registers.py")
    assert "'diffusion_registers.tokens': (1, 16, 64)" in printed
    before, after = re.search(r"prediction \(16, 4, 8, 8\), loss (.*) -> (.*)", printed).groups()
    assert float(after) < 0.7 * float(before)
    assert float(re.search(r"registers moved by ([\d.]+)%", printed).group(1)) > 0.1


def test_diffusion_registers_in_the_dit_of_diffusers(example: Callable[..., str]) -> None:
    pytest.importorskip("diffusers")
    assert "the same with gradient checkpointing: True" in example("diffusion_registers_diffusers.py")


@pytest.mark.parametrize("name", ["timm", "clip"])
def test_test_time_registers(example: Callable[..., str], name: str) -> None:
    printed = example("test_time_registers.py", name)
    assert int(re.search(r"before: (\d+) of 512 patches", printed).group(1)) > 0
    assert "found: {2: (11,)}" in printed, "the planted neuron"
    assert "after: 0 of 512; " in printed
    assert "features (8, 65, 48), as before: True" in printed
