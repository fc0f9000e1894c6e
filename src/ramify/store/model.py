"""Networks whose shape has changed, on disk: weights as safetensors, beside a JSON shape recipe.

The recipe names the shape of every parameter and buffer, the class of every module, and the plain
numbers, flags and tuples that the modules carry (``in_channels``, ``normalized_shape``, ...), so
that the user's own class rebuilds the network: nothing of its code is stored.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ramify.errors import RamifyError
from ramify.store.files import (
    read_json,
    read_tensors,
    same_memory_format,
    write_json,
    write_tensors,
)
from ramify.tracing import check_ungated
from ramify.tracing.attention.multihead import convert
from ramify.tracing.indexing import set_data

FORMAT = "ramify-recipe-1"
SUFFIX = ".safetensors"

Recipe = dict[str, Any]

_ATTENTION = {"MultiheadAttention", "ResizedMultiheadAttention"}
"""Torch's attention layer, and what an edit of its sizes turns it into: each loads as the other."""
_ARGUMENTS = "build the model with the arguments it was saved with, but for its widths."
_WRAPPERS = {
    "DistributedDataParallel": "its `.module`",
    "DataParallel": "its `.module`",
    "OptimizedModule": "the model that torch.compile was given, its `._orig_mod`",
}


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
        RamifyError: The model is wrapped (DDP, ``torch.compile``), holds gates that are not folded,
            or keeps state that is not a tensor (``get_extra_state``).

    Example:
        >>> import tempfile
        >>> from torch import nn
        >>> import ramify
        >>> folder = tempfile.mkdtemp()
        >>> path = ramify.save(nn.Linear(3, 5), folder + "/net")
        >>> ramify.load(path, build=lambda: nn.Linear(3, 1))
        Linear(in_features=3, out_features=5, bias=True)
    """
    kind = type(model).__name__
    if kind in _WRAPPERS:
        raise RamifyError(
            f"the model is wrapped in {kind}, and would come back so: save {_WRAPPERS[kind]}."
        )
    check_ungated(model)
    extra = [key for key in model.state_dict() if key.endswith("_extra_state")]
    if extra:
        raise RamifyError(
            f"{kind} keeps state that is not a tensor ({extra[0]}), which a "
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
        RamifyError: A file is missing, torn or changed, or of another version, or ``build`` makes
            another class or wiring.

    Example:
        >>> import tempfile
        >>> path = save(nn.Linear(3, 5), tempfile.mkdtemp() + "/net")
        >>> load(path, build=lambda: nn.Linear(3, 1)).out_features
        5
    """
    weights, shapes = _paths(path)
    advice = f"ramify.save writes {weights.name} and {shapes.name} together: copy both again."
    recipe = read_json(shapes, advice)
    check_recipe(recipe)
    tensors, _ = read_tensors(weights, advice)
    _check_stored(tensors, recipe["shapes"], str(weights))
    return fill(to_shape(build(), recipe), tensors, str(weights))


def recipe_of(model: nn.Module) -> Recipe:
    """The shape recipe of a network, as :func:`save` writes it and :func:`reshape` reads it.

    Args:
        model: The network.

    Returns:
        A dictionary of plain values, fit for JSON.

    Raises:
        RamifyError: A parameter has no shape yet (a lazy module).

    Example:
        >>> import ramify
        >>> from torch import nn
        >>> grown = nn.Linear(3, 5)
        >>> again = ramify.reshape(nn.Linear(3, 1), ramify.recipe_of(grown))
        >>> again.load_state_dict(grown.state_dict())
        <All keys matched successfully>
    """
    tensors = named_tensors(model)
    attributes = {name: plain for name, plain in _plain_attributes(model) if plain}
    kind = type(model)
    return {
        "format": FORMAT,
        "class": f"{kind.__module__}.{kind.__qualname__}",
        "shapes": {name: list(tensor.shape) for name, tensor in tensors.items()},
        "tied": _ties(tensors),
        "modules": {name: type(module).__name__ for name, module in model.named_modules()},
        "attributes": attributes,
    }


