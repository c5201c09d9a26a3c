"""Where other people's ViTs keep what test-time registers touch, and what their blocks are called with."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from dsr.base.errors import UserError

Change = Callable[[Any], Any]

LAYOUTS = (
    ("blocks", "mlp.fc2"),  # timm
    ("vision_model.encoder.layers", "mlp.fc2"),  # transformers: CLIP, SigLIP
    ("encoder.layers", "mlp.fc2"),  # transformers: their towers alone
    ("encoder.layer", "mlp.fc2"),  # transformers: DINOv2
    ("encoder.layer", "mlp.weights_out"),  # transformers: DINOv2 with a gate
    ("encoder.layer", "output.dense"),  # transformers: ViT
    ("encoder.layers", "mlp.3"),  # torchvision
)
"""Names of the blocks, and in each of the last layer of its MLP."""

FIXED_LENGTH = ("rope", "rope_embeddings", "relative_position_bias_table")
"""Modules and parameters with a row per token: they do not serve one more."""

CLASS_TOKENS = ("cls_token", "class_token", "class_embedding")


@dataclass(frozen=True)
class Layout:
    """The parts of a ViT. Make one yourself for a model that `Layout.of` does not know."""

    blocks: Sequence[nn.Module]
    """They take and return tokens (B, T, D), first; what else they take and return is passed on."""
    outputs: Sequence[nn.Linear]
    """The last layer of every block's MLP, M -> D: its input are the hidden activations, behind gate and norm."""
    prefix: int
    """Tokens before the image tokens: CLS, trained registers."""

    @classmethod
    def of(cls, model: nn.Module) -> "Layout":
        """Find the parts of a ViT of timm, transformers or torchvision.

        Raises:
            UserError: if it is none of them, or cannot have one token more; it is named.
        """
        name = type(model).__name__
        modules = dict(model.named_modules())
        parts = [*modules, *dict(model.named_parameters())]
        if fixed := [path for path in parts if path.rpartition(".")[2] in FIXED_LENGTH]:
            raise UserError(f"{name}: {fixed[0]} has a row per token, so that registers cannot be appended")
        for path, output in LAYOUTS:
            blocks = list(modules[path].children()) if path in modules else []
            outputs = [dict(block.named_modules()).get(output) for block in blocks]
            linear = [layer for layer in outputs if isinstance(layer, nn.Linear)]
            if blocks and len(linear) == len(blocks):
                return cls(blocks, linear, _prefix(model))
        raise UserError(
            f"{name}: its blocks, and the last linear layer of each one's MLP, are not where timm, transformers and "
            "torchvision keep them; give a dsr.registers.Layout that names them"
        )


def _prefix(model: nn.Module) -> int:
    known = getattr(model, "num_prefix_tokens", None)
    if known is not None:
        return int(known)
    has_class_token = any(name.rpartition(".")[2] in CLASS_TOKENS for name, _ in model.named_parameters())
    return has_class_token + getattr(getattr(model, "config", None), "num_register_tokens", 0)


def change_arguments(block: nn.Module, tokens: Change, others: Mapping[str, Change] | None = None) -> RemovableHandle:
    """Let ``tokens`` change the first argument of every call, and ``others`` those of these names unless they are None.

    Raises:
        ValueError: if the block has no argument of a name.
    """
    names = list(inspect.signature(block.forward).parameters)
    changes = {names[0]: tokens, **(others or {})}
    if unknown := changes.keys() - set(names):
        raise ValueError(f"{type(block).__name__} has no argument {sorted(unknown)[0]!r}; it has {', '.join(names)}")

    def changed(name: str, value: Any) -> Any:
        return changes[name](value) if name in changes and value is not None else value

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        named = zip(names[: len(args)], args[: len(names)], strict=True)
        positional = [changed(name, value) for name, value in named]
        return (*positional, *args[len(names) :]), {name: changed(name, value) for name, value in kwargs.items()}

    return block.register_forward_pre_hook(hook, with_kwargs=True)


def change_tokens(output: Any, change: Change) -> Any:
    """Change the tokens that a block returns, alone or as the first of several results."""
    return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)
