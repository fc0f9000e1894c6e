"""Saves networks whose shape has changed: weights as safetensors, with a JSON shape recipe.

The recipe holds the shape of every parameter and buffer, the class of every module, and the plain
numbers, flags and tuples in module attributes (``in_channels``, ``normalized_shape``, ...). The
network is rebuilt from the user's own class; none of its code is stored.
"""

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ramify.arguments import check_kind
from ramify.edit.configs import configured, facts_of, follow
from ramify.edit.lists import Steps
from ramify.errors import RamifyError
from ramify.store.depth_recipe import check_depth_recipe, depth_of, reshape_depth
from ramify.store.disk import make_folder, write_all
from ramify.store.files import (
    bytes_writer,
    checksum,
    json_bytes,
    read_json,
    read_tensors,
    same_memory_format,
    tensors_writer,
)
from ramify.store.recipe_checks import (
    FORMAT,
    Recipe,
    built_by,
    check_fits,
    check_memory,
    check_module,
    check_recipe,
    is_plain,
    lazily_built,
    ties_of,
)
from ramify.store.runtime import (
    decoded,
    is_done_once,
    modules_with_tensors,
    named_in,
    restore,
    runtime_of,
    warn_of_lost,
)
from ramify.tracing import check_ungated, check_whole
from ramify.tracing.attention.multihead import convert
from ramify.tracing.grouped import settle
from ramify.tracing.modes import set_attribute
from ramify.tracing.resizing import set_data

SUFFIX = ".safetensors"
_WRAPPERS = {
    "DistributedDataParallel": "its `.module`",
    "DataParallel": "its `.module`",
    "OptimizedModule": "the model that torch.compile was given, its `._orig_mod`",
}


def save(model: nn.Module, path: str | Path) -> Path:
    """Save a network: ``path.safetensors`` holds its tensors, ``path.json`` its shape recipe.

    Every parameter and buffer is stored under its own name, tied ones under each of their names,
    so that a module of the right shape can also load the file with ``load_state_dict``. Tensors and
    numbers that forwards stored in attributes, such as a grid of positions and its size, are saved
    and restored too. Other objects that hold tensors are not saved, and a warning names them.

    Args:
        model: The network. The recipe names its class, but does not store it.
        path: The path, with or without the suffix ``.safetensors``.

    Returns:
        The path of the safetensors file.

    Raises:
        RamifyError: The model is wrapped (DDP, ``torch.compile``), holds gates that are not folded,
            or has state that is not a tensor (``get_extra_state``); or the files cannot be
            written. Older files with these names are then unchanged.

    Example:
        >>> import tempfile
        >>> from torch import nn
        >>> import ramify
        >>> folder = tempfile.mkdtemp()
        >>> path = ramify.save(nn.Linear(3, 5), folder + "/net")
        >>> ramify.load(path, build=lambda: nn.Linear(3, 1))
        Linear(in_features=3, out_features=5, bias=True)
    """
    check_module(model, "what is saved")
    kind = type(model).__name__
    if kind in _WRAPPERS:
        raise RamifyError(
            f"the model is wrapped in {kind}, and would come back so: save {_WRAPPERS[kind]}."
        )
    check_ungated(model)
    check_whole(model)
    extra = [key for key in model.state_dict() if key.endswith("_extra_state")]
    if extra:
        raise RamifyError(
            f"{kind} keeps state that is not a tensor ({extra[0]}), which a "
            "safetensors file cannot hold; save that part yourself and remove get_extra_state."
        )
    warn_of_lost(model)
    make_folder(_paths(path)[0].parent)
    return write_model(path, recipe_of(model), stored_tensors(model))


