"""A trace leaves the model, its gradients and every random generator exactly as they were."""

from __future__ import annotations

import contextlib
import copy
import gc
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

import ramify
from ramify.tracing.recorder import record
from tests.checks import ability, call, snapshot
from tests.structures import STRUCTURES


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", sorted(STRUCTURES))
def test_nothing_changes(name: str, training: bool) -> None:
    model, inputs = STRUCTURES[name].make()
    model.train(training)
    next(iter([*model.children(), model])).train(not training)
    random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002
    given = [t.clone() if isinstance(t, Tensor) else t for t in _leaves(inputs)]
    before = snapshot(model)
    ramify.trace(model, inputs)
    assert snapshot(model) == before
    for old, new in zip(given, _leaves(inputs), strict=True):
        assert torch.equal(old, new) if isinstance(old, Tensor) else old == new


def _leaves(inputs: Any) -> list[Any]:
    return torch.utils._pytree.tree_leaves(inputs)


def test_hooks_run_and_stay() -> None:
    """The model's own hooks run as in any forward; global tables are given back."""
    model, seen = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), []
    model[0].register_forward_hook(lambda *_: seen.append("hook"))
    tables = [
        dict(t)
        for t in (torch_module._global_forward_hooks, torch_module._global_forward_pre_hooks)
    ]
    x = torch.randn(2, 3)
    before = snapshot(model)
    ramify.trace(model, x)
    assert seen
    assert snapshot(model) == before
    assert tables == [torch_module._global_forward_hooks, torch_module._global_forward_pre_hooks]


def test_gradients_and_older_graphs_stay() -> None:
    model, x = STRUCTURES["ResidualStream"].make()
    model.train()
    call(model, x)[0].sum().backward()
    expected = [p.grad.clone() for p in model.parameters()]
    waiting = call(model, x)[0].sum()
    before = snapshot(model)
    ramify.trace(model, x)
    assert snapshot(model) == before
    waiting.backward()  # a graph made before the trace still finds its parameters
    for parameter, grad in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, 2 * grad)


