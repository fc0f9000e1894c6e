"""Networks whose shape has changed, on disk: weights as safetensors, beside a JSON shape recipe.

The recipe names the shape of every parameter and buffer and the plain integers, floats and tuples
that the modules carry (``in_channels``, ``normalized_shape``, ...), so that the user's own class
rebuilds the network: nothing of its code is stored.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ramify.errors import RamifyError
from ramify.run.files import (
    read_json,
    read_tensors,
    same_memory_format,
    write_json,
    write_tensors,
)
from ramify.trace.layout import put

FORMAT = "ramify-recipe-1"
SUFFIX = ".safetensors"

Recipe = dict[str, Any]


def save(model: nn.Module, path: str | Path) -> Path:
    """Save a network: ``path.safetensors`` holds its tensors, ``path.json`` its shape recipe.

    Every parameter and buffer is stored under its own name, tied ones under each of their names,
    so that a module of the right shape also loads the file with ``load_state_dict``.

    Args:
        model: The network; its class is named in the recipe, never stored.
        path: Where to; a final ``.safetensors`` may be given or left away.

    Returns:
        The path of the safetensors file.

    Raises:
        RamifyError: The model keeps state that is not a tensor (``get_extra_state``).

    Example:
        >>> import tempfile
        >>> from torch import nn
        >>> import ramify
        >>> folder = tempfile.mkdtemp()
        >>> path = ramify.save(nn.Linear(3, 5), folder + "/net")
        >>> ramify.load(path, build=lambda: nn.Linear(3, 1))
        Linear(in_features=3, out_features=5, bias=True)
    """
    extra = [key for key in model.state_dict() if key.endswith("_extra_state")]
    if extra:
        raise RamifyError(
            f"{type(model).__name__} keeps state that is not a tensor ({extra[0]}), which a "
            "safetensors file cannot hold; save that part yourself and remove get_extra_state."
        )
    return write_model(path, recipe_of(model), named_tensors(model))


def write_model(path: str | Path, recipe: Recipe, tensors: Mapping[str, Tensor]) -> Path:
    """Write the two files of :func:`save` from their contents; returns the safetensors file."""
    weights, shapes = _paths(path)
    write_json(shapes, recipe)
    write_tensors(weights, tensors, {"format": "pt"})
    return weights


def load(path: str | Path, build: Callable[[], nn.Module]) -> nn.Module:
    """Rebuild a saved network from the user's own class.

    Args:
        path: What was given to :func:`save`.
        build: Makes a network of the same class, of any widths; it is called once.

    Returns:
        The network with the saved shapes, values and types.

    Raises:
        RamifyError: A file is missing or torn, or ``build`` makes another class or wiring.
    """
    weights, shapes = _paths(path)
    advice = f"ramify.save writes {weights.name} and {shapes.name} together: copy both again."
    recipe = read_json(shapes, advice)
    tensors, _ = read_tensors(weights, advice)
    return fill(reshape(build(), recipe), tensors, str(weights))


def recipe_of(model: nn.Module) -> Recipe:
    """The shape recipe of a network, as :func:`save` writes it and :func:`reshape` reads it."""
    tensors = named_tensors(model)
    attributes = {name: plain for name, plain in _plain_attributes(model) if plain}
    kind = type(model)
    return {
        "format": FORMAT,
        "class": f"{kind.__module__}.{kind.__qualname__}",
        "shapes": {name: list(tensor.shape) for name, tensor in tensors.items()},
        "tied": _ties(tensors),
        "attributes": attributes,
    }


def reshape(model: nn.Module, recipe: Recipe) -> nn.Module:
    """Give a network the shape that a recipe describes, in place.

    Values of a tensor that grows are repeated along the grown axis; they are there to be loaded
    over. Parameters stay the same objects, so an optimizer that holds them still does.

    Args:
        model: A network of the recipe's class, of any widths.
        recipe: From :func:`recipe_of`, or a saved ``.json``.

    Returns:
        The same network.

    Raises:
        RamifyError: The recipe is of another class or wiring; the network is then unchanged.
    """
    tensors = named_tensors(model)
    _check(model, tensors, recipe)
    for name, tensor in tensors.items():
        shape = tuple(recipe["shapes"][name])
        if tuple(tensor.shape) != shape:
            put(tensor, same_memory_format(_tiled(tensor.data, shape), like=tensor))
            tensor.grad = None
    for name, values in recipe["attributes"].items():
        _set_attributes(model.get_submodule(name), values)
    for alias, first in recipe["tied"].items():
        parent, _, leaf = alias.rpartition(".")
        setattr(model.get_submodule(parent), leaf, named_tensors(model)[first])
    return model


def fill(model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> nn.Module:
    """Give every parameter and buffer the value and type stored under its name, in place.

    Args:
        model: A network already of the right shape.
        tensors: Name -> value.
        source: What the values come from, for the error.

    Returns:
        The same network.

    Raises:
        RamifyError: A name is missing or a shape differs; the network is then unchanged.
    """
    own = named_tensors(model)
    for name, tensor in own.items():
        if name not in tensors or tensors[name].shape != tensor.shape:
            found = tuple(tensors[name].shape) if name in tensors else "nothing"
            raise RamifyError(
                f"{source} holds {found} for {name}, its shape recipe says {tuple(tensor.shape)}: "
                "weights and recipe are not of one save; copy or save both again."
            )
    for name, tensor in own.items():
        put(tensor, same_memory_format(tensors[name].to(tensor.device), like=tensor))
    return model


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer by name, tied ones under each of their names."""
    tensors: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    tensors.update(model.named_buffers(remove_duplicate=False))
    lazy = [name for name, tensor in tensors.items() if is_lazy(tensor)]
    if lazy:
        raise RamifyError(
            f"{lazy[0]} has no shape yet (a lazy module); run the model on one batch first."
        )
    return tensors


