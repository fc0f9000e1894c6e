"""Checks that a shape recipe is valid and fits a given model, with readable errors."""

from __future__ import annotations

import functools
import inspect
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from ramify.errors import RamifyError
from ramify.store.runtime import OF_TORCH

Recipe = dict[str, Any]

FORMAT = "ramify-recipe-1"
LARGEST = 2**63 - 1  # the largest number of elements in torch
MOST_AXES = 64  # dimensions of a tensor that torch can compute with
USUAL = 2**30  # bytes that a recipe may always need
TIMES = 64  # beyond that, it may need this many times the network's size

_ATTENTION = {"MultiheadAttention", "ResizedMultiheadAttention"}
"""Torch's attention layer and its resizable class; each can be loaded as the other."""
ARGUMENTS = (
    "build the model with the arguments it was saved with, but for its widths; where its first "
    "forward makes parts of it, run it once in `build`."
)


def check_module(model: Any, what: str) -> None:
    """Raise if an argument is not a model."""
    if not isinstance(model, nn.Module):
        raise RamifyError(
            f"{what} must be a torch.nn.Module, but got {_called(model)}: give the model itself"
        )


def built_by(build: Any) -> nn.Module:
    """Call the user's function that builds a model.

    Args:
        build: the function.

    Returns:
        The model.

    Raises:
        RamifyError: it is not a function without arguments, or does not return a model.
    """
    if isinstance(build, nn.Module) or not callable(build):
        raise RamifyError(
            f"`build` must be a function that builds the network, but got {_called(build)}: give "
            "its class, or `lambda: Net(...)`"
        )
    try:
        inspect.signature(build).bind()
    except TypeError as error:
        raise RamifyError(
            f"`build` is called without arguments, but needs some ({error}): give "
            "`lambda: Net(...)` with the arguments that the network was made with"
        ) from None
    except ValueError:  # a class in C has no signature
        pass
    model = build()
    check_module(model, "what `build` makes")
    return model


def _called(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"


def check_recipe(recipe: Any) -> None:
    """Raise if this is not a shape recipe, is damaged, or has an unsupported version."""
    said = recipe.get("format") if isinstance(recipe, dict) else None
    if isinstance(said, str) and said.startswith("ramify-recipe-") and said != FORMAT:
        raise RamifyError(
            f"the shape recipe is of format {said[:40]}, and this version of Ramify reads {FORMAT};"
            " read it with the version that wrote it."
        )
    missing = {"class", "shapes", "tied", "attributes"} - set(recipe if said == FORMAT else ())
    if missing:
        raise RamifyError(f"this is not a {FORMAT} shape recipe; use the JSON ramify.save wrote.")
    shapes = recipe["shapes"]
    parts: dict[str, Callable[[Any], bool]] = {
        "shapes": _is_shape,
        "tied": lambda v: isinstance(v, str) and v in shapes and shapes[v] is not None,
        "modules": lambda v: isinstance(v, str),
        "attributes": lambda v: _is_table(v) and all(map(is_plain, v.values())),
        "buffers": lambda v: isinstance(v, bool),
        "runtime": _is_table,
        "checksums": lambda v: isinstance(v, str),
    }
    for part, valid in parts.items():
        held = recipe.get(part, {})
        wrong = [k for k in held if not valid(held[k])] if _is_table(held) else [part]
        wrong = wrong or [a for a, b in held.items() if part == "tied" and not _alike(a, b, shapes)]
        if wrong or not isinstance(recipe["class"], str):
            where = f"{part} at {str(wrong[0])[:80]!r}" if wrong else "class"
            raise RamifyError(
                f"the shape recipe is damaged ({where}); use the JSON as ramify.save wrote it."
            )


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) and all(type(key) is str for key in value)


def _is_shape(value: Any) -> bool:
    whole = isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)
    return whole and len(value) <= MOST_AXES and math.prod(n for n in value if n) <= LARGEST


def _alike(alias: str, first: str, shapes: Mapping[str, Any]) -> bool:
    """Whether two names can be the same tensor."""
    return alias != first and shapes.get(alias) == shapes[first]


def is_plain(value: Any) -> bool:
    """Whether the value of an attribute can be in a recipe."""
    if isinstance(value, tuple | list):
        return all(type(item) is int for item in value)
    return type(value) in (bool, int) or (type(value) is float and math.isfinite(value))


def check_fits(model: nn.Module, tensors: Mapping[str, Tensor], recipe: Recipe) -> None:
    """Raise if the recipe cannot be for this model; nothing has been changed yet.

    Args:
        model: the model that will get its shape.
        tensors: the model's parameters and buffers.
        recipe: a checked recipe.

    Raises:
        RamifyError: the recipe is for another class or architecture.
    """
    saved, built = recipe["class"], type(model)
    names = built.__name__, built.__qualname__.rpartition(".")[2]  # of a torch.fx graph they differ
    if not any(_same_kind(saved.rpartition(".")[2], name) for name in names):
        raise RamifyError(
            f"the recipe is of {saved[:200]}, but the model is a {built.__module__}."
            f"{built.__qualname__}; build one of the saved class."
        )
    _check_parts(model, tensors, recipe)
    shapes = recipe["shapes"]
    for name, tensor in tensors.items():
        if tensor.ndim != len(shapes[name]):
            raise RamifyError(
                f"{name} has {tensor.ndim} axes, the recipe gives it the shape {shapes[name]}; "
                + ARGUMENTS
            )
    untied = set(ties_of(tensors)) - set(recipe["tied"])
    if untied:
        raise RamifyError(
            f"the model ties {min(untied)} to another tensor, the saved one did not; "
            "build the model without that tie."
        )
    for alias, first in recipe["tied"].items():
        if isinstance(tensors[alias], nn.Parameter) != isinstance(tensors[first], nn.Parameter):
            raise RamifyError(
                f"the recipe ties {alias} to {first}, of which one is a parameter and one a "
                "buffer; use the JSON as ramify.save wrote it."
            )


