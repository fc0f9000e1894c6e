"""Saves what forwards store in the attributes of modules: caches, counters, the last shape.

Public numbers and tuples of integers are among the attributes of a recipe. This module saves all
other attributes that consist of tensors and numbers, with their exact types. They are restored
together, since a cache is useless without the size that it was computed for, and vice versa.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ramify.errors import RamifyError
from ramify.store.encoding import TENSOR, decode, encode
from ramify.tracing.modes import set_attribute

Runtime = dict[str, dict[str, Any]]
"""module -> attribute -> its value as JSON, with tensors by name."""

OF_TORCH = frozenset(vars(nn.Module())) | {"training"}
MOST = 10_000  # values of one attribute in a recipe; more are a table, not a state


def runtime_of(model: nn.Module) -> tuple[Runtime, dict[str, Tensor]]:
    """The attributes of a model other than parameters, buffers and plain sizes.

    Args:
        model: any model.

    Returns:
        The attributes, and the tensors that they name.
    """
    own = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    found: Runtime = {}
    tensors: dict[str, Tensor] = {}
    for path, module in model.named_modules():
        if type(module).__module__.startswith("torch."):
            continue
        for name, value in vars(module).items():
            if name in OF_TORCH or not _is_kept(name, value, own):
                continue
            held: dict[str, Tensor] = {}
            try:
                written = encode(value, f"{path}.{name}".lstrip("."), held)
                json.dumps(written, allow_nan=False)
            except (RamifyError, ValueError, RecursionError):
                continue
            found.setdefault(path, {})[name] = written
            tensors |= {key: tensor.detach() for key, tensor in held.items()}
    return found, tensors


def _is_kept(name: str, value: Any, own: set[int]) -> bool:
    """Whether an attribute consists of its own tensors, or of numbers that no recipe holds."""
    if isinstance(value, bool | int | float):
        return name.startswith("_")
    if not isinstance(value, (Tensor, list, tuple, dict)):
        return False
    leaves = [leaf for leaf in tree_leaves(value) if leaf is not None]
    if not leaves or len(leaves) > MOST:
        return False
    if type(value) is tuple and not name.startswith("_") and all(type(n) is int for n in leaves):
        return False
    return all(
        (type(leaf) in (Tensor, bool, int, float))
        and not (isinstance(leaf, Tensor) and (id(leaf) in own or not _can_be_written(leaf)))
        for leaf in leaves
    )


def _can_be_written(tensor: Tensor) -> bool:
    """Whether a tensor has dense values, which a file can hold."""
    return tensor.layout is torch.strided and not (tensor.is_meta or tensor.is_quantized)


def warn_of_lost(model: nn.Module) -> None:
    """Warn of objects that hold tensors, such as a cache, since they are not saved."""
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            plain = isinstance(value, (nn.Module, Tensor, type)) or callable(value)
            if name in OF_TORCH or plain or not hasattr(value, "__dict__"):
                continue
            if any(isinstance(leaf, Tensor) for leaf in tree_leaves(list(vars(value).values()))):
                where = f"{path}.{name}".lstrip(".")
                warnings.warn(
                    f"'{where}' is a {type(value).__name__} that holds tensors, and is not saved: "
                    "the loaded model has there what its class builds",
                    stacklevel=4,
                )


def named_in(runtime: Any) -> set[str]:
    """The names of the tensors in saved attributes."""
    if isinstance(runtime, list):
        return set().union(*map(named_in, runtime))
    if not isinstance(runtime, dict):
        return set()
    if isinstance(name := runtime.get(TENSOR), str):
        return {name}
    return set().union(*map(named_in, runtime.values()))


def modules_with_tensors(runtime: Runtime) -> set[str]:
    """The modules that keep tensors in attributes."""
    return {path for path, values in runtime.items() if named_in(values)}


def decoded(
    model: nn.Module, runtime: Runtime, tensors: Mapping[str, Tensor], source: str
) -> Runtime:
    """The values of saved attributes, on the device of the model.

    Args:
        model: a model of the saved class.
        runtime: from :func:`runtime_of`.
        tensors: the tensors that it names, and possibly others.
        source: the origin of the tensors, for the error.

    Returns:
        module -> attribute -> value.

    Raises:
        RamifyError: the stored attributes do not have this form.
    """
    first = next((t for t in (*model.parameters(), *model.buffers())), torch.empty(0))
    try:
        moved = {name: tensors[name].to(first.device) for name in named_in(runtime)}
        return {
            path: {name: decode(value, moved) for name, value in values.items()}
            for path, values in runtime.items()
        }
    except (KeyError, ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise RamifyError(
            f"{source} and its shape recipe do not agree on the attributes of modules ({error!r}): "
            "weights and recipe are not of one save; copy or save both again."
        ) from None


def restore(model: nn.Module, values: Runtime) -> None:
    """Restore attributes, which were checked before."""
    modules = dict(model.named_modules())
    for path, held in values.items():
        module = modules[path]
        bare = not any(isinstance(leaf, Tensor) for leaf in tree_leaves(list(held.values())))
        for name, value in held.items():
            if not (bare and is_done_once(module, name, value)):
                set_attribute(module, name, value)


def is_done_once(module: nn.Module, name: str, value: object) -> bool:
    """Whether an attribute is a flag for a one-time action whose effect no file holds.

    A forward may register hooks in its first call, and set a flag. Without the hooks the flag is
    wrong, and a newly built module must register them again.

    Args:
        module: the module as its class builds it.
        name: the name of the attribute.
        value: its value when the model was saved.

    Returns:
        The answer, which is valid for modules without tensors in attributes.
    """
    return value is True and not hasattr(module, name)