def write_model(path: str | Path, recipe: Recipe, tensors: Mapping[str, Tensor]) -> Path:
    """Write the two files of :func:`save` into an existing folder.

    Both are completely on the disk before the first of them replaces an older one.

    Args:
        path: As in :func:`save`.
        recipe: From :func:`recipe_of`; the checksum of each tensor is added.
        tensors: From :func:`stored_tensors`.

    Returns:
        The path of the safetensors file.

    Raises:
        RamifyError: The files cannot be written.
    """
    weights, shapes = _paths(path)
    writer = tensors_writer(tensors, {"format": "pt"})  # raises for unsupported tensors
    recipe = recipe | {"checksums": {name: checksum(tensor) for name, tensor in tensors.items()}}
    write_all(
        {
            shapes: bytes_writer(json_bytes(recipe)),
            weights: writer,
        }
    )
    return weights


def load(path: str | Path, build: Callable[[], nn.Module]) -> nn.Module:
    """Rebuild a saved network from the user's own class.

    Args:
        path: The path given to :func:`save`; for a run ``RUN/model``, or the name of another saved
            network in its folder.
        build: A function that returns a network of the same class, of any widths; called once.

    Returns:
        The network with the saved shapes, values and dtypes.

    Raises:
        RamifyError: A file is missing, truncated, changed or from another version, or ``build``
            returns a network of another class or architecture.

    Example:
        >>> import tempfile
        >>> path = save(nn.Linear(3, 5), tempfile.mkdtemp() + "/net")
        >>> load(path, build=lambda: nn.Linear(3, 1)).out_features
        5
    """
    if isinstance(build, nn.Module) or not callable(build):
        built_by(build)  # raises before anything is read
    weights, shapes = _paths(path)
    if Path(path).is_dir() and not shapes.exists():
        held = sorted(Path(path).glob("*" + SUFFIX))
        such = f", such as {held[0].with_suffix('')}" if held else ", and this one has none"
        raise RamifyError(f"{path} is a folder: give a network in it{such}.")
    advice = f"ramify.save writes {weights.name} and {shapes.name} together: copy both again."
    recipe = read_json(shapes, advice)
    check_recipe(recipe)
    check_depth_recipe(recipe)
    tensors, _ = read_tensors(weights, advice)
    _check_sums(tensors, recipe, weights, shapes)
    model = built_by(build)
    restore_model(model, recipe, tensors, str(weights))
    return model