def reshape(model: nn.Module, recipe: Recipe) -> nn.Module:
    """Give a network the shape that a recipe describes, in place.

    Values of a tensor that grows are repeated along the grown axis; they are there to be loaded
    over. A buffer that no ``state_dict`` holds cannot be loaded so: where one changes its shape, a
    warning names it. Parameters stay the same objects, so an optimizer that holds them still does.

    Args:
        model: A network of the recipe's class, of any widths.
        recipe: From :func:`recipe_of`, or a saved ``.json``.

    Returns:
        The same network.

    Raises:
        RamifyError: The recipe is of another class, wiring or version, or damaged; the network is
            then unchanged.

    Example:
        >>> reshape(nn.Linear(3, 1), recipe_of(nn.Linear(3, 5))).out_features
        5
    """
    before = {name: tensor.shape for name, tensor in model.named_buffers()}
    to_shape(model, recipe)
    kept = model.state_dict(keep_vars=True)
    for name, tensor in model.named_buffers():
        if name not in kept and tensor.shape != before.get(name):
            warnings.warn(
                f"{name} changed its shape to {tuple(tensor.shape)} and no state_dict holds it: "
                "its values are repeated ones; set them, or take them from ramify.load.",
                stacklevel=2,
            )
    return model


def to_shape(model: nn.Module, recipe: Recipe) -> nn.Module:
    """Like :func:`reshape`, without its warning: for where every value is loaded afterwards."""
    check_recipe(recipe)
    tensors = named_tensors(model)
    _check(model, tensors, recipe)
    for name, kind in recipe.get("modules", {}).items():
        convert(model.get_submodule(name), resized=kind == "ResizedMultiheadAttention")
    # Shapes, then plain attributes such as `in_channels`, then tensors that have two names.
    for name, tensor in tensors.items():
        shape = tuple(recipe["shapes"][name])
        if tuple(tensor.shape) != shape:
            set_data(tensor, same_memory_format(_tiled(tensor.data, shape), like=tensor))
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
        RamifyError: A name is missing, a shape or kind of number differs, or the network has no
            memory (device 'meta'); the network is then unchanged.
    """
    own = named_tensors(model)
    _check_stored(tensors, {name: tuple(t.shape) for name, t in own.items()}, source)
    for name, tensor in own.items():
        if tensor.is_meta:
            raise RamifyError(
                f"{name} was built on the device 'meta', which holds no values; build the model on "
                "a device with memory."
            )
        if tensor.requires_grad and not _differentiable(tensors[name]):
            raise RamifyError(
                f"{source} holds {tensors[name].dtype} for {name}, which takes gradients: "
                "save the network again."
            )
    for name, tensor in own.items():
        set_data(tensor, same_memory_format(tensors[name].to(tensor.device), like=tensor))
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


def _differentiable(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _check_stored(
    tensors: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]], source: str
) -> None:
    """Raise where a file of tensors does not hold exactly these shapes."""
    for name in sorted(shapes.keys() | tensors.keys()):
        found = tuple(tensors[name].shape) if name in tensors else "nothing"
        wanted = tuple(shapes[name]) if name in shapes else "nothing"
        if found != wanted:
            raise RamifyError(
                f"{source} holds {found} for {name}, its shape recipe says {wanted}: "
                "weights and recipe are not of one save; copy or save both again."
            )


def _ties(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Second and later names of one tensor -> its first name."""
    first: dict[int, str] = {}
    return {
        name: first[id(tensor)]
        for name, tensor in tensors.items()
        if first.setdefault(id(tensor), name) != name
    }


def _plain_attributes(model: nn.Module) -> Iterator[tuple[str, dict[str, Any]]]:
    """For each module its public finite numbers, flags, and tuples or lists of integers."""
    for name, module in model.named_modules():
        plain: dict[str, Any] = {}
        for key, value in vars(module).items():
            if key.startswith("_") or key == "training" or not _is_plain(value):
                continue
            plain[key] = list(value) if isinstance(value, tuple | list) else value
        yield name, plain


def _is_plain(value: Any) -> bool:
    """Whether an attribute stands in a recipe."""
    if isinstance(value, tuple | list):
        return all(type(item) is int for item in value)
    return type(value) in (bool, int) or (type(value) is float and math.isfinite(value))


