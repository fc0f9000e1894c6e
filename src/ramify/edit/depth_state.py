"""What an optimizer and a state dictionary keep, when blocks of the model go or come."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ramify.edit.lists import Steps
from ramify.edit.state_trial import chain_of

NOT_SETTINGS = ("params", "param_names")

Copied = Sequence[tuple[Tensor, Tensor]]
"""(parameter or buffer, its copy) of one copy of a block."""


def follow_optimizer(
    steps: Steps,
    optimizer: Any,
    gone: set[int],
    copied: Sequence[Copied],
    names: Mapping[int, str],
) -> None:
    """Take parameters out of an optimizer, and put copies in the groups of what they were made of.

    A copy stands behind those parameters of its block that its group has, and begins with the state
    of a parameter that has made no step.

    Args:
        steps: where the changes are noted.
        optimizer: any; those inside it follow too.
        gone: `id` of each parameter that the model has no more.
        copied: for each copy of a block, its parameters.
        names: `id` of each parameter of the model -> its name.
    """
    seen: set[int] = set()
    for one in chain_of(optimizer):
        state = [(key, value) for key, value in one.state.items() if id(key) not in gone]
        for group in one.param_groups:
            if id(group["params"]) in seen:  # a wrapper shows the groups of the one inside
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
    """Other contents of a list, which stays the same object."""
    held: list[Any] = group[key]
    old = list(held)
    steps.made(lambda: held.__setitem__(slice(None), old))
    held[:] = values


def _with_copies(params: list[Any], run: Copied) -> tuple[list[Any], list[Any]]:
    """Parameters with the copies of those among them, and these copies; what is there stays."""
    places = {id(each): place for place, each in enumerate(params)}
    found = [
        (places[id(old)], new) for old, new in run if id(old) in places and id(new) not in places
    ]
    new = [each for _, each in found]
    end = max((place for place, _ in found), default=-1) + 1
    return [*params[:end], *new, *params[end:]], new


def _fresh_state(optimizer: Any, group: Mapping[str, Any], parameter: Any) -> dict[str, Any]:
    """What an optimizer of this class keeps of a parameter before its first step."""
    settings = {key: value for key, value in group.items() if key not in NOT_SETTINGS}
    try:
        other = type(optimizer)([{**settings, "params": [parameter]}])
        return dict(other.state.get(parameter, {}))
    except Exception:  # a wrapper, or a class that asks for more: the first step makes its state
        return {}


def follow_dictionary(
    steps: Steps,
    table: MutableMapping[str, Tensor],
    before: Mapping[str, int],
    after: Mapping[str, Tensor],
    copied: Sequence[Copied],
) -> None:
    """Give a state dictionary the names of the model, without what is gone and with copies.

    Args:
        steps: where the change is noted.
        table: with the names that the model had.
        before: each of these names -> `id` of the parameter or buffer.
        after: each name that the model has now -> what it is.
        copied: for each copy of a block its tensors: what is as it was is copied in the dictionary,
            and what makes the block change nothing is the model's.
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
