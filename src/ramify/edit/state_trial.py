"""Identifies the state entries of an unknown optimizer by a trial on small weights.

A copy of the optimizer takes a few steps on toy weights with random gradients: once unchanged, once
with each element of the gradients scaled by a different factor, once with the weights displaced. An
entry that is displaced as the weights are is a copy or a mean of them. One that is not displaced
and scales with the gradients is a mean of gradients; and so on for squares, sizes and signs. An
entry that fits none of these is unknown.
"""

from __future__ import annotations

import copy
import math
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Mapping
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from ramify.edit.state_laws import NEVER_NEGATIVE

SHAPE = (4, 3, 2, 2, 2, 2)  # of a toy weight; the leading sizes differ, to recognise matrices
STEPS = 7  # more than 5 or 6, after which some wrappers synchronise
FACTORS = (1.0, -2.0, 0.5, -1.0, 3.0)

Found = Mapping[tuple[int, int, int, str], str]
"""(optimizer's index in the chain, parameter group, number of axes, name) -> kind of entry."""


def chain_of(optimizer: Any) -> list[Any]:
    """An optimizer and all optimizers inside it, the outermost first."""
    found: list[Any] = []
    open_: list[Any] = [optimizer]
    while open_:
        one = open_.pop(0)
        if not any(one is other for other in found):
            found.append(one)
            open_ += [v for v in vars(one).values() if is_optimizer(v)]
    return found


def is_optimizer(value: Any) -> bool:
    """Whether an object has the interface of an optimizer, whatever its class."""
    return not isinstance(value, type) and all(
        hasattr(value, name) for name in ("param_groups", "state", "step", "zero_grad")
    )


def try_states(optimizer: Any) -> Found:
    """Find the kind of each state entry by trying a copy of the optimizer on small weights.

    Args:
        optimizer: any optimizer; it is not changed.

    Returns:
        The kind of each entry: `"shape"` if its shape differs from its parameter's, `"unknown"` if
        it fits no word of `ramify.state_rule`. Empty if no copy can be made or run.
    """
    if any(_holds_closures(one) for one in chain_of(optimizer)):
        return {}
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            plain, scaled, moved = (
                _run(optimizer, scale=scale, shift=shift)
                for scale, shift in ((False, 0.0), (True, 0.0), (False, 1.0))
            )
    except Exception:
        return {}
    return {
        place: _kind(entry, scaled.get(place), moved.get(place)) for place, entry in plain.items()
    }


def _holds_closures(optimizer: Any) -> bool:
    """Whether a copy could still access the original weights through a function it holds."""
    return any(
        isinstance(value, FunctionType) and value.__closure__
        for name, value in vars(optimizer).items()
        if not _left_out(name)
    )


def _left_out(name: str) -> bool:
    return name == "step" or name.endswith("_hooks")  # a scheduler replaces `step` there


def _run(optimizer: Any, scale: bool, shift: float) -> dict[tuple[int, int, int, str], Any]:
    """All state entries of a copy after some steps."""
    try:
        return _stepped(optimizer, scale, shift, closure=False)
    except Exception:  # some take no step without a closure
        return _stepped(optimizer, scale, shift, closure=True)


def _stepped(
    optimizer: Any, scale: bool, shift: float, closure: bool
) -> dict[tuple[int, int, int, str], Any]:
    torch.manual_seed(0)
    chain, toys = _toy_copy(optimizer)
    outer, step = chain[0], type(chain[0]).step
    for toy in toys.values():
        toy.data.normal_()
        toy.data += shift * _displacement(toy)
    if callable(getattr(outer, "train", None)):
        outer.train()
    for _ in range(STEPS):
        grads = {place: torch.randn_like(toy) for place, toy in toys.items()}

        def evaluate(grads: dict[tuple[int, int], Tensor] = grads) -> Tensor:
            for place, toy in toys.items():
                toy.grad = grads[place] * (_factors(toy) if scale else 1.0)
            return torch.ones(())

        evaluate()
        step(outer, evaluate) if closure else step(outer)
    return {
        (number, *place, key): (value, toy)
        for number, one in enumerate(chain)
        for place, toy in toys.items()
        for key, value in dict(one.state.get(toy, {})).items()
    }


