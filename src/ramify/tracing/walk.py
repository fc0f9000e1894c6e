"""The modules and tensors of a model by name, in one walk, as every run of a trace needs them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import Tensor, nn

_NAMED = nn.Module.named_modules

_walked: list[tuple[nn.Module, dict[str, nn.Module]]] = []
"""Models that currently do not change, and their modules."""


@contextlib.contextmanager
def walked_once(model: nn.Module) -> Iterator[None]:
    """Walk the model only once for the block, in which no code of the model runs."""
    known = model, modules_of(model)
    _walked.append(known)
    try:
        yield
    finally:
        _walked.remove(known)


def modules_of(model: nn.Module) -> dict[str, nn.Module]:
    """Every module once, under its first name, as in `named_modules`.

    Args:
        model: the model.

    Returns:
        Name -> module; the model itself has the name "".
    """
    for known, modules in _walked:
        if known is model:
            return modules
    found: dict[str, nn.Module] = {}
    seen: set[nn.Module] = set()
    waiting: list[tuple[str, nn.Module]] = [("", model)]
    while waiting:
        name, module = waiting.pop()
        if module in seen:
            continue
        if type(module).named_modules is not _NAMED:  # a class with its own walk
            return dict(model.named_modules())
        seen.add(module)
        found[name] = module
        prefix = f"{name}." if name else ""
        inside = [(prefix + k, each) for k, each in module._modules.items() if each is not None]
        waiting += reversed(inside)
    return found


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer once, under its first name."""
    parameters, buffers = parameters_and_buffers(model)
    return parameters | buffers


def parameters_and_buffers(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Every parameter once, under its first name, and every buffer."""
    kind, plain = type(model), nn.Module
    if (kind.named_parameters, kind.named_buffers) != (plain.named_parameters, plain.named_buffers):
        return dict(model.named_parameters()), dict(model.named_buffers())
    parameters: dict[Tensor, str] = {}
    buffers: dict[Tensor, str] = {}
    for name, module in modules_of(model).items():
        prefix = f"{name}." if name else ""
        for names, held in ((parameters, module._parameters), (buffers, module._buffers)):
            for key, tensor in held.items():
                if tensor is not None:
                    names.setdefault(tensor, prefix + key)
    named, others = (
        {name: each for each, name in names.items()} for names in (parameters, buffers)
    )
    return named, others