def _paths(path: str | Path) -> tuple[Path, Path]:
    stem = str(path).removesuffix(SUFFIX)
    return Path(stem + SUFFIX), Path(stem + ".json")


def _ties(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Second and later names of one tensor -> its first name."""
    first: dict[int, str] = {}
    return {
        name: first[id(tensor)]
        for name, tensor in tensors.items()
        if first.setdefault(id(tensor), name) != name
    }


def _plain_attributes(model: nn.Module) -> Iterator[tuple[str, dict[str, Any]]]:
    """For each module its public finite numbers and tuples or lists of integers."""
    for name, module in model.named_modules():
        plain: dict[str, Any] = {}
        for key, value in vars(module).items():
            if key.startswith("_"):
                continue
            if type(value) is int or (type(value) is float and math.isfinite(value)):
                plain[key] = value
            elif isinstance(value, tuple | list) and all(type(item) is int for item in value):
                plain[key] = list(value)
        yield name, plain


def _set_attributes(module: nn.Module, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        old = vars(module).get(key)
        if isinstance(value, list) and not isinstance(old, list):
            value = type(old)(value) if isinstance(old, tuple) else tuple(value)
        if old != value:
            setattr(module, key, value)


def _check(model: nn.Module, tensors: Mapping[str, Tensor], recipe: Recipe) -> None:
    """Raise where the recipe cannot be of this model; nothing has been changed yet."""
    missing = {"format", "class", "shapes", "tied", "attributes"} - set(recipe)
    if missing or recipe["format"] != FORMAT:
        raise RamifyError(f"this is not a {FORMAT} shape recipe; use the JSON ramify.save wrote.")
    saved, built = recipe["class"], type(model)
    if saved.rpartition(".")[2] != built.__name__:
        raise RamifyError(
            f"the recipe is of {saved}, but the model is a {built.__module__}.{built.__qualname__};"
            " build one of the saved class."
        )
    shapes = recipe["shapes"]
    names = set(shapes) ^ set(tensors) | (
        set(recipe["attributes"]) - {name for name, _ in model.named_modules()}
    )
    if names:
        raise RamifyError(
            f"the recipe and the model do not have the same parts ({min(names)} is only in one); "
            "build the model with the arguments it was saved with, but for its widths."
        )
    for name, tensor in tensors.items():
        if tensor.ndim != len(shapes[name]):
            raise RamifyError(
                f"{name} has {tensor.ndim} axes, the recipe gives it the shape {shapes[name]}; "
                "build the model with the arguments it was saved with, but for its widths."
            )
    untied = set(_ties(tensors)) - set(recipe["tied"])
    if untied:
        raise RamifyError(
            f"the model ties {min(untied)} to another tensor, the saved one did not; "
            "build the model without that tie."
        )


def _tiled(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """``tensor`` cut or repeated along each axis to ``shape``."""
    for axis, (old, new) in enumerate(zip(tensor.shape, shape, strict=True)):
        if old != new:
            index = torch.arange(new, device=tensor.device) % max(old, 1)
            tensor = tensor.index_select(axis, index)
    return tensor
