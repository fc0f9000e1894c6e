"""Saves the values of outside tensors before a run writes to them, and restores them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ramify.tracing.kept_state import give_back_all

Execute = Callable[[Any, tuple[Any, ...], Mapping[str, Any]], Any]
"""(operation, args, kwargs) -> result: runs an operation."""


class Writes(TorchDispatchMode):
    """Saves the values of watched tensors before an operation writes to their memory.

    As an active mode it sees the operations itself; otherwise `before` is called for each.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Avoid the import of torch's compiler, which takes seconds."""
        return False

    def __init__(self, execute: Execute | None = None) -> None:
        super().__init__()
        self.execute = execute or _as_usual
        """Runs an operation."""
        self._unwritten: dict[int, list[Tensor]] = {}
        self._written: list[tuple[Tensor, Tensor]] = []

    def watch(self, tensor: Tensor) -> None:
        """Restore this tensor's values later if an operation writes to it."""
        self._unwritten.setdefault(storage_of(tensor), []).append(tensor.data)

    def before(self, func: Any, args: tuple[Any, ...]) -> list[Tensor]:
        """Save what an operation will overwrite, before it runs.

        Args:
            func: the operation.
            args: its positional arguments.

        Returns:
            The tensors that it writes to.
        """
        written = written_by(func, args) if func._schema.is_mutable else []
        for tensor in written:
            for data in self._unwritten.pop(storage_of(tensor), []):
                self._written.append((data, data.clone()))
        return written

    def take_back(self) -> None:
        """Restore the values of every watched tensor."""

        def step(data: Tensor, value: Tensor) -> None:
            with torch.inference_mode() if data.is_inference() else torch.no_grad():
                data.copy_(value)

        give_back_all(("a tensor", functools.partial(step, *each)) for each in self._written)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Save what the operation will overwrite, and run it."""
        self.before(func, args)
        return self.execute(func, args, kwargs or {})


def _as_usual(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    return func(*args, **kwargs)


def written_by(func: Any, args: tuple[Any, ...]) -> list[Tensor]:
    """The tensors that an operation writes to."""
    declared = zip(args, func._schema.arguments, strict=False)
    writes = [arg for arg, d in declared if d.alias_info is not None and d.alias_info.is_write]
    return [leaf for leaf in tree_leaves(writes) if isinstance(leaf, Tensor)]


def storage_of(tensor: Tensor) -> int:
    """The identity of a tensor's memory; tensors of one storage see each other's writes."""
    has_memory = tensor.layout is torch.strided and not tensor._is_zerotensor()
    return tensor.untyped_storage().data_ptr() if has_memory else id(tensor)
