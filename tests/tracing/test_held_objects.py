"""Whatever a model holds, a trace and an edit work with it and give it back as it was."""

from __future__ import annotations

import collections
import copy
import dataclasses
import itertools
import random
import threading
import types
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ramify
from ramify.tracing.kept_state import KeptState, give_back_all
from tests.checks import ability


def _refuses(*_: Any, **__: Any) -> Any:
    raise RuntimeError("this object refuses")


class FrozenDict(dict):
    update = pop = popitem = setdefault = clear = copy = _refuses
    __delitem__ = __setitem__ = __iter__ = keys = values = items = __eq__ = __bool__ = _refuses
    __hash__ = None  # type: ignore[assignment]


class FrozenOrderedDict(collections.OrderedDict):
    """As in diffusers: an ordered dictionary with attributes, which is not to be written."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        for key, value in self.items():
            object.__setattr__(self, key, value)
        object.__setattr__(self, "_frozen", True)

    def __setattr__(self, name: str, value: Any) -> None:
        if getattr(self, "_frozen", False):
            _refuses()
        super().__setattr__(name, value)

    def __setitem__(self, name: str, value: Any) -> None:
        if getattr(self, "_frozen", False):
            _refuses()
        super().__setitem__(name, value)

    update = pop = popitem = setdefault = clear = __delitem__ = _refuses


class FrozenList(list):
    append = extend = clear = copy = pop = insert = _refuses
    __setitem__ = __delitem__ = __iter__ = __eq__ = __len__ = _refuses
    __hash__ = None  # type: ignore[assignment]


class FrozenSet(set):
    add = update = clear = copy = pop = remove = __iter__ = __eq__ = __len__ = _refuses
    __hash__ = None  # type: ignore[assignment]


class NoComparison:
    """As arrays and queries of some libraries: no truth value, no equality, no copy."""

    def __init__(self) -> None:
        self.seen = [1]

    __eq__ = __bool__ = __len__ = __copy__ = __deepcopy__ = __reduce_ex__ = _refuses
    __hash__ = None  # type: ignore[assignment]


class NoWriting:
    def __init__(self) -> None:
        self.__dict__["seen"] = [1]

    __setattr__ = __delattr__ = _refuses


class Slotted:
    __slots__ = ("never", "seen")

    def __init__(self) -> None:
        self.seen = [1]


class Attributes(dict):
    """A dictionary whose entries are its attributes."""

    def __init__(self, **named: Any) -> None:
        super().__init__(**named)
        self.__dict__ = self


class Settings:
    """As in omegaconf: nodes that know their parent, with every access through methods."""

    def __init__(self, parent: Any = None, **content: Any) -> None:
        self.__dict__["_parent"], self.__dict__["_content"] = parent, dict(content)
        self.__dict__["_flags"] = {"readonly": True}

    def __getattr__(self, name: str) -> Any:
        if name not in self.__dict__.get("_content", {}):
            raise AttributeError(name)
        return self.__dict__["_content"][name]

    __setattr__ = _refuses


class Shape(NamedTuple):
    width: int
    seen: list[int]


@dataclasses.dataclass(frozen=True)
class Recipe:
    width: int = 8
    seen: list[int] = dataclasses.field(default_factory=lambda: [1])


@dataclasses.dataclass(frozen=True, slots=True)
class SlottedRecipe:
    seen: list[int] = dataclasses.field(default_factory=lambda: [1])


class Computed(nn.Module):
    """A layer whose width is a property, and which refuses new attributes once it is made."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 8))
        self.done = True

    @property
    def out_features(self) -> int:
        return len(self.weight)

    @property
    def broken(self) -> int:
        return int(_refuses())

    def __setattr__(self, name: str, value: Any) -> None:
        if vars(self).get("done"):
            _refuses()
        super().__setattr__(name, value)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight)


def _lasting() -> Any:
    return weakref.WeakValueDictionary({"a": LASTING})


