"""What forwards leave in attributes comes back with a saved model, or is named when it is saved."""

from __future__ import annotations

import copy
import functools
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ramify
from ramify import Prune, RamifyError
from ramify.store.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from ramify.store.state import NetworkInTraining


class Head(nn.Module):
    """Two convolutions; what comes between is each case's own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.between(torch.relu(self.a(x))))

    def between(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class ClassDefaults(Head):
    """A shape and a counter that stand in the class until the first forward."""

    shape = None
    steps = 0

    def between(self, x: Tensor) -> Tensor:
        self.shape, self.steps = x.shape, self.steps + 1
        return x * (1 + 0.1 * self.steps)


class Grid(Head):
    """A grid that is made anew where the size changes, as a detection head's anchors are."""

    size: Any = None
    grid = torch.empty(0)

    def between(self, x: Tensor) -> Tensor:
        if self.size != x.shape[2:]:
            self.size = x.shape[2:]
            self.grid = torch.linspace(0, 1, x.shape[2])[:, None] + torch.zeros(x.shape[3])
        return x + self.grid


class Longest(Head):
    """A table that only grows, beside the length that it has: it is wrong to bring back one."""

    def __init__(self) -> None:
        super().__init__()
        self._length, self._table = 0, None

    def between(self, x: Tensor) -> Tensor:
        if x.shape[3] > self._length:
            self._length = x.shape[3]
            self._table = torch.linspace(1, 2, self._length)
        return x * self._table[: x.shape[3]]


class Lists(Head):
    """Tensors, numbers and sizes in containers that the first forward fills."""

    def __init__(self) -> None:
        super().__init__()
        self.strides: list[Tensor] = []
        self.by_level: dict[str, Any] = {}
        self.seen: list[int] = []

    def between(self, x: Tensor) -> Tensor:
        if not self.strides:
            self.strides = [torch.tensor([2.0, 3.0]), torch.tensor(0.5)]
            self.by_level = {"first": (x.shape, 0.25), "second": None}
        self.seen.append(len(self.seen) + 1)
        return x * self.strides[1] + self.by_level["first"][1] + len(self.seen)


