"""Saves and restores what a model holds besides tensors: attributes, containers, generators.

A forward may count its calls, fill a cache or draw from its own random generator. The changes are
reverted with the methods of the built-in types (`dict.clear`, a slot's descriptor), so that no code
of the model's own classes runs. A read-only configuration, or an object that cannot be compared or
copied, is restored like any other.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import gc
import operator
import random
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves, tree_structure

from ramify.errors import RamifyError
from ramify.tracing.modes import ABSENT

MOST_HOLDERS = 100_000
"""The largest number of saved containers and objects, those nearest to the modules first."""

_LARGEST_ARRAY = 2**26
"""Arrays of more bytes are assumed to be data, to which no forward writes."""

_STANDARD_DATA = frozenset({"_weakrefset", "argparse", "collections", "types", "weakref"})
"""The modules of the standard library whose objects hold data, not internal state."""


@dataclass(frozen=True)
class _Kind:
    """One kind of holder.

    Attributes:
        read: returns everything that it holds, in order.
        write: makes it hold exactly that again.
        by_value: whether `read` returns copies, which are new objects each time.
        container: whether it holds contents, and not attributes.
    """

    read: Callable[[Any], list[Any]]
    write: Callable[[Any, list[Any]], None]
    by_value: bool = False
    container: bool = True


def _write_table(base: Any) -> Callable[[Any, list[Any]], None]:
    def write(holder: Any, content: list[Any]) -> None:
        half = len(content) // 2
        base.clear(holder)
        for key, value in zip(content[:half], content[half:], strict=True):
            base.__setitem__(holder, key, value)

    return write


def _write_filled(base: Any, fill: Callable[[Any, list[Any]], None]) -> Any:
    def write(holder: Any, content: list[Any]) -> None:
        base.clear(holder)
        fill(holder, content)

    return write


def _state_kind(read: Callable[[Any], Any], write: Callable[[Any, Any], Any]) -> _Kind:
    """The kind of a holder of a single state."""
    return _Kind(lambda holder: [read(holder)], lambda holder, kept: write(holder, kept[0]), True)


def _script_names(module: Any) -> list[str]:
    """The attributes of a scripted module, including its mode, which the script holds."""
    return list(module._concrete_type.get_attributes())


def _read_script(module: Any) -> list[Any]:
    return [module._c.getattr(name) for name in _script_names(module)]


def _write_script(module: Any, content: list[Any]) -> None:
    for name, value in zip(_script_names(module), content, strict=True):
        if not _is_same(module._c.getattr(name), value):
            module._c.setattr(name, value)


def _is_same(now: Any, value: Any) -> bool:
    """Whether two values of a script are the same; reading its containers copies them."""
    pairs = zip(tree_leaves(now), tree_leaves(value), strict=False)
    alike = all(a is b or (type(a) in (int, float, str) and a == b) for a, b in pairs)
    return alike and tree_structure(now) == tree_structure(value)


_Ordered: Any = collections.OrderedDict
_CONTAINERS: tuple[tuple[type, _Kind], ...] = (
    # A subclass comes before its base, whose methods would leave an ordered dictionary broken.
    (
        collections.OrderedDict,
        _Kind(lambda h: [*_Ordered.keys(h), *_Ordered.values(h)], _write_table(_Ordered)),
    ),
    (dict, _Kind(lambda h: [*dict.keys(h), *dict.values(h)], _write_table(dict))),
    (
        list,
        _Kind(
            lambda h: list.__getitem__(h, slice(None)),
            lambda h, kept: list.__setitem__(h, slice(None), kept),
        ),
    ),
    (set, _Kind(lambda h: [*set.__iter__(h)], _write_filled(set, set.update))),
    (
        collections.deque,
        _Kind(
            lambda h: [*collections.deque.__iter__(h)],
            _write_filled(collections.deque, collections.deque.extend),
        ),
    ),
    (bytearray, _state_kind(bytes, lambda h, kept: bytearray.__setitem__(h, slice(None), kept))),
    # Generators that a forward draws from, and arrays that it may write to.
    (random.Random, _state_kind(random.Random.getstate, random.Random.setstate)),
    (torch.Generator, _state_kind(torch.Generator.get_state, torch.Generator.set_state)),
    (
        np.random.Generator,
        _state_kind(
            lambda h: h.bit_generator.state, lambda h, kept: setattr(h.bit_generator, "state", kept)
        ),
    ),
    (
        np.random.RandomState,
        _state_kind(np.random.RandomState.get_state, np.random.RandomState.set_state),
    ),
    (
        np.ndarray,
        _state_kind(np.ndarray.copy, lambda h, kept: np.ndarray.__setitem__(h, ..., kept)),
    ),
    (torch.jit.ScriptModule, _Kind(_read_script, _write_script, by_value=True)),
    # These are immutable, but hold objects that are not.
    (tuple, _Kind(lambda h: [*tuple.__iter__(h)], lambda h, kept: None)),
    (frozenset, _Kind(lambda h: [*frozenset.__iter__(h)], lambda h, kept: None)),
    (types.MappingProxyType, _Kind(gc.get_referents, lambda h, kept: None)),
)

_PLAIN = (
    *(int, float, complex, str, bytes, type(None), type, Tensor, torch.Size, torch.dtype),
    *(types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType),
)
"""Types that hold nothing that a forward could change, or, like tensors, are saved elsewhere."""

_PLAIN_EXACTLY = frozenset({*_PLAIN, bool, nn.Parameter})


@functools.lru_cache(maxsize=1024)
def _slots_kind(kind: type) -> _Kind | None:
    """The kind for attributes of a class in slots rather than in `__dict__`."""
    slots: list[Any] = [
        slot
        for base in kind.__mro__
        for slot in vars(base).values()
        if isinstance(slot, types.MemberDescriptorType)
    ]
    if not slots:
        return None

    def read(holder: Any) -> list[Any]:
        found = []
        for slot in slots:
            try:
                found.append(slot.__get__(holder))
            except AttributeError:  # not set yet
                found.append(ABSENT)
        return found

    def write(holder: Any, content: list[Any]) -> None:
        for slot, now, value in zip(slots, read(holder), content, strict=True):
            if now is value:
                continue
            if value is ABSENT:
                slot.__delete__(holder)
            else:
                slot.__set__(holder, value)

    return _Kind(read, write, container=False)


def _kinds_of(kind: type) -> list[_Kind]:
    """The kinds that save the objects of a class; a `__dict__` is a separate holder."""
    plain = issubclass(kind, _PLAIN)
    if plain:
        return []
    slots = _slots_kind(kind)
    return [known for base, known in _CONTAINERS if issubclass(kind, base)][:1] + (
        [slots] if slots is not None else []
    )


_PLAIN_TABLES = frozenset({dict, collections.OrderedDict, list, set})
"""The types of most holders, whose own methods run no other code."""


def _is_works(kind: type) -> bool:
    """Whether a class is internal to torch or Python: a lock, a queue, a compiled graph."""
    if issubclass(kind, (nn.Module, Optimizer)):  # they hold parts of the model
        return False
    if kind in _PLAIN_TABLES:
        return True
    package = str(kind.__module__).partition(".")[0]
    standard = package in sys.stdlib_module_names and kind.__module__ not in _STANDARD_DATA
    return standard or package in ("torch", "numpy")


def _attributes_of(holder: Any) -> dict[str, Any] | None:
    """The dictionary that actually stores the attributes of an object."""
    # Use the descriptor that Python created: a property of this name would run other code.
    for base in type(holder).__mro__:
        slot = vars(base).get("__dict__")
        if isinstance(slot, (types.GetSetDescriptorType, types.MemberDescriptorType)):
            found = slot.__get__(holder)
            return found if isinstance(found, dict) else None
    return None


def held_by(holder: Any) -> list[Any]:
    """The contents and attributes of an object, read without running code of its class.

    Args:
        holder: any object.

    Returns:
        The objects; empty for numbers, functions, tensors and similar objects.
    """
    if isinstance(holder, _PLAIN):
        return []
    kinds = _kinds_of(type(holder))
    found = [item for kind in kinds if not kind.by_value for item in kind.read(holder)]
    return [*found, *(_attributes_of(holder) or {}).values()]


class KeptState:
    """The contents and attributes of some objects, recursively, at the time of creation.

    Args:
        roots: the objects, such as the modules of a model.

    Example:
        >>> from types import SimpleNamespace
        >>> settings = SimpleNamespace(seen=[1])
        >>> kept = KeptState([settings])
        >>> settings.seen.append(2)
        >>> kept.give_back()
        >>> settings
        namespace(seen=[1])
    """

    def __init__(self, roots: Iterable[Any]) -> None:
        self._kept: list[tuple[_Kind, Any, list[Any]]] = []
        # A module mostly holds empty tables of hooks, for which it is enough to know that.
        self._empty: list[Any] = []
        known: dict[type, tuple[list[_Kind], bool]] = {}
        front = collections.deque(roots)
        seen = set(map(id, front))
        # Breadth first: a forward most likely changes what is nearest to the modules.
        while front and len(self._kept) < MOST_HOLDERS:
            holder = front.popleft()
            kind_of = type(holder)
            if kind_of not in known:
                works = _is_works(kind_of)
                kept = [kind for kind in _kinds_of(kind_of) if not works or kind.container]
                known[kind_of] = kept, not works and not issubclass(kind_of, _PLAIN)
            kinds, has_attributes = known[kind_of]
            for kind in kinds:
                try:
                    if kind.by_value and not _is_writable(holder):
                        continue
                    content = kind.read(holder)
                except Exception as error:
                    # An unreadable array or script from another library is skipped. Tables are
                    # read with Python's own methods, whose errors are raised.
                    if isinstance(error, MemoryError) or not kind.by_value:
                        raise
                    continue
                self._kept.append((kind, holder, content))
                for item in content if not kind.by_value else ():
                    item_kind = type(item)
                    if item_kind in _PLAIN_EXACTLY or id(item) in seen:
                        continue
                    seen.add(id(item))
                    if item_kind not in _PLAIN_TABLES or item:
                        front.append(item)
                    else:
                        self._empty.append(item)
            attributes = _attributes_of(holder) if has_attributes else None
            if attributes is not None and id(attributes) not in seen:
                seen.add(id(attributes))
                front.append(attributes)

    def steps(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """The steps that restore changed holders: (description, function to call)."""
        for kind, holder, content in self._kept:
            if not _holds_the_same(kind, holder, content):
                write = functools.partial(kind.write, holder, content)
                yield f"what a '{type(holder).__name__}' holds", write
        for holder in self._empty:
            if holder:
                yield f"what a '{type(holder).__name__}' holds", holder.clear

    def tensors(self) -> Iterator[Tensor]:
        """Every tensor in the saved contents."""
        for kind, _, content in self._kept:
            yield from (item for item in content if not kind.by_value and isinstance(item, Tensor))

    def give_back(self) -> None:
        """Restore the contents of every holder.

        Raises:
            RamifyError: some could not be restored; all others are.
        """
        give_back_all(self.steps())


def _holds_the_same(kind: _Kind, holder: Any, content: list[Any]) -> bool:
    """Whether a holder still holds the same objects."""
    if kind.by_value:
        return False
    try:
        now = kind.read(holder)
    except Exception:
        return False
    return len(now) == len(content) and all(map(operator.is_, now, content))


def _is_writable(holder: Any) -> bool:
    """Whether a holder whose content is copied is writable and not too large to copy."""
    if not issubclass(type(holder), np.ndarray):
        return True
    return bool(holder.flags.writeable) and holder.nbytes <= _LARGEST_ARRAY


Steps = Iterable[tuple[str, Callable[[], Any]]]
"""(description, function to call) of each step."""


@contextlib.contextmanager
def giving_back(steps: Callable[[], Steps]) -> Iterator[None]:
    """Run steps when the block ends, and run them again if an error interrupts them.

    Args:
        steps: returns the steps, each of which can be run twice.

    Yields:
        Nothing.
    """
    try:
        try:
            yield
        finally:
            give_back_all(steps())
    except BaseException:
        give_back_all(steps())
        raise


def give_back_all(steps: Steps) -> None:
    """Run every step, even if an earlier one failed.

    Args:
        steps: (description, function to call).

    Raises:
        RamifyError: some steps failed; the message names them.
    """
    failed: list[tuple[str, Exception]] = []
    stopped: BaseException | None = None
    for what, step in steps:
        try:
            step()
        except Exception as error:
            failed.append((what, error))
        except BaseException as error:  # an interrupt waits until everything is restored
            stopped = error
    if stopped is not None:
        raise stopped
    if failed:
        what, cause = failed[0]
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise RamifyError(
            f"{what} could not be given back after a run of the model{more}, all else was "
            f"({type(cause).__name__}: {cause}): let the forward leave it as it is"
        ) from cause


def tensor_given_back(tensor: Tensor, value: Tensor | None = None) -> Callable[[], None]:
    """Create a function that restores a tensor's memory, gradient and flag, and optionally values.

    Args:
        tensor: a parameter or buffer.
        value: a copy of its values.

    Returns:
        The function.
    """
    data, grad, requires_grad = tensor.data, tensor.grad, tensor.requires_grad
    plain = tensor.layout is torch.strided and not tensor.is_nested

    def give_back() -> None:
        if not plain:  # sparse, for example: has no memory to compare
            if value is not None:
                with torch.no_grad():
                    tensor.copy_(value)
            return
        moved = tensor.shape != data.shape or tensor.data_ptr() != data.data_ptr()
        if moved or (value is not None and not torch.equal(tensor, value)):
            with torch.inference_mode() if tensor.is_inference() else torch.no_grad():
                if moved:
                    tensor.data = data
                if value is not None and not torch.equal(tensor, value):
                    tensor.copy_(value)
        if tensor.grad is not grad:
            tensor.grad = grad
        if tensor.requires_grad is not requires_grad:
            tensor.requires_grad_(requires_grad)

    return give_back
