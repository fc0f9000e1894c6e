"""Predicted latency, and what is timed: on clocks and laws that are made up; nothing is timed."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ramify
from ramify import latency
from ramify.cost import Cost
from ramify.latency import timing
from ramify.tracing.indexing import Floats, Index
from tests.structures.experts import MaskedExperts


class Ticks:
    """A clock that whatever runs moves on."""

    def __init__(self) -> None:
        self.now = 0.0

    def ready(self) -> None:
        pass

    def mark(self) -> float:
        return self.now

    def between(self, start: float, end: float) -> float:
        return end - start


def up(width: int, vector: int) -> int:
    return -(-width // vector) * vector


def net(*widths: int) -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise((3, *widths)):
        layers += [nn.Linear(inputs, outputs), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 2))


def law(graph: ramify.ChannelGraph, widths: tuple[int, int]) -> latency.Sample:
    """Milliseconds of each operation of a net of two hidden layers, by a law with steps."""
    sizes = [3, *widths, 2]
    layers, times = iter(range(3)), []
    for op in graph.tapes[0].ops:
        if op.name == "aten::addmm":
            at = next(layers)
            read, made = (up(sizes[n], 16) if n else sizes[n] for n in (at, at + 1))
            times.append(0.01 + 1e-4 * read * made + 1e-3 * sizes[at + 1])
        elif op.name == "aten::tanh":
            times.append(0.002 + 1e-5 * up(sizes[at + 1], 8))
        else:
            times.append(0.001)
    shape = np.array([*widths, 2], dtype=np.int64)
    return latency.Sample(shape, np.array(times), 1.3 * sum(times) - 0.004)


def learned(count: int = 40) -> tuple[ramify.ChannelGraph, latency.LatencyModel]:
    graph = ramify.trace(net(24, 40), torch.randn(1, 3))
    draw = np.random.default_rng(0)
    shapes = [tuple(draw.integers(4, 70, size=2).tolist()) for _ in range(count)]
    return graph, latency.LatencyModel(graph, [law(graph, shape) for shape in shapes])


def test_a_law_with_steps_is_found_from_a_few_shapes() -> None:
    graph, found = learned()
    assert found.error < 1e-3
    for widths in [(5, 64), (16, 17), (33, 48), (120, 90)]:
        truth = law(graph, widths).total
        assert found.at({"0": widths[0], "2.bias": widths[1]}) == pytest.approx(truth, rel=1e-3)
    edits = [ramify.Split("0", 0, (0.5, 0.25, 0.25)), ramify.Prune("2", 3)]
    assert found.edited(edits) == pytest.approx(law(graph, (26, 39)).total, rel=1e-3)
    assert found.edited([]) == found.at({}) == found.at(found.widths)
    shapes = np.array([[5, 64, 2], [16, 17, 2]])
    assert found.at_each(shapes) == pytest.approx([found.at(shape) for shape in shapes])


def test_the_error_is_of_shapes_that_were_left_out() -> None:
    graph = ramify.trace(net(24, 40), torch.randn(1, 3))
    draw, samples = np.random.default_rng(0), []
    for _ in range(30):
        true = law(graph, tuple(draw.integers(4, 70, size=2).tolist()))
        samples.append(latency.Sample(true.widths, true.ops, true.total * draw.choice([0.8, 1.2])))
    assert 0.15 < latency.LatencyModel(graph, samples).error < 0.25


def test_the_tables_hold_for_the_edited_network() -> None:
    graph, found = learned()
    edited = ramify.apply(graph, [ramify.Split("0", 0), *(ramify.Prune("2", c) for c in range(9))])
    there = found.on(edited)
    assert there.at({}) == pytest.approx(law(edited, (25, 31)).total, rel=1e-3)
    assert found.widths.tolist() == [24, 40, 2]
    assert found.on(graph) is found
    other = ramify.trace(
        nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.ones(1, 3)
    )
    with pytest.raises(ramify.RamifyError, match="operations that this latency was not learned"):
        found.on(other)


class Watched(nn.Module):
    """Two layers, each of which takes a tick a channel; notes the widths it ran with."""

    seen: ClassVar[list[int]] = []

    def __init__(self, clock: Ticks, branch: Callable[[int], bool] = lambda width: False) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 8), nn.Linear(8, 2)
        self.clock, self.branch = clock, branch

    def forward(self, x: Tensor) -> Tensor:
        width = self.a.weight.shape[0]
        self.seen.append(width)
        self.clock.now += width
        x = torch.tanh(self.a(x.mul_(1.0)))
        return self.b(x + 1 if self.branch(width) else x)


def test_each_shape_is_run_once_a_round_in_an_order_that_changes() -> None:
    clock = Ticks()
    watched = Watched(clock)
    graph = ramify.trace(watched, torch.randn(1, 3))
    before = {name: value.clone() for name, value in watched.state_dict().items()}
    watched.seen.clear()
    shapes = [np.array([width, 2]) for width in (8, 4, 20, 11, 9)]
    samples = latency.observe(graph, shapes, rounds=3, clock=clock)
    assert [sample.total for sample in samples] == [8, 4, 20, 11, 9]
    assert all(len(sample.ops) == len(graph.tapes[0].ops) for sample in samples)
    visits = [width for width, _ in itertools.groupby(watched.seen)]
    rounds = [tuple(visits[at : at + 5]) for at in (0, 5, 10)]
    assert len(visits) < 15 or all(sorted(each) == [4, 8, 9, 11, 20] for each in rounds)
    assert len(set(rounds)) > 1
    assert watched.training
    assert all(torch.equal(before[name], value) for name, value in watched.state_dict().items())


def test_another_course_at_other_widths_is_refused() -> None:
    clock = Ticks()
    graph = ramify.trace(Watched(clock, lambda width: width == 5), torch.randn(1, 3))
    with pytest.raises(ramify.RamifyError, match="other operations than when it was traced"):
        latency.observe(graph, [np.array([5, 2])], clock=clock)


def test_what_cannot_be_learned_is_said() -> None:
    graph, _ = learned()
    with pytest.raises(ramify.RamifyError, match="at least 2 shapes"):
        latency.LatencyModel(graph, [law(graph, (5, 6))])
    with pytest.raises(ramify.RamifyError, match="rounds must be at least 1"):
        latency.observe(graph, [graph_widths(graph)], rounds=0)
    with pytest.raises(ramify.RamifyError, match="no group of this model"):
        latency.learn(ramify.trace(nn.Linear(3, 2), torch.randn(1, 3)))


def graph_widths(graph: ramify.ChannelGraph) -> Index:
    return np.array([group.width for group in graph.groups], dtype=np.int64)


def test_shapes_are_drawn_among_those_that_edits_reach() -> None:
    graph = ramify.trace(net(40, 64), torch.randn(1, 3))
    shapes = np.array(latency.draw_shapes(graph, 40, scales=(0.5, 2.0)))
    assert shapes[0].tolist() == [40, 64, 2]
    assert (shapes[:, 2] == 2).all()  # an output of the model
    assert shapes[:, 0].min() < 28
    assert shapes[:, 0].max() > 60
    assert (shapes[:, :2] >= [20, 32]).all()
    assert (shapes[:, :2] <= [80, 128]).all()
    assert (shapes[1::2, :2] % 8 == 0).all()
    assert (shapes[2::2, :2] % 8 != 0).any()
    again = latency.draw_shapes(graph, 40, scales=(0.5, 2.0))
    assert (np.array(again) == shapes).all()


@pytest.mark.parametrize("scales", [(0.0, 1.5), (-1.0, 1.0), (2.0, 1.0), (1.0, float("inf"))])
def test_scales_that_are_no_range_are_refused(scales: tuple[float, float]) -> None:
    graph = ramify.trace(net(4, 5), torch.randn(1, 3))
    with pytest.raises(ramify.RamifyError, match="smallest and the largest width"):
        latency.draw_shapes(graph, 3, scales)


def test_experts_stay_at_least_as_many_as_each_token_is_routed_to() -> None:
    graph = ramify.trace(MaskedExperts(), torch.randn(5, 6))
    router = graph["router"]
    assert (router.width, router.least, router.narrowest) == (4, 2, 2)
    number = graph.groups.index(router)
    drawn = latency.draw_shapes(graph, 8, scales=(0.1, 0.2))
    assert {int(shape[number]) for shape in drawn[1:]} == {2}
    priced = latency.prices(graph, ["router"], scales=(0.25, 0.5, 1.0), repeats=2)
    assert priced["router"] >= 0


class Outer(nn.Module):
    """Calls a part twice, once by name, on what it computes itself."""

    def __init__(self, clock: Ticks) -> None:
        super().__init__()
        self.part, self.idle = Part(clock), nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.part(self.part(x + 1), twice=True)


@pytest.mark.parametrize("shape", [[8], [8, 2, 1], [0, 2]])
def test_a_shape_without_one_width_for_each_group_is_refused(shape: list[int]) -> None:
    graph = ramify.trace(Watched(Ticks()), torch.randn(1, 3))
    with pytest.raises(ramify.RamifyError, match="one width of at least 1 for each of the"):
        latency.observe(graph, [np.array(shape)], rounds=1)


class Part(nn.Module):
    seen: ClassVar[list[float]] = []

    def __init__(self, clock: Ticks) -> None:
        super().__init__()
        self.clock = clock

    def forward(self, x: Tensor, twice: bool = False) -> Tensor:
        self.seen.append(x.item())
        self.clock.now += 2 if twice else 1
        return x.mul_(2)  # writes into what it is given


def test_a_part_is_timed_alone_on_its_own_inputs_and_copies_are_not_timed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Ticks()
    outer = Outer(clock)
    copied = timing.copied

    def slowly(inputs: object) -> object:
        clock.now += 100
        return copied(inputs)

    monkeypatch.setattr(timing, "copied", slowly)
    x = torch.tensor([3.0])
    found = latency.measure(outer, x, module="part", repeats=4, warmup=1, clock=clock)
    assert (found.median, found.spread, found.repeats) == (3.0, 0.0, 4)
    assert (found.device, found.threads) == ("cpu", torch.get_num_threads())
    assert outer.part.seen == [4.0, 8.0] * 6
    assert x.item() == 3.0
    assert not outer.part._forward_pre_hooks
    assert latency.measure(outer, x, repeats=2, clock=clock).median == 3.0
    with pytest.raises(ramify.RamifyError, match="no module 'parts'"):
        latency.measure(outer, x, module="parts")
    with pytest.raises(ramify.RamifyError, match="'idle' does not run"):
        latency.measure(outer, x, module="idle")
    assert not outer.idle._forward_pre_hooks


@pytest.mark.parametrize("most", [6.0, 15.0, -4.0])
def test_the_knapsack_keeps_to_a_latency_that_is_no_line(
    most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = ramify.trace(net(6, 6), torch.randn(1, 3))

    def predicted(shapes: Index) -> Floats:
        a, b = (-(-shapes[:, n] // 4) * 4 for n in (0, 1))
        return np.asarray(3.0 + 0.1 * a * b + 0.3 * a + shapes[:, 1])

    class Law:
        def __init__(self) -> None:
            self.graph, self.on = graph, lambda _: self

        def at(self, widths: Index) -> float:
            return float(predicted(widths[None])[0])

        at_each = staticmethod(predicted)

    def widths(edits: object) -> Index:
        shape = graph_widths(graph)
        for edit in edits:  # type: ignore[attr-defined]
            shape[int(edit.group) // 2] += 1 if isinstance(edit, ramify.Split) else -1
        return shape

    def measured(_: object, edits: object = ()) -> latency.Latency:
        return latency.Latency(Law().at(widths(edits)), 0.0)

    monkeypatch.setattr("ramify.select.knapsack.rule.measure_edited", measured)
    draw = np.random.default_rng(0)
    kinds = (ramify.Split, ramify.Prune) if most < 0 else (ramify.Split,)
    offered = [
        ramify.Proposal(
            kind(name, c), draw.exponential() * (1 if kind is ramify.Split else -1), Cost(0, 0),
            graph=graph,
        )
        for name in ("0", "2")
        for c in range(6)
        for kind in kinds
    ]  # fmt: skip
    rule = ramify.Knapsack(latency=most, predicted=Law())  # type: ignore[arg-type]
    found = rule.solve(offered)
    assert found.spent["latency"] <= most
    now = Law().at(graph_widths(graph))
    tables = [best_at([p for p in offered if p.edit.group == name]) for name in ("0", "2")]
    best = max(
        first + second
        for (a, first), (b, second) in itertools.product(*(table.items() for table in tables))
        if Law().at(np.array([6 + a, 6 + b, 2])) - now <= most
    )
    assert found.value <= best + 1e-9
    assert found.value >= best - 0.25 * abs(best)


def best_at(offered: list[ramify.Proposal]) -> dict[int, float]:
    """The most value of each change of a group's width, by exhaustive search."""
    pools = [[p for p in offered if p.edit.channel == c] for c in range(6)]
    best: dict[int, float] = {}
    for chosen in itertools.product(*([None, *pool] for pool in pools)):
        edits = [p for p in chosen if p is not None]
        change = sum(1 if isinstance(p.edit, ramify.Split) else -1 for p in edits)
        if change > -6:
            best[change] = max(best.get(change, -np.inf), sum(p.value for p in edits))
    return best