def _same_kind(one: str, other: str) -> bool:
    return one == other or {one, other} == _ATTENTION


def _check_parts(model: nn.Module, tensors: Mapping[str, Tensor], recipe: Recipe) -> None:
    """Check that the model and the recipe have the same tensors, modules and attributes."""
    modules = dict(model.named_modules())
    kinds = {name: type(module).__name__ for name, module in modules.items()}
    stored = recipe.get("modules", kinds)
    names = set(recipe["shapes"]) ^ set(tensors) | set(stored) ^ set(kinds)
    names |= set(recipe["attributes"]) - set(kinds) | set(recipe["tied"]) - set(tensors)
    names |= set(recipe.get("runtime", {})) - set(kinds)
    if names:
        raise RamifyError(
            "the recipe and the model do not have the same parts "
            f"({min(names)[:200]} is only in one); " + ARGUMENTS
        )
    for name, kind in kinds.items():
        if not _same_kind(stored[name], kind):
            raise RamifyError(f"{name} is a {kind}, and was a {stored[name][:200]}; {ARGUMENTS}")
        held = recipe["attributes"].get(name, {}).keys() | recipe.get("runtime", {}).get(name, {})
        for key in held:
            if not _settable(modules[name], key):
                where = f"{name}.{key[:80]}".lstrip(".")
                raise RamifyError(f"{where} is a number in the recipe alone; {ARGUMENTS}")


_CAN_BE_SET = (bool, int, float, tuple, list, dict, Tensor, functools.cached_property)


def _settable(module: nn.Module, key: str) -> bool:
    """Whether an attribute, or the class's default for it, is numeric or not computed yet."""
    if key in OF_TORCH or key.startswith("__"):
        return False
    if key in module._parameters or key in module._buffers or key in module._modules:
        return False
    old = vars(module).get(key, inspect.getattr_static(type(module), key, None))
    return old is None or isinstance(old, _CAN_BE_SET)


def lazily_built(model: nn.Module, recipe: Recipe) -> dict[str, bool]:
    """The buffers of a recipe that a model may lack because its first forward creates them.

    Args:
        model: the model that will get the recipe's shape.
        recipe: a checked recipe.

    Returns:
        For each name, whether the buffer is persistent.
    """
    modules = dict(model.named_modules())
    found = {}
    for name, persistent in recipe.get("buffers", {}).items():
        path, _, leaf = name.rpartition(".")
        module = modules.get(path)
        if module is None or not leaf or name not in recipe["shapes"]:
            continue
        absent = module._buffers.get(leaf, None) is None
        if absent and (leaf in module._buffers or not hasattr(module, leaf)):
            found[name] = persistent
    return found


def check_memory(tensors: Mapping[str, Tensor], recipe: Recipe, limit: int | None) -> None:
    """Raise if a recipe needs more memory than allowed, before any is allocated.

    Args:
        tensors: the model's tensors.
        recipe: a checked recipe.
        limit: the most bytes; None for 64 times the model's size, at least 1 GiB, and no more than
            the free memory.

    Raises:
        RamifyError: it needs more.
    """
    shapes = recipe["shapes"]
    real = {name: tensor for name, tensor in tensors.items() if not tensor.is_meta}
    sizes = {name: real[name].element_size() if name in real else 4 for name in shapes}
    if not real:
        return
    needed = {name: math.prod(shape) * sizes[name] for name, shape in shapes.items()}
    total, own = sum(needed.values()), sum(t.numel() * t.element_size() for t in real.values())
    most = min(max(USUAL, TIMES * own), _free_memory()) if limit is None else limit
    if total > most and total > own:
        largest = max(needed, key=lambda name: needed[name])
        raise RamifyError(
            f"the recipe asks for {total / 2**30:.3g} GiB of memory ({largest} alone has the shape "
            f"{shapes[largest]}), and the model has {own / 2**30:.3g}: if the recipe is what you "
            f"expect, give `limit=`, the most bytes that it may take, of which {most} are allowed."
        )


def _free_memory() -> int:
    """The bytes of free memory; the total memory if that is unknown."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, KeyError):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return LARGEST


def ties_of(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """The second and later names of each tied tensor -> its first name."""
    first: dict[int, str] = {}
    return {
        name: first[id(tensor)]
        for name, tensor in tensors.items()
        if first.setdefault(id(tensor), name) != name
    }