def recipe_of(model: nn.Module) -> Recipe:
    """The shape recipe of a network, as :func:`save` writes it and :func:`reshape` reads it.

    Args:
        model: The network.

    Returns:
        A dictionary of plain values, which JSON can hold.

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
    check_module(model, "what a recipe describes")
    tensors = named_tensors(model)
    attributes = {name: plain for name, plain in _plain_attributes(model) if plain}
    kind = type(model)
    kept = model.state_dict(keep_vars=True)
    modules = dict(model.named_modules())
    own = {n for n, m in modules.items() if not type(m).__module__.startswith("torch.")}
    buffers = [n for n, _ in model.named_buffers() if n.rpartition(".")[0] in own]
    return {
        "format": FORMAT,
        "class": f"{kind.__module__}.{kind.__qualname__}",
        "shapes": {name: list(tensor.shape) for name, tensor in tensors.items()},
        "tied": ties_of(tensors),
        "modules": {name: type(module).__name__ for name, module in modules.items()},
        "attributes": attributes,
        "buffers": {name: name in kept for name in buffers},
        "runtime": runtime_of(model)[0],
    } | ({"depth": depth} if (depth := depth_of(model)) else {})


def reshape(model: nn.Module, recipe: Recipe, *, limit: int | None = None) -> nn.Module:
    """Give a network the shape that a recipe describes, in place.

    A tensor that grows repeats its values along the grown axis; load a ``state_dict`` to replace
    them. Blocks that were dropped or inserted are dropped and inserted here too. A non-persistent
    buffer is in no ``state_dict``; if its shape changes, a warning names it. Parameters stay the
    same objects, so an optimizer that holds them remains valid.

    Args:
        model: A network of the recipe's class, of any widths.
        recipe: From :func:`recipe_of`, or a saved ``.json``.
        limit: The most bytes that the reshaped network may take. By default 64 times its current
            size, at least 1 GiB, and no more than the free memory.

    Returns:
        The same network.

    Raises:
        RamifyError: The recipe is for another class, architecture or version, is damaged, or needs
            too much memory; the network is then unchanged.

    Example:
        >>> reshape(nn.Linear(3, 1), recipe_of(nn.Linear(3, 5))).out_features
        5
    """
    check_module(model, "what is given another shape")
    check_kind(limit, "limit", int)
    before = {name: tensor.shape for name, tensor in model.named_buffers()}
    check_recipe(recipe)
    check_depth_recipe(recipe)
    check_memory(named_tensors(model), recipe, limit)
    _to_shape(model, recipe)
    kept = model.state_dict(keep_vars=True)
    for name, tensor in model.named_buffers():
        if name not in kept and tensor.shape != before.get(name):
            warnings.warn(
                f"{name} changed its shape to {tuple(tensor.shape)} and no state_dict holds it: "
                "its values are repeated ones; set them, or take them from ramify.load.",
                stacklevel=2,
            )
    return model


def restore_model(
    model: nn.Module, recipe: Recipe, tensors: Mapping[str, Tensor], source: str
) -> None:
    """Give a network the shape, the values and the attributes of a saved one, in place.

    Args:
        model: A network of the recipe's class, of any widths.
        recipe: From :func:`recipe_of`.
        tensors: From :func:`stored_tensors`.
        source: The origin of the tensors, for the error.

    Raises:
        RamifyError: The recipe is for another network, is damaged, or does not fit these tensors.
    """
    check_recipe(recipe)
    check_depth_recipe(recipe)
    runtime = recipe.get("runtime", {})
    names = named_in(runtime)
    values = decoded(model, runtime, tensors, source)
    own = {name: tensor for name, tensor in tensors.items() if name not in names}
    _check_stored(own, recipe["shapes"], source)  # before memory is allocated
    fill(_to_shape(model, recipe, built=False), own, source)
    restore(model, values)


def _to_shape(model: nn.Module, recipe: Recipe, built: bool = True) -> nn.Module:
    """Give a network the shapes, attributes and ties of a checked recipe.

    Args:
        model: a network of its class, of any widths.
        recipe: a checked recipe.
        built: whether a module that caches tensors in attributes, which a recipe does not hold,
            stays without the sizes that it sets when it creates them.

    Returns:
        The model.
    """
    steps = Steps()
    described = [(module, facts_of(module)) for module in configured(model)]
    try:
        lists = reshape_depth(steps, model, recipe)
        tensors = named_tensors(model)
        lazy = lazily_built(model, recipe)
        empty = {name: torch.empty(recipe["shapes"][name], device="meta") for name in lazy}
        check_fits(model, {**tensors, **empty}, recipe)
    except BaseException:
        steps.back()
        raise
    device = next((tensor.device for tensor in tensors.values()), torch.device("cpu"))
    modules = dict(model.named_modules(remove_duplicate=False))  # a script has no get_submodule
    for name, persistent in lazy.items():
        parent, _, leaf = name.rpartition(".")
        value = torch.zeros(recipe["shapes"][name], device=device)
        modules[parent].register_buffer(leaf, value, persistent=persistent)
    for name, kind in recipe.get("modules", {}).items():
        convert(modules[name], resized=kind == "ResizedMultiheadAttention")
    # Shapes, then plain attributes such as `in_channels`, then tied tensors.
    for name, tensor in tensors.items():
        shape = tuple(recipe["shapes"][name])
        if tuple(tensor.shape) != shape:
            set_data(tensor, same_memory_format(_tiled(tensor.data, shape), like=tensor))
            tensor.grad = None
    caching = modules_with_tensors(recipe.get("runtime", {}))
    for name, values in recipe["attributes"].items():
        module = modules[name]
        if name not in caching:
            made = {k for k, v in values.items() if is_done_once(module, k, v)}
        else:
            made = {k for k in values if vars(module).get(k) is None} if built else set()
        _set_attributes(module, {k: v for k, v in values.items() if k not in made})
    for alias, first in recipe["tied"].items():
        parent, _, leaf = alias.rpartition(".")
        setattr(modules[parent], leaf, named_tensors(model)[first])
    settle(model)
    for module, facts in described if len(steps) else ():
        follow(module, facts, lambda: True, lists)
    return model


def fill(model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> nn.Module:
    """Set every parameter and buffer to the value and dtype stored under its name, in place.

    Args:
        model: A network that already has the right shape.
        tensors: Name -> value.
        source: The origin of the values, for the error.

    Returns:
        The same network.

    Raises:
        RamifyError: A name is missing, a shape or kind of dtype differs, or the network has no
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