class LateBuffer(Head):
    """A buffer that the first forward registers; another that it fills."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filled", None)

    def between(self, x: Tensor) -> Tensor:
        if not hasattr(self, "late"):
            self.register_buffer("late", torch.rand(x.shape[3]), persistent=False)
            self.filled = torch.rand(1, x.shape[1], 1, 1)
        return x * self.late + self.filled


class Private(Head):
    """A counter of forwards under a private name, which scales the output."""

    _calls = 0

    def between(self, x: Tensor) -> Tensor:
        self._calls += 1
        return x / self._calls


class Computed(Head):
    """A number that a property computes once, from a width that is edited afterwards."""

    @functools.cached_property
    def scale(self) -> float:
        return self.a.out_channels**-0.5

    def between(self, x: Tensor) -> Tensor:
        return x * self.scale


class Locked(Head):
    """A module that refuses to have its attributes set, once it is built."""

    def __init__(self) -> None:
        super().__init__()
        self.width, self.locked = 8, True

    def __setattr__(self, name: str, value: Any) -> None:
        if "locked" in vars(self) and name != "training":
            raise AttributeError("locked")
        super().__setattr__(name, value)

    def between(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], self.width, x.shape[2], -1)


class Average(Head):
    """A running mean in a plain attribute, which should have been a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.zeros(1)

    def between(self, x: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * x.mean().detach()
        return x - self.mean


CASES = [ClassDefaults, Grid, Longest, Lists, LateBuffer, Private, Computed, Locked, Average]


@pytest.mark.parametrize("kind", CASES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("size", [6, 9])
def test_a_saved_model_goes_on_to_the_same_outputs(
    kind: type[Head], size: int, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model, x = kind(), torch.randn(1, 3, 6, 6)
    model(x)
    if kind is not LateBuffer:  # whose trace would have to run before the buffers are there
        ramify.apply(ramify.trace(model, x), [Prune("a", 1)])
    ramify.save(model, tmp_path / "net")
    loaded = ramify.load(tmp_path / "net", build=kind)
    other = torch.randn(2, 3, 6, 6 if kind is LateBuffer else size)
    for _ in range(3):
        assert torch.equal(loaded(other), model(other))
    kept = (set(vars(loaded)), set(loaded.state_dict()))
    assert kept == (set(vars(model)), set(model.state_dict()))


@pytest.mark.parametrize("kind", CASES, ids=lambda kind: kind.__name__)
def test_a_checkpoint_keeps_them_too(kind: type[Head], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, fresh, x = kind(), kind(), torch.randn(2, 3, 6, 6)
    model(x)
    state = NetworkInTraining(model, torch.optim.SGD(model.parameters(), lr=0.1)).state_dict()
    write_checkpoint(tmp_path / "run", Checkpoint("training", state, [], []))
    subject = NetworkInTraining(fresh, torch.optim.SGD(fresh.parameters(), lr=0.1))
    subject.load_state_dict(read_checkpoint(tmp_path / "run").state)
    assert torch.equal(fresh(x), model(x))


@pytest.mark.parametrize("kind", [Grid, Longest], ids=lambda kind: kind.__name__)
def test_a_reshaped_model_makes_its_caches_anew(kind: type[Head]) -> None:
    """A recipe alone holds no tensors, so that the sizes of caches must not come back either."""
    torch.manual_seed(0)
    model, x = kind(), torch.randn(1, 3, 6, 6)
    model(x)
    again = ramify.reshape(kind(), ramify.recipe_of(model))
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(x), model(x))


class Holder:
    """An object that holds tensors, as the cache of a language model does."""

    def __init__(self) -> None:
        self.keys = torch.ones(2)


def test_an_object_with_tensors_is_named_when_it_is_saved(tmp_path: Path) -> None:
    model = Private()
    model.cache = Holder()
    with pytest.warns(UserWarning, match="'cache' is a Holder that holds tensors, and is not sav"):
        ramify.save(model, tmp_path / "net")


def test_what_is_no_state_is_left_to_the_class(tmp_path: Path) -> None:
    Pair = namedtuple("Pair", "one two")
    model = Private()
    model.name, model.pair, model._hidden = "net", Pair([1], "two"), {"mode": "fast"}
    model.nothing, model.function = None, len
    ramify.save(model, tmp_path / "net")
    loaded = ramify.load(tmp_path / "net", build=Private)
    assert not {"name", "pair", "_hidden", "nothing", "function"} & set(vars(loaded))


def test_a_class_whose_attribute_is_computed_is_refused_in_a_sentence(tmp_path: Path) -> None:
    class Computed(Private):
        """Another version of the class: what was an attribute is a property."""

        @property
        def extra(self) -> int:
            return 3

    Computed.__name__ = "Private"
    model = Private()
    model.extra = 4
    ramify.save(model, tmp_path / "net")
    with pytest.raises(RamifyError, match="extra is a number in the recipe alone; build"):
        ramify.load(tmp_path / "net", build=Computed)


def test_saving_leaves_the_model_as_it_is(tmp_path: Path) -> None:
    model = Lists()
    model(torch.randn(1, 3, 6, 6))
    before = copy.deepcopy(vars(model)["by_level"]), list(model.seen), list(vars(model))
    ramify.save(model, tmp_path / "net")
    assert (model.by_level, model.seen, list(vars(model))) == before


@pytest.mark.parametrize("note", ["_hooked", "hooked"])
def test_a_forward_that_registers_hooks_once_does_so_again_in_a_loaded_model(
    note: str, tmp_path: Path
) -> None:
    """As models of `transformers` do to keep what their layers give."""

    class Watching(Head):
        def between(self, x: Tensor) -> Tensor:
            if not getattr(self, note, False):
                self.a.register_forward_hook(lambda module, _, out: 2 * out)
                setattr(self, note, True)
            return x

    torch.manual_seed(0)
    model, x = Watching(), torch.randn(2, 3, 5, 5)
    model(x)
    again = ramify.load(ramify.save(model, tmp_path / "net"), build=Watching)
    again(x)
    assert torch.equal(again(x), model(x))


class Tabled(Head):
    """A table of the pixels' places, made anew where images have another size."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("places", torch.zeros(1, 1), persistent=False)

    def between(self, x: Tensor) -> Tensor:
        if self.places.shape != x.shape[-2:]:
            height, width = x.shape[-2:]
            self.places = torch.arange(float(height * width)).reshape(height, width)
        return x * self.places


def test_a_table_that_a_forward_makes_leaves_the_graph_as_good_as_it_was() -> None:
    torch.manual_seed(0)
    model, x = Tabled(), torch.randn(2, 3, 5, 5)
    graph = ramify.trace(model, x)
    model(x)
    kept = copy.deepcopy(model)
    kept.b.weight.data[:, 1] = 0
    ramify.apply(graph, [Prune("a", 1)])
    assert torch.allclose(model(x), kept(x))
