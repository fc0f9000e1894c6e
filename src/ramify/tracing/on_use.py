"""Resized weights whose values are computed when an operation uses them.

A trial runs a model with all of its weights resized. Each of them is used by one or two operations,
so only a part has to be in memory at a time. Until an operation uses it, a weight is unwritten
memory, which the operating system does not allocate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ramify.tracing.recorder import leaves_of_kind, mapped
from ramify.tracing.unknown_values import LARGE, untouched_zeros
from ramify.tracing.walk import modules_of
from ramify.tracing.writes import storage_of, written_by

_KEPT = 2**25
"""The bytes of computed weights that are kept for later operations, for repeated layers."""

_SAME = frozenset({"aten::detach", "aten::alias"})
"""Operations whose result is the weight itself; their results on a placeholder are one too."""


@dataclass
class _Later:
    """A deferred weight: its placeholder, and the function that computes it."""

    stands_in: Tensor
    make: Callable[[], Tensor]


class OnUse:
    """Runs operations of a `Recorder` on weights that are not computed yet.

    Args:
        model: the model that has the weights.
    """

    def __init__(self, model: nn.Module) -> None:
        # A script may read weights in operations that a recorder does not see.
        self._seen = not any(
            isinstance(m, torch.jit.ScriptModule) for m in modules_of(model).values()
        )
        self._later: dict[int, _Later] = {}
        self._made: dict[int, Tensor] = {}
        self._written: set[int] = set()
        """Those that were written to through a view, and so cannot be recomputed."""

    def waiting(self) -> list[Tensor]:
        """The placeholders of the weights that are not computed yet."""
        return [later.stands_in for later in self._later.values()]

    def put_off(self, old: Tensor, shape: list[int], make: Callable[[], Tensor]) -> Tensor:
        """Create a placeholder for a new value of a weight until an operation uses it.

        Args:
            old: the current value.
            shape: the shape of the new value, which has the same dtype, device and contiguity.
            make: computes the new value.

        Returns:
            A tensor of that shape, without values; for small or unusual weights, the value itself.
        """
        plain = self._seen and type(old) is Tensor and old.layout is torch.strided
        if not plain or old.device.type != "cpu" or not old.is_contiguous():
            return make()
        if math.prod(shape) * old.element_size() < LARGE or old.is_inference():
            return make()
        stands_in = untouched_zeros(shape, old)
        self._later[storage_of(stands_in)] = _Later(stands_in, make)
        return stands_in

    def __call__(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Run an operation on the computed weights."""
        if not self._later:
            return func(*args, **kwargs)
        given = leaves_of_kind(kwargs, Tensor, leaves_of_kind(args, Tensor))
        mutable = func._schema.is_mutable
        written = {storage_of(tensor) for tensor in written_by(func, args)} if mutable else set()
        self._written |= {key for key, made in self._made.items() if storage_of(made) in written}
        waits = any(storage_of(tensor) in self._later for tensor in given)
        if not waits or func._schema.name in _SAME:
            return func(*args, **kwargs)
        for key in written:
            self._write(key)
        return func(*mapped(args, self._value), **mapped(dict(kwargs), self._value))

    def give_out(self, tensor: Tensor) -> None:
        """Prepare a tensor whose values Python will read without an operation."""
        self._write(storage_of(tensor))

    def _value(self, leaf: Any) -> Any:
        """The weight of a placeholder; anything else unchanged."""
        later = self._later.get(storage_of(leaf)) if isinstance(leaf, Tensor) else None
        if later is None:
            return leaf
        whole = later.stands_in
        if leaf.shape != whole.shape or leaf.stride() != whole.stride():  # a view made elsewhere
            self._write(storage_of(leaf))
            return leaf
        key = storage_of(leaf)
        made = self._made.pop(key, None)
        self._made[key] = made if made is not None else later.make()
        # The latest are kept, for a layer that is called repeatedly.
        size = sum(kept.numel() * kept.element_size() for kept in self._made.values())
        for old in [old for old in self._made if old != key and old not in self._written]:
            if size > _KEPT:
                gone = self._made.pop(old)
                size -= gone.numel() * gone.element_size()
        return self._made[key]

    def _write(self, key: int) -> None:
        """Write a weight into the memory of its placeholder, which then is the weight."""
        later = self._later.pop(key, None)
        if later is not None:
            made = self._made.pop(key, None)
            with torch.no_grad():
                later.stands_in.copy_(made if made is not None else later.make())
