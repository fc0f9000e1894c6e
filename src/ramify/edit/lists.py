"""Reorders lists of modules, dropping or copying members, and updates indices and counts.

As for channels, a new order is a list `source`: new member *j* is, or copies, old member
`source[j]`. The list stores its origin as (the number of members that its class built, the index
among those of each member), so that a recipe can rebuild it from the list that the class builds.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ramify.errors import RamifyError, in_one_line
from ramify.tracing.modes import ABSENT, set_attribute

BUILT = "_ramify_built"
"""The attribute of a list that stores which members of the list built by its class it has."""

_INDEX = re.compile(r"(^|_)(idx|index|id|number|num|no)$")
_LAYER_INDEX = re.compile(r"^(layer|block)_?(idx|index|id|number|num)$")
_COUNT = re.compile(r"^(num|n|number)_?(of_)?(hidden_)?(layers?|blocks?)$|^depth$")
_KEPT_APART = ("_parameters", "_buffers", "_modules")

Undo = Callable[[], None]


class Steps:
    """Changes that were made, with functions that undo them, the latest first."""

    def __init__(self) -> None:
        self._undo: list[Undo] = []

    def __len__(self) -> int:
        return len(self._undo)

    def made(self, undo: Undo | None) -> None:
        """Record how to undo a change that was made elsewhere."""
        if undo is not None:
            self._undo.append(undo)

    def attribute(self, owner: Any, name: str, value: Any) -> None:
        """Set an attribute."""
        old = vars(owner).get(name, ABSENT)
        self._undo.append(lambda: set_attribute(owner, name, old))
        set_attribute(owner, name, value)

    def table(self, table: Any, items: Iterable[tuple[Any, Any]]) -> None:
        """Replace the contents of a dictionary in place."""
        old = list(table.items())
        new = list(items)
        self._undo.append(lambda: _fill(table, old))
        _fill(table, new)

    def back_to(self, count: int) -> None:
        """Undo all changes after the first `count`."""
        while len(self._undo) > count:
            self._undo.pop()()

    def back(self) -> None:
        """Undo all changes."""
        self.back_to(0)


def _fill(table: Any, items: Sequence[tuple[Any, Any]]) -> None:
    table.clear()
    table.update(items)


def built_of(container: nn.Module) -> tuple[int, tuple[int, ...]]:
    """The origin of a list: (number of members that the class built, index of each member)."""
    size = len(container._modules)
    known = made_of(container)
    return known if known and len(known[1]) == size else (size, tuple(range(size)))


def made_of(module: nn.Module) -> tuple[int, tuple[int, ...]] | None:
    """The origin of a list that edits of depth changed; None if no edit changed it."""
    return vars(module).get(BUILT)


def mark(module: nn.Module, count: int, origin: tuple[int, ...]) -> None:
    """Store the origin of a new module on it."""
    vars(module)[BUILT] = (count, origin)


def reorder_members(
    steps: Steps,
    model: nn.Module,
    path: str,
    source: Sequence[int],
    copied: Callable[[nn.Module, Copies], None] | None = None,
) -> None:
    """Bring the members of a list into a new order, and what numbers and counts them.

    Args:
        steps: records the changes.
        model: the model that contains the list.
        path: the name of the list.
        source: for each new member, the index of its old one; repeated indices give copies.
        copied: called with the first of the members that were copied, and the copies.
    """
    container = model.get_submodule(path)
    members = list(container._modules.values())
    indices = _indices(members)
    count, origin = built_of(container)
    keys = _keys(list(container._modules), [origin[i] for i in source], origin)
    made: list[nn.Module | None] = []
    run: list[int] = []
    used: set[int] = set()
    for place, old in enumerate(source):
        if old not in used:
            used.add(old)
            made.append(members[old])
            continue
        run.append(old)
        last = place + 1 == len(source)
        if last or source[place + 1] not in used or source[place + 1] != old + 1:
            originals = [each for i in run if (each := members[i]) is not None]
            copies = Copies(model, originals)
            made += copies.modules
            if copied is not None:
                copied(originals[0], copies)
            run = []
    steps.table(container._modules, zip(keys, made, strict=True))
    steps.attribute(container, BUILT, (count, tuple(origin[i] for i in source)))
    # Layers that store their index, and an owner that stores their number.
    for place, module in enumerate(made):
        for (inside, name), first in indices.items():
            holder = _inside(module, inside)
            if holder is not None and type(vars(holder).get(name)) is int:
                steps.attribute(holder, name, place + first)
    owner = model.get_submodule(path.rpartition(".")[0])
    for name, value in list(vars(owner).items()):
        if _COUNT.search(name) and type(value) is int and value == len(members):
            steps.attribute(owner, name, len(made))


def _keys(old: Sequence[str], new: Sequence[int], origin: Sequence[int]) -> list[str]:
    """The names of members: consecutive numbers, or the old names with a number for each copy."""
    if all(key.isdigit() for key in old):
        return [str(place) for place in range(len(new))]
    names: dict[int, str] = {}
    for key, first in zip(old, origin, strict=True):
        names.setdefault(first, key)
    seen: dict[int, int] = {}
    found = []
    for first in new:
        seen[first] = seen.get(first, 0) + 1
        found.append(names[first] + (f"_{seen[first]}" if seen[first] > 1 else ""))
    return found


def _indices(members: Sequence[nn.Module | None]) -> dict[tuple[str, str], int]:
    """The (submodule, attribute) pairs that hold a member's index, with the first index."""
    found: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for place, member in enumerate(members):
        for inside, module in member.named_modules() if member is not None else ():
            for name, value in vars(module).items():
                if type(value) is int and _INDEX.search(name):
                    found.setdefault((inside, name), []).append((place, value))
    return {
        where: pairs[0][1] - pairs[0][0]
        for where, pairs in found.items()
        if len({value - place for place, value in pairs}) == 1
        and (len(pairs) > 1 or _LAYER_INDEX.search(where[1]))
    }