def stored_tensors(model: nn.Module) -> dict[str, Tensor]:
    """All tensors of a network that are saved: parameters, buffers and tensors in attributes."""
    return {**runtime_of(model)[1], **named_tensors(model)}


def _paths(path: str | Path) -> tuple[Path, Path]:
    if not isinstance(path, (str, os.PathLike)):
        raise RamifyError(
            f"the path of a saved network must be a str or a Path, but got a {type(path).__name__}"
        )
    stem = str(path).removesuffix(SUFFIX)
    return Path(stem + SUFFIX), Path(stem + ".json")


def _differentiable(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _check_sums(tensors: Mapping[str, Tensor], recipe: Recipe, weights: Path, shapes: Path) -> None:
    """Raise if a tensor differs from its checksum; older recipes have no checksums."""
    if any(list(tensors[n].shape) != s for n, s in recipe["shapes"].items() if n in tensors):
        return  # a different save, which the check of shapes refuses
    for name, wanted in recipe.get("checksums", {}).items():
        if name in tensors and checksum(tensors[name]) != wanted:
            raise RamifyError(
                f"{weights} holds other values for {name} than {shapes.name} has the checksum of: "
                "it was damaged, changed, or is of another save; copy both files again, or take "
                f"'checksums' out of {shapes.name} if you changed the weights yourself."
            )


def _check_stored(
    tensors: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]], source: str
) -> None:
    """Raise unless a file of tensors holds exactly these shapes."""
    for name in sorted(shapes.keys() | tensors.keys()):
        found = tuple(tensors[name].shape) if name in tensors else "nothing"
        wanted = tuple(shapes[name]) if name in shapes else "nothing"
        if found != wanted:
            raise RamifyError(
                f"{source} holds {found} for {name}, its shape recipe says {wanted}: "
                "weights and recipe are not of one save; copy or save both again."
            )


def _plain_attributes(model: nn.Module) -> Iterator[tuple[str, dict[str, Any]]]:
    """For each module, its public finite numbers, flags, and tuples or lists of integers."""
    for name, module in model.named_modules():
        plain: dict[str, Any] = {}
        for key, value in vars(module).items():
            if key.startswith("_") or key == "training" or not is_plain(value):
                continue
            plain[key] = list(value) if isinstance(value, tuple | list) else value
        yield name, plain


def _set_attributes(module: nn.Module, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        old = vars(module).get(key, getattr(type(module), key, None))
        if isinstance(value, list) and not isinstance(old, list):
            value = _like(old, value)
        if old != value or type(old) is not type(value):
            set_attribute(module, key, value)


def _like(old: Any, value: list[int]) -> tuple[int, ...]:
    """The values as a tuple of the old one's class: plain, a ``torch.Size`` or a named tuple."""
    if isinstance(old, torch.Size):
        return torch.Size(value)
    make: Callable[[list[int]], tuple[int, ...]] = getattr(type(old), "_make", tuple)
    return make(value)


def _tiled(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """``tensor`` cut or repeated along each axis to ``shape``; cut first, to save memory."""
    if tensor.numel() == 0:
        return tensor.new_zeros(shape)
    sizes = list(enumerate(zip(tensor.shape, shape, strict=True)))
    for axis, (old, new) in sorted(sizes, key=lambda entry: entry[1][1] > entry[1][0]):
        if old != new:
            index = torch.arange(new, device=tensor.device) % max(old, 1)
            tensor = tensor.index_select(axis, index)
    return tensor
