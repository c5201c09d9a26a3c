"""Change what a block of somebody else's model is called with, whether by position or by name."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

Change = Callable[[Any], Any]


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
