"""Lists and changes the entries of a configuration, and builds a model from it.

A configuration of `transformers` is an object whose entries are attributes; the model class is
built from it alone. One of `diffusers` is a dictionary of the arguments of the class; it can be
changed only through `register_to_config`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import nn

Place = tuple[str | int, ...]
"""The path of an entry: names of nested configurations, its own name, its index in a list."""

_DEFAULTED = "_use_default_values"  # names that from_config of diffusers replaces by defaults


def has_config(module: nn.Module) -> bool:
    """Whether a module is described by a configuration of one of the two kinds."""
    config = getattr(module, "config", None)
    return _is_object(config) or _of_arguments(module, config)


def draft_of(module: Any) -> Any:
    """A copy of a module's configuration whose entries can be changed."""
    if not _of_arguments(module, module.config):
        return copy.deepcopy(module.config)
    return {
        name: list(value) if isinstance(value, tuple) else copy.deepcopy(value)
        for name, value in module.config.items()
        if not name.startswith("_")
    }


def build(module: nn.Module, draft: Any) -> nn.Module:
    """Build a module of the same class from a draft, which is not changed."""
    kind: Any = type(module)
    own = copy.deepcopy(draft)
    made: nn.Module = kind(**own) if isinstance(draft, dict) else kind(own)
    return made


def entries(draft: Any, inside: Place = ()) -> Iterator[tuple[Place, int | None]]:
    """Every integer entry of a draft, and entries that are None and could be widths.

    Args:
        draft: from :func:`draft_of`, or an object inside one.
        inside: the path of that object.

    Yields:
        The path and the value.
    """
    for name, value in list(_named(draft)):
        place = (*inside, name)
        if name.startswith("_"):
            continue
        if _is_object(value) and len(inside) < 3:
            yield from entries(value, place)
        elif (type(value) is int and value > 0) or (value is None and _may_be_open(name)):
            yield place, value
        elif isinstance(value, list) and value and all(type(n) is int and n > 0 for n in value):
            yield from (((*place, at), n) for at, n in enumerate(value))


def entry(draft: Any, place: Place) -> Any:
    """The value at a path."""
    for name in place:
        draft = draft[name] if _indexed(draft, name) else getattr(draft, str(name))
    return draft


def set_entry(draft: Any, place: Place, value: Any) -> None:
    """Change the value at a path."""
    holder, last = entry(draft, place[:-1]), place[-1]
    if _indexed(holder, last):
        holder[last] = value
    else:
        setattr(holder, str(last), value)


def lists_beside(draft: Any, place: Place, length: int) -> dict[Place, list[Any]]:
    """The lists of a given length in the same configuration as an entry, and their values.

    Args:
        draft: from :func:`draft_of`.
        place: the path of the entry.
        length: the length of the lists.

    Returns:
        The per-layer settings, if the entry is the number of layers.
    """
    inside = place[:-1]
    holder = entry(draft, inside)
    if isinstance(holder, list):
        return {}
    return {
        (*inside, name): value
        for name, value in _named(holder)
        if isinstance(value, list) and len(value) == length and not name.startswith("_")
    }


def configs_of(model: nn.Module) -> dict[str, Any]:
    """The configuration objects that the modules of a model hold, by module."""
    found = ((path, vars(module).get("config")) for path, module in model.named_modules())
    return {path: config for path, config in found if _is_object(config)}


def put(
    module: Any, found: Mapping[Place, Any], copies: Mapping[str, Mapping[Place, Any]]
) -> Callable[[], None]:
    """Set entries of a module's configuration, and of the copies that its submodules hold.

    Args:
        module: the module that the configuration describes.
        found: the paths and their new values.
        copies: for each submodule with its own copy, the entries in which that copy differs.

    Returns:
        A function that restores the old values.
    """
    if _of_arguments(module, module.config):
        return _register(module, found)
    # The encoder and the decoder have copies with their own widths and depths.
    holders = {id(module.config): ("", module.config)}
    for path, config in configs_of(module).items():
        holders.setdefault(id(config), (path, config))
    done: list[tuple[Any, Place, Any]] = []
    for path, config in holders.values():
        new = found if config is module.config else copies.get(path, {})
        for place, value in new.items():
            done.append((config, place, entry(config, place)))
            set_entry(config, place, value)

    def undo() -> None:
        for config, place, value in reversed(done):
            set_entry(config, place, value)

    return undo


def _register(module: Any, found: Mapping[Place, Any]) -> Callable[[], None]:
    """Register new constructor arguments of a module, each with its previous type.

    Returns:
        A function that registers the old ones again.
    """
    draft, config = draft_of(module), module.config
    for place, value in found.items():
        set_entry(draft, place, value)
    names = {str(place[0]) for place in found}
    old = {name: config[name] for name in names}
    new = {n: tuple(draft[n]) if isinstance(v, tuple) else draft[n] for n, v in old.items()}
    if _DEFAULTED in config:
        old[_DEFAULTED] = config[_DEFAULTED]
        new[_DEFAULTED] = [name for name in config[_DEFAULTED] if name not in names]
    module.register_to_config(**new)
    return lambda: module.register_to_config(**old)


def _is_object(value: Any) -> bool:
    return callable(getattr(value, "to_dict", None)) and hasattr(type(value), "from_dict")


def _of_arguments(module: nn.Module, config: Any) -> bool:
    registers = callable(getattr(type(module), "register_to_config", None))
    return registers and isinstance(config, Mapping)


def _indexed(holder: Any, name: str | int) -> bool:
    return isinstance(holder, dict) or isinstance(name, int)


def _named(draft: Any) -> Iterable[tuple[str, Any]]:
    return draft.items() if isinstance(draft, dict) else vars(draft).items()


def _may_be_open(name: str) -> bool:
    """Whether an entry that is None could be a width, such as the inner size of GPT-2."""
    words = ("inner", "ffn", "intermediate", "dim", "hidden", "size", "heads")
    return any(word in name for word in words) and not name.endswith("_id")
