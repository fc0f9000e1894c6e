"""Tracks the running module during a run, and records the arguments and results of each call."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sized
from typing import Any, NamedTuple

from torch import nn
from torch.nn.modules import module as hooks
from torch.utils.hooks import RemovableHandle

from ramify.tracing.kept_state import giving_back
from ramify.tracing.walk import modules_of


class ModuleCall(NamedTuple):
    """One call of a module; tensors are represented by `Ref`s, everything else by None.

    Attributes:
        module: its name.
        start: the first of its operations.
        end: the first operation after it.
        args: its positional arguments.
        named: its keyword arguments.
        output: its result.
    """

    module: str
    start: int
    end: int
    args: tuple[Any, ...]
    named: dict[str, Any]
    output: Any


class ModuleCalls:
    """The calls of a model's modules while it runs.

    Args:
        model: the model.
        ops: the operations so far.
    """

    def __init__(self, model: nn.Module, ops: Sized) -> None:
        self._ops = ops
        self._names = {id(module): name for name, module in modules_of(model).items()}
        self._stack: list[tuple[str, int]] = [("", 0)]

    @property
    def running(self) -> str:
        """The name of the module that is running."""
        return self._stack[-1][0]

    @contextlib.contextmanager
    def watching(
        self, shown: Callable[[Any], Any], ended: Callable[[ModuleCall], None]
    ) -> Iterator[None]:
        """Track the name of the running module, without using the model's own hook tables.

        Args:
            shown: maps a tree of tensors to a tree of `Ref`s.
            ended: called with each call when it ends.

        Yields:
            Nothing.
        """
        here = threading.get_ident()  # other threads may run other models

        def enter(module: nn.Module, _: Any) -> None:
            if threading.get_ident() == here:
                name = self._names.get(id(module), self.running)
                self._stack.append((name, len(self._ops)))

        def leave(module: nn.Module, *call: Any) -> None:
            if threading.get_ident() == here and len(self._stack) > 1:
                name, start = self._stack.pop()
                # After an error torch omits the keyword arguments, and there is no output.
                if self._names.get(id(module)) == name and len(call) == 3:
                    given, named, output = map(shown, call)
                    ended(ModuleCall(name, start, len(self._ops), given, named, output))

        handles: list[RemovableHandle] = []
        with giving_back(lambda: [("a hook", handle.remove) for handle in handles]):
            handles.append(hooks.register_module_forward_pre_hook(enter))
            last = hooks.register_module_forward_hook(leave, with_kwargs=True, always_call=True)
            handles.append(last)
            yield