def _inside(module: nn.Module | None, path: str) -> nn.Module | None:
    if module is None:
        return None
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None


class Copies:
    """Copies of modules of a model; objects that the rest of the model also holds stay shared.

    Args:
        model: the model.
        originals: some of its modules.

    Attributes:
        modules: the copies.
        tensors: (parameter or buffer, its copy), in order.

    Raises:
        RamifyError: a module cannot be copied.
    """

    def __init__(self, model: nn.Module, originals: Sequence[nn.Module]) -> None:
        own = {id(each) for module in originals for each in module.modules()}
        held: list[Any] = []
        for module in model.modules():
            if id(module) not in own:
                held.append(module)
                held += [*module._parameters.values(), *module._buffers.values()]
                held += [v for k, v in vars(module).items() if k not in _KEPT_APART]
        memo: dict[int, Any] = {id(each): each for each in held if each is not None}
        shared = set(memo)
        try:
            self.modules: list[nn.Module] = [copy.deepcopy(module, memo) for module in originals]
        except Exception as error:
            kind = type(originals[0]).__name__
            raise RamifyError(
                f"no copy of this {kind} can be made ({in_one_line(error, 200)}): insert a block "
                "that copy.deepcopy takes"
            ) from error
        self.tensors: list[tuple[Tensor, Tensor]] = [
            (tensor, memo[id(tensor)])
            for tensor in _tensors(originals)
            if id(tensor) not in shared and id(tensor) in memo
        ]

    def of(self, tensor: Tensor) -> Tensor | None:
        """The copy of a parameter or buffer."""
        return next((new for old, new in self.tensors if old is tensor), None)


def _tensors(modules: Sequence[nn.Module]) -> Iterator[Tensor]:
    seen: set[int] = set()
    for module in modules:
        for tensor in (*module.parameters(), *module.buffers()):
            if id(tensor) not in seen:
                seen.add(id(tensor))
                yield tensor


@torch.no_grad()
def make_identity(modules: Sequence[nn.Module], mean: Tensor, variance: Tensor) -> str:
    """Make layers compute the identity on nonnegative inputs, with a ReLU after each layer.

    A batch norm gets the statistics of the stream, and a weight and bias that cancel them.

    Args:
        modules: convolutions, linear layers, batch norms and modules without parameters.
        mean: (C,), the mean of each channel of the stream.
        variance: (C,), the variance of each channel.

    Returns:
        The reason why it is impossible; empty if it was done.
    """
    for module in (each for one in modules for each in one.modules()):
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            odd = all(size % 2 == 1 for size in module.kernel_size)
            if module.in_channels != module.out_channels or not odd:
                return "one of its convolutions has another width, or a kernel without a middle"
            nn.init.dirac_(module.weight, module.groups)
        elif isinstance(module, nn.Linear):
            if module.in_features != module.out_features:
                return "one of its linear layers has another width"
            nn.init.eye_(module.weight)
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            if module.running_mean is None or module.running_var is None:
                return "one of its norms keeps no statistics"
            plain = module.weight is None
            module.running_mean.copy_(torch.zeros_like(mean) if plain else mean)
            module.running_var.copy_(torch.ones_like(variance) - module.eps if plain else variance)
            if not plain:
                module.weight.copy_((variance + module.eps).sqrt())
                module.bias.copy_(mean)
            continue
        elif list(module.parameters(recurse=False)):
            return f"it holds a {type(module).__name__}"
        else:
            continue
        if module.bias is not None:
            module.bias.zero_()
    return ""