LASTING = NoWriting()
HELD: dict[str, Callable[[], Any]] = {
    "frozen dict": lambda: FrozenDict(width=8, seen=[1]),
    "frozen ordered dict": lambda: FrozenOrderedDict(width=8, seen=[1]),
    "ordered dict": lambda: collections.OrderedDict(width=8, seen=[1]),
    "default dict": lambda: collections.defaultdict(list, seen=[1]),
    "counter": lambda: collections.Counter("aab"),
    "chain map": lambda: collections.ChainMap({"a": [1]}, {"b": 2}),
    "user dict": lambda: collections.UserDict(width=8),
    "attribute dict": lambda: Attributes(width=8, seen=[1]),
    "mapping proxy": lambda: types.MappingProxyType({"seen": [1]}),
    "deque": lambda: collections.deque([1, 2], maxlen=2),
    "frozen list": lambda: FrozenList([1, 2]),
    "frozen set": lambda: FrozenSet([1, 2]),
    "frozenset": lambda: frozenset([1, 2]),
    "named tuple": lambda: Shape(8, [1]),
    "nested": lambda: {"a": [{"b": (1, [2])}]},
    "bytes": lambda: bytearray(b"ab"),
    "frozen dataclass": Recipe,
    "slotted dataclass": SlottedRecipe,
    "slots": Slotted,
    "namespace": lambda: types.SimpleNamespace(width=8, seen=[1]),
    "settings": lambda: Settings(width=8, child=Settings(depth=2)),
    "no comparison": NoComparison,
    "no writing": NoWriting,
    "weak values": _lasting,
    "weak reference": lambda: weakref.ref(LASTING),
    "weak proxy": lambda: weakref.proxy(LASTING),
    "lock": threading.Lock,
    "iterator": lambda: itertools.count(3),
    "generator": lambda: torch.Generator().manual_seed(3),
    "python generator": lambda: random.Random(3),
    "numpy generator": lambda: np.random.default_rng(3),
    "old numpy generator": lambda: np.random.RandomState(3),
    "array": lambda: np.arange(4.0),
    "read-only array": lambda: np.broadcast_to(np.zeros(1), (4,)),
    "module list": lambda: [nn.Linear(2, 2).eval()],
    "parameter list": lambda: nn.ParameterList([nn.Parameter(torch.zeros(2))]),
    "module dict": lambda: nn.ModuleDict({"unused": nn.Linear(2, 3)}),
    "class": lambda: FrozenDict,
    "function": lambda: _refuses,
}


class Holder(nn.Module):
    def __init__(self, held: Any, touch: Callable[[Any], None] | None = None) -> None:
        super().__init__()
        self.held, self.touch = held, touch
        self.a, self.n, self.b = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        if self.touch is not None:
            self.touch(self.held)
        return self.b(torch.relu(self.n(self.a(x))))


@pytest.mark.parametrize("name", sorted(HELD))
def test_a_model_is_traced_and_edited_whatever_it_holds(name: str) -> None:
    held = HELD[name]()
    model, x = Holder(held).eval(), torch.randn(3, 4)
    before = model(x)
    graph = ramify.trace(model, x)
    assert ability(graph["a"]) == "8 split"
    ramify.apply(graph, [ramify.Split("a", 1), ramify.Prune("a", 2)])
    assert model.held is held
    assert model(x).shape == before.shape
    assert model.a.weight.shape == (8, 4)


CHANGES: dict[str, Callable[[Any], None]] = {
    "frozen dict": lambda h: dict.__setitem__(h, "width", 9),
    "frozen ordered dict": lambda h: collections.OrderedDict.__setitem__(h, "more", 9),
    "ordered dict": lambda h: h.move_to_end("width"),
    "default dict": lambda h: h["new"].append(1),
    "counter": lambda h: h.update("c"),
    "user dict": lambda h: h.update(more=1),
    "attribute dict": lambda h: h.seen.append(2),
    "mapping proxy": lambda h: h["seen"].append(2),
    "deque": lambda h: h.append(3),
    "frozen list": lambda h: list.append(h, 3),
    "frozen set": lambda h: set.add(h, 3),
    "named tuple": lambda h: h.seen.append(2),
    "nested": lambda h: h["a"][0]["b"][1].append(3),
    "bytes": lambda h: h.append(3),
    "frozen dataclass": lambda h: h.seen.append(2),
    "slotted dataclass": lambda h: object.__setattr__(h, "seen", [7]),
    "slots": lambda h: (h.seen.clear(), setattr(h, "never", 1)),
    "namespace": lambda h: setattr(h, "width", 9),
    "settings": lambda h: h.__dict__["_content"].update(width=9),
    "no comparison": lambda h: h.seen.append(2),
    "no writing": lambda h: h.__dict__.update(seen=[2]),
    "weak values": lambda h: h.clear(),
    "generator": lambda h: torch.rand(2, generator=h),
    "python generator": lambda h: h.random(),
    "numpy generator": lambda h: h.random(),
    "old numpy generator": lambda h: h.rand(2),
    "array": lambda h: h.fill(7),
    "module list": lambda h: h[0].train(),
}  # fmt: skip


