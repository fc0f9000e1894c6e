"""The part of a shape recipe that lists the blocks of a network after drops and inserts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ramify.edit.configs import Reordered
from ramify.edit.lists import Steps, built_of, made_of, reorder_members
from ramify.edit.skip import Skip, is_skip, put_skip
from ramify.errors import RamifyError
from ramify.store.recipe_checks import ARGUMENTS, Recipe


def depth_of(model: nn.Module) -> dict[str, Any]:
    """The blocks that were dropped and inserted in a network.

    Args:
        model: the network.

    Returns:
        `lists`: for each list that differs from the one its class builds, the number of members
        that the class builds, and the index among those of each member. `skips`: the pass-through
        modules that replace blocks, with the argument that each result comes from.
    """
    lists, skips = {}, {}
    for name, module in model.named_modules():
        if is_skip(module):
            given = module if isinstance(module, Skip) else Skip()
            skips[name] = {"outputs": list(given.outputs), "bare": given.bare}
        elif made_of(module) is not None:
            count, origin = built_of(module)
            lists[name] = [count, list(origin)]
    return {key: value for key, value in (("lists", lists), ("skips", skips)) if value}


def check_depth_recipe(recipe: Recipe) -> None:
    """Raise if the depth part of a recipe is damaged, or needs modules that the recipe lacks.

    Args:
        recipe: a recipe whose other parts are checked.

    Raises:
        RamifyError: the depth part is invalid.
    """
    held, modules = recipe.get("depth", {}), recipe.get("modules", {})
    if not _is_depth(held, modules):
        raise RamifyError(
            "the shape recipe is damaged (depth); use the JSON as ramify.save wrote it."
        )


def _is_depth(held: Any, modules: Mapping[str, Any]) -> bool:
    """Whether the recipe has modules for every list, and all values are plain."""
    if not isinstance(held, dict) or held.keys() - {"lists", "skips"}:
        return False
    lists, skips = held.get("lists", {}), held.get("skips", {})
    if not isinstance(lists, dict) or not isinstance(skips, dict):
        return False
    return all(_is_list(name, value, modules) for name, value in lists.items()) and all(
        name in modules and _is_skip(value) for name, value in skips.items()
    )


def _is_list(name: str, value: Any, modules: Mapping[str, Any]) -> bool:
    if not isinstance(value, list) or len(value) != 2 or name not in modules:
        return False
    count, origin = value
    if type(count) is not int or not isinstance(origin, list):
        return False
    members = sum(each.rpartition(".")[0] == name and each != name for each in modules)
    whole = all(type(place) is int and 0 <= place < count for place in origin)
    return whole and len(origin) == members


def _is_skip(value: Any) -> bool:
    if not isinstance(value, dict) or value.keys() != {"outputs", "bare"}:
        return False
    outputs = value["outputs"]
    return (
        isinstance(value["bare"], bool)
        and isinstance(outputs, list)
        and bool(outputs)
        and all(place is None or type(place) in (int, str) for place in outputs)
    )


def reshape_depth(steps: Steps, model: nn.Module, recipe: Recipe) -> list[Reordered]:
    """Give the lists of a network the members that a recipe names.

    Args:
        steps: records the changes.
        model: a network of the recipe's class.
        recipe: a checked recipe.

    Returns:
        The lists that were changed.

    Raises:
        RamifyError: a list of the network is not the one from which the recipe was made.
    """
    depth = recipe.get("depth", {})
    kinds = recipe.get("modules", {})
    changed = []
    # Outer lists first: the names of inner lists are those after the change.
    for name, (count, origin) in sorted(depth.get("lists", {}).items(), key=_outer_first):
        container = _module(model, name)
        own_count, own = built_of(container)
        if own == tuple(origin) or (own_count != count and len(own) == len(origin)):
            continue
        missing = sorted(set(origin) - set(own))
        if own_count != count or missing:
            has = f"has {len(own)}" if own_count != count else f"has lost number {missing[0]}"
            raise RamifyError(
                f"the recipe takes the members of '{name}' from the {count} that its class built, "
                f"and that of this model {has}; {ARGUMENTS}"
            )
        source = tuple(own.index(place) for place in origin)
        reorder_members(steps, model, name, source)
        changed.append(Reordered(len(own), source))
    for name, value in depth.get("skips", {}).items():
        if not is_skip(_module(model, name)):
            places = tuple(value["outputs"])
            put_skip(steps, model, name, places, value["bare"], kinds.get(name) == "Identity")
    return changed


def _outer_first(item: tuple[str, Any]) -> int:
    return item[0].count(".") + bool(item[0])


def _module(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError:
        raise RamifyError(
            f"the recipe and the model do not have the same parts ({name[:200]} is only in one); "
            + ARGUMENTS
        ) from None
