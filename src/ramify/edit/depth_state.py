"""Updates optimizers and state dictionaries when blocks of the model are dropped or inserted."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ramify.edit.lists import Steps
from ramify.edit.state_trial import chain_of

NOT_SETTINGS = ("params", "param_names")

Copied = Sequence[tuple[Tensor, Tensor]]
"""The pairs (parameter or buffer, its copy) of one copy of a block."""


def follow_optimizer(
    steps: Steps,
    optimizer: Any,
    gone: set[int],
    copied: Sequence[Copied],
    names: Mapping[int, str],
) -> None:
    """Remove dropped parameters from an optimizer, and add copies to the groups of their originals.

    In its group, a copy follows the parameters of its block. Its state is that of a parameter
    before the first step.

    Args:
        steps: records the changes.
        optimizer: any optimizer; optimizers inside it are updated too.
        gone: `id` of each parameter that was removed from the model.
        copied: for each copy of a block, its parameters.
        names: `id` of each parameter of the model -> its name.
    """
    seen: set[int] = set()
    for one in chain_of(optimizer):
        state = [(key, value) for key, value in one.state.items() if id(key) not in gone]
        for group in one.param_groups:
            if id(group["params"]) in seen:  # a wrapper exposes the groups of its inner optimizer
                continue
            seen.add(id(group["params"]))
            params = [each for each in group["params"] if id(each) not in gone]
            for run in reversed(copied):
                params, new = _with_copies(params, run)
                for each in new:
                    fresh = _fresh_state(one, group, each)
                    state += [(each, fresh)] if fresh else []
            if "param_names" in group:
                known = dict(zip(map(id, group["params"]), group["param_names"], strict=False))
                renamed = [names.get(id(each), known.get(id(each), "")) for each in params]
                _set_list(steps, group, "param_names", renamed)
            _set_list(steps, group, "params", params)
        if id(one.state) not in seen:
            seen.add(id(one.state))
            steps.table(one.state, state)


def _set_list(steps: Steps, group: Any, key: str, values: list[Any]) -> None:
    """Replace the contents of a list, which stays the same object."""
    held: list[Any] = group[key]
    old = list(held)
    steps.made(lambda: held.__setitem__(slice(None), old))
    held[:] = values


def _with_copies(params: list[Any], run: Copied) -> tuple[list[Any], list[Any]]:
    """The parameters with copies of some of them added, and those copies; the order is kept."""
    places = {id(each): place for place, each in enumerate(params)}
    found = [
        (places[id(old)], new) for old, new in run if id(old) in places and id(new) not in places
    ]
    new = [each for _, each in found]
    end = max((place for place, _ in found), default=-1) + 1
    return [*params[:end], *new, *params[end:]], new


def _fresh_state(optimizer: Any, group: Mapping[str, Any], parameter: Any) -> dict[str, Any]:
    """The state that an optimizer of this class has for a parameter before its first step."""
    settings = {key: value for key, value in group.items() if key not in NOT_SETTINGS}
    try:
        other = type(optimizer)([{**settings, "params": [parameter]}])
        return dict(other.state.get(parameter, {}))
    except Exception:  # a wrapper, or a class with more arguments: the first step creates it
        return {}


def follow_dictionary(
    steps: Steps,
    table: MutableMapping[str, Tensor],
    before: Mapping[str, int],
    after: Mapping[str, Tensor],
    copied: Sequence[Copied],
) -> None:
    """Update the names of a state dictionary, removing dropped entries and adding copies.

    Args:
        steps: records the change.
        table: the state dictionary, with the old names of the model.
        before: each old name -> `id` of the parameter or buffer.
        after: each new name -> the parameter or buffer.
        copied: for each copy of a block its tensors. Unchanged tensors are copied from the
            dictionary; those that make the copy an identity are taken from the model.
    """
    own = {before[name]: name for name in table if name in before}
    copies = {id(new): old for run in copied for old, new in run}
    items: dict[str, Tensor] = {name: v for name, v in table.items() if name not in before}
    for name, tensor in after.items():
        if id(tensor) in own:
            items[name] = table[own[id(tensor)]]
        elif id(tensor) in copies and id(old := copies[id(tensor)]) in own:
            like = table[own[id(old)]]
            value = like if torch.equal(old, tensor) else tensor
            items[name] = value.detach().to(like, copy=True)
    steps.table(table, items.items())