def _plain(value: Any) -> Any:
    """Everything that a value holds, down to its leaves, past the methods of its class."""
    kind = type(value)
    if issubclass(kind, dict):
        base = collections.OrderedDict if issubclass(kind, collections.OrderedDict) else dict
        return [(key, _plain(dict.__getitem__(value, key))) for key in base.__iter__(value)]
    if issubclass(kind, (set, frozenset)):
        return sorted(kind.__mro__[-2].__iter__(value))
    if issubclass(kind, (list, tuple, collections.deque)):
        base = next(b for b in (list, tuple, collections.deque) if issubclass(kind, b))
        return [_plain(item) for item in base.__iter__(value)]
    if issubclass(kind, types.MappingProxyType):
        return _plain(dict(value))
    if issubclass(kind, torch.Generator):
        value = random.Random(str(value.get_state().tolist()))
        kind = random.Random
    if issubclass(kind, (random.Random, np.random.Generator, np.random.RandomState)):
        return copy.deepcopy(value).random()
    if issubclass(kind, (np.ndarray, Tensor)):
        return value.tolist()
    slots = [s for s in getattr(kind, "__slots__", ()) if s[:2] != "__" and hasattr(value, s)]
    if slots:
        return [(slot, _plain(getattr(value, slot))) for slot in slots]
    return _plain(vars(value)) if hasattr(value, "__dict__") else value


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_what_a_forward_changes_is_given_back(name: str) -> None:
    model, x = Holder(HELD[name](), CHANGES[name]).eval(), torch.randn(3, 4)
    before = _plain(model.held)
    CHANGES[name](copied := HELD[name]())
    assert _plain(copied) != before  # it would be seen
    graph = ramify.trace(model, x)
    assert _plain(model.held) == before
    ramify.apply(graph, [ramify.Split("a", 1)])
    assert _plain(model.held) == before


def test_attributes_that_are_computed_or_refuse_to_be_set() -> None:
    model, x = nn.Sequential(nn.Linear(4, 8), Computed(), nn.Linear(6, 2)), torch.randn(3, 4)
    graph = ramify.trace(model, x)
    assert ability(graph["1"]) == "6 split"
    ramify.apply(graph, [ramify.Split("1", 0), ramify.Split("0", 0)])
    assert model[1].out_features == 7


def test_inputs_that_cannot_be_copied_are_given_back() -> None:
    class Reads(Holder):
        def forward(self, batch: Any) -> Tensor:
            batch.seen.append(2)
            return super().forward(batch.x)

    batch = NoComparison()
    batch.x = torch.randn(3, 4)
    graph = ramify.trace(Reads(None).eval(), batch)
    assert ability(graph["a"]) == "8 split"
    assert batch.seen == [1]


@dataclasses.dataclass(slots=True)
class Answer:
    logits: Tensor
    more: Any = None


@pytest.mark.parametrize(
    "pack",
    [
        Answer,
        lambda t: Answer(torch.zeros(1), Answer(t)),
        lambda t: types.SimpleNamespace(a=types.MappingProxyType({"b": t})),
        lambda t: Attributes(a=t),
        lambda t: FrozenOrderedDict(a=t),
        lambda t: Shape(1, [t]),
        lambda t: collections.deque([t]),
    ],
)
def test_outputs_are_found_in_any_object(pack: Callable[[Tensor], Any]) -> None:
    class Gives(Holder):
        def forward(self, x: Tensor) -> Any:
            return pack(super().forward(x))

    assert (
        ramify.trace(Gives(None), torch.randn(3, 4))["b"].reason == "it is an output of the model"
    )


def test_giving_back_goes_on_after_a_failure() -> None:
    class Key:
        breaks = False

        def __hash__(self) -> int:
            return _refuses() if self.breaks else 1  # type: ignore[no-any-return]

    key, first, last = Key(), {"a": 1}, [1]
    broken = {key: 1}
    kept = KeptState([first, broken, last])
    first["b"] = 2
    broken.clear()
    last.append(2)
    key.breaks = True
    with pytest.raises(ramify.RamifyError, match="what a 'dict' holds could not be given back"):
        kept.give_back()
    assert (first, last) == ({"a": 1}, [1])


def test_an_interrupt_waits_until_everything_is_given_back() -> None:
    done = []

    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        give_back_all([("a", interrupted), ("b", lambda: done.append(1))])
    assert done == [1]