def _set_attributes(module: nn.Module, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        old = vars(module).get(key)
        if isinstance(value, list) and not isinstance(old, list):
            value = _like(old, value)
        if old != value or type(old) is not type(value):
            setattr(module, key, value)


def _like(old: Any, value: list[int]) -> tuple[int, ...]:
    """The values as a tuple of the old one's class: plain, a ``torch.Size``, or with names."""
    if isinstance(old, torch.Size):
        return torch.Size(value)
    make: Callable[[list[int]], tuple[int, ...]] = getattr(type(old), "_make", tuple)
    return make(value)


def check_recipe(recipe: Any) -> None:
    """Raise where this is no shape recipe that this version reads, or a damaged one."""
    said = recipe.get("format") if isinstance(recipe, dict) else None
    if isinstance(said, str) and said.startswith("ramify-recipe-") and said != FORMAT:
        raise RamifyError(
            f"the shape recipe is of format {said}, and this version of Ramify reads {FORMAT}; "
            "read it with the version that wrote it."
        )
    missing = {"class", "shapes", "tied", "attributes"} - set(recipe if said == FORMAT else ())
    if missing:
        raise RamifyError(f"this is not a {FORMAT} shape recipe; use the JSON ramify.save wrote.")
    shapes = recipe["shapes"]
    sizes = lambda v: isinstance(v, list) and all(type(n) is int and n >= 0 for n in v)  # noqa: E731
    plain = lambda v: isinstance(v, dict) and all(map(_is_plain, v.values()))  # noqa: E731
    parts: dict[str, Callable[[Any], bool]] = {
        "shapes": sizes,
        "tied": lambda v: isinstance(v, str) and v in shapes,
        "modules": lambda v: isinstance(v, str),
        "attributes": plain,
    }
    for part, valid in parts.items():
        held = recipe.get(part, {})
        wrong = [key for key in held if not valid(held[key])] if isinstance(held, dict) else [part]
        if wrong or not isinstance(recipe["class"], str):
            where = f"{part} at {wrong[0]!r}" if wrong else "class"
            raise RamifyError(
                f"the shape recipe is damaged ({where}); use the JSON as ramify.save wrote it."
            )


def _check(model: nn.Module, tensors: Mapping[str, Tensor], recipe: Recipe) -> None:
    """Raise where the recipe cannot be of this model; nothing has been changed yet."""
    saved, built = recipe["class"], type(model)
    if not _same_kind(saved.rpartition(".")[2], built.__name__):
        raise RamifyError(
            f"the recipe is of {saved}, but the model is a {built.__module__}.{built.__qualname__};"
            " build one of the saved class."
        )
    modules = dict(model.named_modules())
    kinds = {name: type(module).__name__ for name, module in modules.items()}
    stored = recipe.get("modules", kinds)
    shapes = recipe["shapes"]
    names = set(shapes) ^ set(tensors) | set(stored) ^ set(kinds)
    names |= set(recipe["attributes"]) - set(kinds) | set(recipe["tied"]) - set(tensors)
    if names:
        raise RamifyError(
            f"the recipe and the model do not have the same parts ({min(names)} is only in one); "
            + _ARGUMENTS
        )
    for name, kind in kinds.items():
        if not _same_kind(stored[name], kind):
            raise RamifyError(f"{name} is a {kind}, and was a {stored[name]}; {_ARGUMENTS}")
        for key in recipe["attributes"].get(name, {}):
            if not _settable(modules[name], key):
                where = f"{name}.{key}".lstrip(".")
                raise RamifyError(f"{where} is a number in the recipe alone; {_ARGUMENTS}")
    for name, tensor in tensors.items():
        if tensor.ndim != len(shapes[name]):
            raise RamifyError(
                f"{name} has {tensor.ndim} axes, the recipe gives it the shape {shapes[name]}; "
                + _ARGUMENTS
            )
    untied = set(_ties(tensors)) - set(recipe["tied"])
    if untied:
        raise RamifyError(
            f"the model ties {min(untied)} to another tensor, the saved one did not; "
            "build the model without that tie."
        )


def _same_kind(one: str, other: str) -> bool:
    return one == other or {one, other} == _ATTENTION


def _settable(module: nn.Module, key: str) -> bool:
    """Whether an attribute is plain, or absent: a forward may set it when it first runs."""
    if key.startswith("_") or key == "training":
        return False
    if key not in vars(module):
        return not hasattr(module, key)
    old = vars(module)[key]
    return old is None or isinstance(old, bool | int | float | tuple | list)


def _tiled(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """``tensor`` cut or repeated along each axis to ``shape``."""
    for axis, (old, new) in enumerate(zip(tensor.shape, shape, strict=True)):
        if old != new:
            index = torch.arange(new, device=tensor.device) % max(old, 1)
            tensor = tensor.index_select(axis, index)
    return tensor