def _toy_copy(optimizer: Any) -> tuple[list[Any], dict[tuple[int, int], Tensor]]:
    """Copy an optimizer (and those inside it), with its settings, toy weights and no state.

    Returns:
        The copies, the outermost first, and one toy weight for each parameter group and number of
        axes in it.
    """
    toys: dict[tuple[int, int], Tensor] = {}
    memo: dict[int, Any] = {}
    chain, shells = chain_of(optimizer), []
    # One copy of each optimizer without attributes; `memo` replaces weights, groups and states by
    # those of the copies wherever an attribute holds them.
    for one in chain:
        shell = object.__new__(type(one))
        memo[id(one)] = shell
        memo[id(one.state)] = defaultdict(dict)
        shells.append(shell)
        groups = []
        for number, group in enumerate(one.param_groups):
            for parameter in group["params"]:
                place = number, parameter.dim()
                if place not in toys:
                    half = parameter.dtype.itemsize < torch.float32.itemsize
                    toys[place] = torch.nn.Parameter(
                        torch.empty(
                            SHAPE[: parameter.dim()],
                            dtype=torch.float32 if half else parameter.dtype,
                            device=parameter.device,
                        )
                    )
                memo[id(parameter)] = toys[place]
            own = [toy for place, toy in toys.items() if place[0] == number]
            settings = {k: v for k, v in group.items() if k != "params"}
            groups.append({**copy.deepcopy(settings, memo), "params": own})
            # Weight decay would mix the toy weights into the entries.
            groups[-1] |= {k: 0.0 for k in settings if "decay" in k and _is_number(settings[k])}
            memo.setdefault(id(group), groups[-1])
        memo.setdefault(id(one.param_groups), groups)
    # Copy the remaining attributes, which now refer to the copies.
    for one, shell in zip(chain, shells, strict=True):
        for name, value in vars(one).items():
            if name.endswith("_hooks"):
                vars(shell)[name] = OrderedDict()
            elif not _left_out(name):
                vars(shell)[name] = copy.deepcopy(value, memo)
    return shells, toys


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _displacement(toy: Tensor) -> Tensor:
    count = math.prod(toy.shape)
    return torch.linspace(1.0, 2.0, count, dtype=toy.dtype, device=toy.device).reshape(toy.shape)


def _factors(toy: Tensor) -> Tensor:
    """A factor for each element, of either sign."""
    count = math.prod(toy.shape)
    values = torch.tensor(FACTORS, dtype=toy.dtype, device=toy.device)
    return values.repeat(-(-count // len(FACTORS)))[:count].reshape(toy.shape)


def _kind(plain: Any, scaled: Any, moved: Any) -> str:
    """The kind of an entry, from its values in the three runs."""
    first, toy = plain
    if not isinstance(first, Tensor) or first.numel() == 1:
        return "scalar"
    if first.shape != toy.shape:
        return "shape"
    entries = [other[0] for other in (scaled, moved) if other is not None]
    if len(entries) < 2 or any(e.shape != first.shape for e in entries) or first.is_complex():
        return "unknown"
    base, by_factor, by_shift = (e.detach().double() for e in (first, *entries))
    if not all(bool(e.isfinite().all()) for e in (base, by_factor, by_shift)):
        return "unknown"
    if _near(by_shift - base, _displacement(toy).double()):
        return "weights"
    if not _proportional(by_shift, base):
        return "unknown"
    c = _factors(toy).double()
    if _near(by_factor, base) and bool((base == base.reshape(-1)[0]).all()):
        return "constant"
    for word, factors in _expected(c):
        if _proportional(by_factor, base * factors):
            negative = bool((base < 0).any())
            return word if not (negative and word in NEVER_NEGATIVE) else "unknown"
    return "unknown"


def _expected(c: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The expected factors of each kind of entry, for given factors of the gradient."""
    yield "gradients", c
    yield "squares", c.square()
    yield "sizes", c.abs()
    yield "steps", c.sign()


def _near(one: Tensor, other: Tensor) -> bool:
    return bool(torch.allclose(one, other, rtol=1e-3, atol=1e-3 * float(other.abs().max())))


def _proportional(one: Tensor, other: Tensor) -> bool:
    """Whether one is a positive multiple of the other and neither is zero."""
    scale = float((one * other).sum() / other.square().sum().clamp_min(1e-300))
    return scale > 0 and _near(one, scale * other)