def test_nothing_changes_when_the_forward_fails() -> None:
    class Fails(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.n, self.calls = nn.Linear(3, 4), nn.BatchNorm1d(4), 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            with torch.no_grad():
                self.a.weight.mul_(2.0)
            self.n.running_mean.add_(1.0)
            x = self.n(self.a(x))
            raise MemoryError

    model, x = Fails(), torch.randn(2, 3)
    before = snapshot(model)
    with pytest.raises(MemoryError):
        ramify.trace(model, x)
    assert snapshot(model) == before


def test_a_model_that_catches_its_own_errors() -> None:
    """The trial growth's signals may be swallowed by the forward; nothing wrong is offered."""

    class Catches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(5, 3), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            try:
                x = self.b(x.view(-1, 5))
            except Exception:
                x = torch.zeros(len(x), 3)
            return self.c(torch.relu(x))

    graph = ramify.trace(Catches(), torch.randn(2, 4))
    assert ability(graph["a"]) == "5 frozen"
    assert ability(graph["b"]) == "3 split"


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


@pytest.mark.filterwarnings("ignore:Using `torch.compile")
def test_compiled_models_are_traced_as_they_are_written() -> None:
    x = torch.randn(5, 3)
    model = torch.compile(small(), backend="eager")
    before = model(x)
    graph = ramify.trace(model, x)
    assert ability(graph["_orig_mod.0"]) == "4 split"
    ramify.apply(graph, [ramify.Split("_orig_mod.0", 1)])
    assert model._orig_mod[0].weight.shape == (5, 3)
    torch.testing.assert_close(model(x), before)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripted_models_can_be_edited() -> None:
    x = torch.randn(5, 3)
    model = torch.jit.script(small())
    before = model(x)
    graph = ramify.trace(model, x)
    assert ability(graph["0"]) == "4 split"
    ramify.apply(graph, [ramify.Split("0", 1)])
    torch.testing.assert_close(model(x), before)


def test_marks_of_the_profiler_are_no_operations() -> None:
    """Two runs with marks are the same run, which marks as script objects cannot say."""

    class Marked(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            with torch.profiler.record_function("all layers"):
                return super().forward(x)

    torch.manual_seed(0)
    plain, x = small().double(), torch.randn(5, 3).double()
    marked = Marked(*copy.deepcopy(plain))
    assert [op.name for op in record(marked, lambda: marked(x)).ops] == [
        op.name for op in record(plain, lambda: plain(x)).ops
    ]
    loss = lambda model, batch: model(batch).square().sum(1)  # noqa: E731
    gains, widths = [], []
    for model in (plain, marked):
        graph = ramify.trace(model, x)
        proposals = ramify.GaussNewton(epochs=2).propose(graph, loss, [x, x + 1])
        gains.append([proposal.gain for proposal in proposals])
        ramify.cut(graph, loss, [x, x + 1], budget={"params": 16})
        widths.append(model[0].weight)
    assert gains[0] == gains[1]
    assert torch.equal(*widths)


def test_a_trace_inside_autocast_sees_no_stale_weights() -> None:
    x, model = torch.randn(5, 3), small()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(x)
        graph = ramify.trace(model, x)
        assert ability(graph["0"]) == "4 split"
        graph = ramify.apply(graph, [ramify.Split("0", 1)])
        assert model(x).shape == (5, 2)
    assert graph["0"].width == 5


def test_inference_mode_and_half_precision() -> None:
    with torch.inference_mode():
        graph = ramify.trace(small(), torch.randn(5, 3))
        assert ability(graph["0"]) == "4 split"
        with pytest.raises(ramify.RamifyError, match=r"under torch\.no_grad"):
            ramify.apply(graph, [ramify.Split("0", 1)])  # weights that nothing could train
    model = small().bfloat16()
    assert ability(ramify.trace(model, torch.randn(5, 3).bfloat16())["0"]) == "4 split"


class Counting(nn.Module):
    """Notes how many objects are left out of the search for garbage while it runs."""

    def __init__(self, fails: bool) -> None:
        super().__init__()
        self.layer, self.fails = nn.Linear(3, 4), fails

    def forward(self, x: Tensor) -> Tensor:
        COUNTS.append(gc.get_freeze_count())
        return self.layer(x) if not self.fails else self.layer(x).view(7, 7)


COUNTS: list[int] = []


@pytest.mark.parametrize("fails", [False, True])
def test_older_objects_are_left_out_of_the_search_for_garbage(fails: bool) -> None:
    COUNTS.clear()
    with pytest.raises(ramify.RamifyError) if fails else contextlib.nullcontext():
        ramify.trace(Counting(fails), torch.randn(2, 3))
    assert COUNTS[0] > 0
    assert gc.get_freeze_count() == 0


def test_what_was_left_out_before_stays_so() -> None:
    gc.freeze()
    try:
        ramify.trace(nn.Linear(3, 4), torch.randn(2, 3))
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()


class Neighbours(nn.Module):
    """Features summed over neighbours, which a sparse buffer holds."""

    def __init__(self, edges: Tensor) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)
        self.register_buffer("edges", edges)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.edges @ self.first(x)))


@pytest.mark.parametrize("kind", ["to_sparse", "to_sparse_csr"])
@pytest.mark.filterwarnings("ignore:Sparse")
def test_a_sparse_buffer_comes_back(kind: str) -> None:
    torch.manual_seed(0)
    edges = (torch.rand(5, 5) > 0.5).double()
    model, x = Neighbours(getattr(edges, kind)()).double(), torch.randn(5, 4).double()
    before = model(x)
    graph = ramify.trace(model, x)
    assert torch.equal(model.edges.to_dense(), edges)  # type: ignore[operator]
    ramify.apply(graph, [ramify.Split("first", 1)])
    torch.testing.assert_close(model(x), before)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_buffers_without_memory_or_without_a_shape() -> None:
    model, x = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)), torch.randn(3, 4)
    model.register_buffer("zeros", torch._efficientzerotensor((3,)))
    assert ramify.trace(model, x)["0"].can_split
    model.register_buffer("parts", torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]))
    with pytest.raises(ramify.RamifyError, match="'parts' is a nested tensor, which has no shape"):
        ramify.trace(model, x)


def test_weights_of_eight_bits_are_edited_and_not_scored() -> None:
    class Narrow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)
            narrow = torch.randn(6, 6).to(torch.float8_e4m3fn)
            self.middle = nn.Parameter(narrow, requires_grad=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x) @ self.middle.float())

    torch.manual_seed(0)
    model, x = Narrow(), torch.randn(3, 4)
    before = model(x)
    graph = ramify.apply(ramify.trace(model, x), [ramify.Split("first", 1)])  # halves are exact
    torch.testing.assert_close(model(x), before)
    with pytest.raises(ramify.RamifyError, match="'middle' is of torch.float8_e4m3fn"):
        ramify.Taylor().propose(graph, lambda model, x: model(x).square().sum(1), [x])
