"""The knapsack against exhaustive search, on hand-made costs and on the true costs of real nets."""

from __future__ import annotations

import functools
import itertools
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import Tensor, nn

import ramify
from ramify.cost import RESOURCES, Cost, CostModel, graph_cost
from ramify.select.knapsack.value_curve import Option, rising_values
from ramify.tracing.indexing import Floats, Index
from tests.nets import Depthwise, Residual


class Two(nn.Module):
    """Two convolutions in a row and a linear layer: costs that multiply."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.b(torch.relu(self.a(x)))).mean((2, 3)))


NETS = {"two": Two, "residual": Residual, "depthwise": Depthwise}


def key(p: ramify.Proposal) -> tuple[str, int]:
    return (p.graph[p.edit.group].name if p.graph else p.edit.group, p.edit.channel)


def sound(chosen: Sequence[ramify.Proposal], widths: dict[str, int]) -> bool:
    """At most one edit a channel, and no group pruned away."""
    keys = [key(p) for p in chosen]
    gone = [k[0] for k, p in zip(keys, chosen, strict=True) if isinstance(p.edit, ramify.Prune)]
    return len(set(keys)) == len(keys) and all(gone.count(g) < widths[g] for g in set(gone))


def widths_of(proposals: Sequence[ramify.Proposal]) -> dict[str, int]:
    keys = {key(p) for p in proposals}
    graph = proposals[0].graph
    counted = {group: sum(g == group for g, _ in keys) for group, _ in keys}
    return {group: graph[group].width if graph else counted[group] for group, _ in keys}


def subsets(proposals: Sequence[ramify.Proposal]) -> Iterator[list[ramify.Proposal]]:
    """Every sound selection."""
    pools: dict[tuple[str, int], list[ramify.Proposal | None]] = {}
    for p in proposals:
        pools.setdefault(key(p), [None]).append(p)
    widths = widths_of(proposals)
    for choice in itertools.product(*pools.values()):
        chosen = [p for p in choice if p is not None]
        if sound(chosen, widths):
            yield chosen


def spent(chosen: Sequence[ramify.Proposal], graph: ramify.ChannelGraph | None) -> Cost:
    """What a selection adds, by the walk over the tape."""
    if graph is not None:
        return graph_cost(graph, [p.edit for p in chosen]) - graph_cost(graph)
    total = [(p.cost.params, p.cost.macs) for p in chosen]
    return Cost(sum(p for p, _ in total), sum(m for _, m in total))


def exhaustive(
    proposals: Sequence[ramify.Proposal],
    graph: ramify.ChannelGraph | None,
    budgets: dict[str, float],
) -> float | None:
    known: dict[tuple[tuple[str, int], ...], Cost] = {}
    best = None
    for chosen in subsets(proposals):
        if graph is None:
            cost = spent(chosen, None)
        else:  # selections of one shape cost alike
            changes: dict[str, int] = {}
            for p in chosen:
                more = len(p.edit.weights) - 1 if isinstance(p.edit, ramify.Split) else -1
                changes[key(p)[0]] = changes.get(key(p)[0], 0) + more
            shape = tuple(sorted((g, change) for g, change in changes.items() if change))
            if shape not in known:
                known[shape] = spent(chosen, graph)
            cost = known[shape]
        if all(cost.of(name) <= budget for name, budget in budgets.items()):
            value = sum(p.value for p in chosen)
            best = value if best is None or value > best else best
    return best


def even(copies: int) -> tuple[float, ...]:
    return (1 / copies,) * copies


@functools.cache
def traced(name: str) -> ramify.ChannelGraph:
    """The graph of a network, shared: only its shape is read."""
    return ramify.trace(NETS[name](), torch.randn(1, 3, 5, 5))


def on_graph(
    name: str, draw: random.Random, most: int, prunes: bool
) -> tuple[ramify.ChannelGraph, list[ramify.Proposal]]:
    """Splits in 2 to 4 and prunes of some channels, with random values."""
    graph = traced(name)
    model = CostModel(graph)
    groups = [group for group in graph.groups if group.can_split]
    channels = [(group, c) for group in groups for c in range(group.width)]
    proposals = []
    for group, channel in draw.sample(channels, min(most, len(channels))):
        edits: list[ramify.Split | ramify.Prune] = []
        for copies in draw.sample([2, 3, 4], 2):
            edits.append(ramify.Split(group.producers[0], channel, even(copies)))
        if prunes and group.can_prune:
            edits.append(ramify.Prune(group.name, channel))
        for edit in edits:
            down = isinstance(edit, ramify.Prune)
            value = draw.uniform(-0.8, 0.1) if down else draw.uniform(-0.1, 1)
            proposals.append(ramify.Proposal(edit, value, model.added([edit]), graph=graph))
    return graph, proposals


def by_hand(draw: random.Random, channels: int, prunes: bool) -> list[ramify.Proposal]:
    proposals = []
    for number in range(channels):
        group, channel = f"g{number % 2}", number // 2
        for copies in draw.sample([2, 3, 4], 2):
            edit = ramify.Split(group, channel, even(copies))
            cost = Cost(draw.randint(1, 50) * copies, draw.randint(1, 900) * copies)
            proposals.append(ramify.Proposal(edit, draw.uniform(-0.1, 1), cost))
        if prunes:
            cost = Cost(-draw.randint(1, 50), -draw.randint(1, 900))
            gone = ramify.Prune(group, channel)
            proposals.append(ramify.Proposal(gone, draw.uniform(-0.8, 0.1), cost))
    return proposals


def budgets_for(
    draw: random.Random, proposals: Sequence[ramify.Proposal], sign: int
) -> dict[str, float]:
    """One to three budgets, each a share of what all proposals of that sign would change."""
    out = {}
    for name in draw.sample(RESOURCES, draw.randint(1, 3)):
        total = sum(p.cost.of(name) for p in proposals if p.cost.params * sign > 0)
        out[name] = round(draw.uniform(0.1, 0.6) * total)
    return out


@pytest.mark.parametrize("exact_up_to", [500, 0])
@pytest.mark.parametrize("kind", ["grow", "mixed", "shrink"])
@pytest.mark.parametrize("name", ["by hand", *NETS])
def test_it_is_exhaustive_search_or_within_the_gap(name: str, kind: str, exact_up_to: int) -> None:
    tried = rounds = 0
    while tried < 3:
        draw = random.Random(rounds)
        rounds += 1
        if name == "by hand":
            graph, proposals = None, by_hand(draw, 6, kind != "grow")
        else:
            graph, proposals = on_graph(name, draw, 5, kind != "grow")
        budgets = budgets_for(draw, proposals, -1 if kind == "shrink" else 1)
        best = exhaustive(proposals, graph, budgets)
        rule = ramify.Knapsack(**budgets, exact_up_to=exact_up_to)
        if best is None:
            with pytest.raises(ramify.RamifyError, match="no selection is within|takes"):
                rule.solve(proposals)
            continue
        tried += 1
        found = rule.solve(proposals)
        assert sound(found.chosen, widths_of(proposals))
        assert found.value == pytest.approx(sum(p.value for p in found.chosen))
        cost = spent(found.chosen, graph)
        assert all(cost.of(r) == found.spent[r] for r in RESOURCES)
        assert all(cost.of(r) <= budget for r, budget in budgets.items())
        assert found.bound >= best - 1e-9
        if exact_up_to:
            assert found.value == pytest.approx(best, abs=1e-5)
            assert found.gap == pytest.approx(0, abs=1e-4)
        size = max(abs(found.bound), abs(found.value))
        assert found.value >= found.bound - found.gap * size - 1e-9
        assert found.value <= best + 1e-9
        if best > 0:
            assert found.value >= (1 - found.gap) * best - 1e-9
        assert rule.select(proposals) == found.chosen


def test_more_proposals_of_one_channel_are_a_choice_of_copies() -> None:
    gains = {2: 1.0, 3: 1.8, 4: 2.0}
    offered = [
        ramify.Proposal(ramify.Split("g", c, even(m)), gain, Cost(10 * (m - 1), 1))
        for c in range(2)
        for m, gain in gains.items()
    ]
    for budget, counts in {10: [2], 20: [2, 2], 30: [2, 3], 40: [3, 3], 60: [4, 4]}.items():
        chosen = ramify.Knapsack(params=budget).select(offered)
        assert sorted(len(p.edit.weights) for p in chosen) == counts  # type: ignore[union-attr]


def test_neighbours_that_grow_together_cost_more_than_the_sum() -> None:
    graph = ramify.trace(Two(), torch.randn(1, 3, 5, 5))
    model = CostModel(graph)
    offered = [
        ramify.Proposal(edit, 1.0, model.added([edit]), graph=graph)
        for edit in (ramify.Split(name, c) for name in "ab" for c in range(4))
    ]
    total = sum(p.cost.params for p in offered)
    assert model.added([p.edit for p in offered]).params == total + 4 * 4 * 9
    assert len(ramify.Knapsack(params=total).select(offered)) < 8
    assert len(ramify.Knapsack(params=total + 144).select(offered)) == 8
    by_hand = [ramify.Proposal(p.edit, p.gain, p.cost) for p in offered]
    assert len(ramify.Knapsack(params=total).select(by_hand)) == 8


@pytest.mark.parametrize("kind", ["grow", "mixed", "shrink"])
def test_rounding_a_larger_network_is_never_over_budget(kind: str) -> None:
    layers = [nn.Linear(n, m) for n, m in itertools.pairwise((6, 40, 30, 50, 3))]
    graph = ramify.trace(nn.Sequential(*layers), torch.randn(1, 6))
    model, draw = CostModel(graph), random.Random(0)
    offered = []
    for group, channel in ((g, c) for g in graph.groups if g.can_split for c in range(g.width)):
        edits = [ramify.Split(group.name, channel, even(m)) for m in (2, 3, 4)]
        values = sorted(draw.expovariate(1) for _ in edits)
        offered += [
            ramify.Proposal(edit, value, model.added([edit]), graph=graph)
            for edit, value in zip(edits, values, strict=True)
        ]
        if kind != "grow":
            gone = ramify.Prune(group.name, channel)
            cost = model.added([gone])
            offered.append(ramify.Proposal(gone, -draw.expovariate(1), cost, graph=graph))
    now, sign = model.cost(), -1 if kind == "shrink" else 1
    budgets = {"params": sign * now.params // 3, "flops": sign * now.flops // 4}
    rounded = ramify.Knapsack(**budgets, exact_up_to=0, steps=2000).solve(offered)
    cost = spent(rounded.chosen, graph)
    assert all(cost.of(name) <= budget for name, budget in budgets.items())
    assert rounded.value <= rounded.bound
    assert 0 <= rounded.gap < 0.1  # loosely: a limit that breaks where the bound gets worse
    chosen = set(map(id, rounded.chosen))
    for p in offered:  # nothing that pays is left that would still fit
        rest = [q for q in rounded.chosen if key(q) != key(p)]
        if id(p) not in chosen and len(rest) == len(rounded.chosen) and p.value > 0:
            cost = model.added([*(q.edit for q in rest), p.edit])
            slack = max(cost.of(name) - budget for name, budget in budgets.items())
            assert slack > 0 or p.value < rounded.bound - rounded.value


@pytest.mark.parametrize("exact_up_to", [10**6, 0])
@pytest.mark.parametrize("kind", ["by hand", "two"])
def test_out_of_time_the_best_so_far_is_within_the_budgets(kind: str, exact_up_to: int) -> None:
    draw = random.Random(1)
    if kind == "by hand":
        graph, proposals = None, by_hand(draw, 6, prunes=False)
    else:
        graph, proposals = on_graph(kind, draw, 5, prunes=True)
    budgets = budgets_for(draw, proposals, 1)
    found = ramify.Knapsack(**budgets, exact_up_to=exact_up_to, seconds=1e-9).solve(proposals)
    cost = spent(found.chosen, graph)
    assert all(cost.of(name) <= budget for name, budget in budgets.items())
    best = exhaustive(proposals, graph, budgets)
    assert best is not None
    assert found.value - 1e-9 <= best <= found.bound + 1e-9


@pytest.mark.parametrize("exact_up_to", [10**6, 0])
def test_with_steps_no_clock_is_asked(exact_up_to: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which a million seconds pass between two looks at the clock chooses the same."""
    draw = random.Random(3)
    _, proposals = on_graph("two", draw, 5, prunes=True)
    budgets = budgets_for(draw, proposals, 2)
    knapsack = ramify.Knapsack(**budgets, exact_up_to=exact_up_to, steps=500)
    found = knapsack.solve(proposals)
    moments = itertools.count(0.0, 1e6)
    monkeypatch.setattr("time.monotonic", lambda: next(moments))
    again = knapsack.solve(proposals)
    assert again.chosen == found.chosen
    assert again.bound == found.bound


def test_few_steps_are_within_the_budgets_and_more_are_no_worse() -> None:
    layers = [nn.Linear(n, m) for n, m in itertools.pairwise((6, 40, 30, 50, 20, 3))]
    graph = ramify.trace(nn.Sequential(*layers), torch.randn(1, 6))
    model, draw = CostModel(graph), random.Random(0)
    prunes = [ramify.Prune(g.name, c) for g in graph.groups if g.can_prune for c in range(g.width)]
    offered = [
        ramify.Proposal(edit, -draw.expovariate(1), model.added([edit]), graph=graph)
        for edit in prunes
    ]
    budget = -model.cost().macs // 2
    found = [
        ramify.Knapsack(macs=budget, exact_up_to=0, steps=steps).solve(offered)
        for steps in (1, 10, 1000)
    ]
    assert all(spent(each.chosen, graph).macs <= budget for each in found)
    assert [each.value for each in found] == sorted(each.value for each in found)


def test_curves_are_the_best_of_every_width() -> None:
    draw = random.Random(0)
    for _ in range(60):
        channels: list[list[Option]] = []
        for number in range(5):
            changes = draw.choice([[1], [-1], [-1, 1], [-1, 1, 2], [3], [2, 3], [-1, -1, 1, 1]])
            channels.append(
                [(c, draw.uniform(-1, 1), 10 * number + n) for n, c in enumerate(changes)]
            )
        best: dict[int, float] = {}
        for choice in itertools.product(*([(0, 0.0, -1), *options] for options in channels)):
            change, value = sum(c for c, _, _ in choice), sum(v for _, v, _ in choice)
            if change > -5:
                best[change] = max(best.get(change, -9.0), value)
        rising = {
            c: v for c, v in best.items() if v > max([-9.0, *(best[d] for d in best if d < c)])
        }
        found = rising_values(channels, 5)
        assert dict(zip(found.changes.tolist(), found.values.tolist(), strict=True)) == (
            pytest.approx(rising)
        )
        options = {number: (c, v) for pool in channels for c, v, number in pool}
        for change, value in rising.items():
            picked = found.chosen(change)
            assert len({number // 10 for number in picked}) == len(picked)
            assert sum(options[n][0] for n in picked) == change
            assert sum(options[n][1] for n in picked) == pytest.approx(value)


def test_the_old_name_of_the_limit_of_exact_search_is_taken() -> None:
    rule = ramify.Knapsack(params=1, exact=7)
    assert rule == ramify.Knapsack(params=1, exact_up_to=7)
    assert rule.exact == 7
    assert ramify.Knapsack(params=1).exact == ramify.Knapsack(params=1).exact_up_to == 500


def test_what_cannot_be_met_is_said() -> None:
    graph = ramify.trace(Two(), torch.randn(1, 3, 5, 5))
    model = CostModel(graph)
    edits = [ramify.Prune("a", 0), ramify.Split("b", 1)]
    offered = [ramify.Proposal(e, 0.1, model.added([e]), graph=graph) for e in edits]
    by_hand = [ramify.Proposal(p.edit, p.gain, p.cost) for p in offered]
    most = -model.added(edits[:1]).params
    assert [p.edit for p in ramify.Knapsack(params=-most).select(offered)] == edits[:1]
    for given in (offered, by_hand):
        with pytest.raises(ramify.RamifyError, match=f"by -{most + 1} where .* reach -"):
            ramify.Knapsack(params=-most - 1).select(given)
    with pytest.raises(ramify.RamifyError, match="the model has"):
        ramify.Knapsack(params=-1e6).select(offered)
    with pytest.raises(ramify.RamifyError, match="no proposal"):
        ramify.Knapsack(params=-1).select([])
    with pytest.raises(ramify.RamifyError, match="steps must be at least 1, but got 0"):
        ramify.Knapsack(params=-1, steps=0)
    with pytest.raises(ramify.RamifyError, match="steps take proposals that carry the traced"):
        ramify.Knapsack(params=-1, steps=9).select(by_hand)
    with pytest.raises(ramify.RamifyError, match="carry the traced model"):
        ramify.Knapsack(latency=1.0).select(by_hand)
    empty = ramify.Knapsack(params=0, latency=0).solve([])
    assert (empty.chosen, empty.value, empty.bound, empty.gap) == ([], 0, 0, 0)


def line(base: float, each: Mapping[str, float]) -> type:
    """A latency that is a line in the widths, in place of one that is learned."""

    class Line:
        def __init__(self, graph: ramify.ChannelGraph) -> None:
            self.graph, self.on = graph, lambda _: self

        def at(self, widths: Index) -> float:
            return float(self.at_each(widths[None])[0])

        def at_each(self, shapes: Index) -> Floats:
            return base + shapes @ np.array([each.get(g.name, 0.0) for g in self.graph.groups])

    return Line


def test_latency_is_predicted_and_the_chosen_shape_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graph = ramify.trace(Two(), torch.randn(1, 3, 5, 5))
    offered = [
        ramify.Proposal(ramify.Split(name, c), 1.0 + c, Cost(1, 1), graph=graph)
        for name in "ab"
        for c in range(4)
    ]
    real = {"a": 1.0, "b": 3.0}  # milliseconds a channel; half of it is predicted

    def measured(
        graph: ramify.ChannelGraph, edits: Sequence[ramify.Split] = ()
    ) -> ramify.latency.Latency:
        return ramify.latency.Latency(20 + sum(real[edit.group] for edit in edits), 0.1)

    monkeypatch.setattr("ramify.select.knapsack.rule.learn", line(7, {"a": 0.5, "b": 1.5}))
    monkeypatch.setattr("ramify.select.knapsack.rule.measure_edited", measured)
    found = ramify.Knapsack(latency=6.0).solve(offered)
    assert 0 < found.spent["latency"] <= 6.0
    assert found.spent["latency"] == sum(real[p.edit.group] for p in found.chosen)
    together = ramify.Knapsack(latency=6.0, params=40).solve(offered)
    assert together.spent["latency"] <= 6.0
    assert together.spent["params"] <= 40
    # Counted from what was measured before, of which the measurement of now is 2 above.
    counted = ramify.Knapsack(latency=6.0, milliseconds=18.0).solve(offered)
    assert 0 < sum(real[p.edit.group] for p in counted.chosen) <= 4.0
    real["a"] = real["b"] = 1e3  # nothing that is predicted to fit is really so fast
    assert ramify.Knapsack(latency=6.0).select(offered) == []
    gone = [
        ramify.Proposal(ramify.Prune("a", c), -1.0 - c, Cost(-1, -1), graph=graph) for c in range(3)
    ]
    with pytest.raises(ramify.RamifyError, match=r"at most 6 ms, as measured; all .* add 3,000 ms"):
        ramify.Knapsack(latency=6.0, params=-2).select(gone)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.8, 1.5, 2.0])
def test_a_budget_of_milliseconds_is_filled_whatever_was_predicted(
    share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a twentieth of the saving that a prune really brings, to twice as much."""
    net = nn.Sequential(nn.Linear(3, 60), nn.Tanh(), nn.Linear(60, 2))
    graph = ramify.trace(net, torch.randn(1, 3))
    offered = [
        ramify.Proposal(ramify.Prune("0", c), -1.0 - c, Cost(-1, -1), graph=graph)
        for c in range(50)
    ]
    measured: list[int] = []

    def milliseconds(_: object, edits: Sequence[ramify.Prune] = ()) -> ramify.latency.Latency:
        measured.append(len(edits))
        return ramify.latency.Latency(100.0 - len(edits), 0.1)

    monkeypatch.setattr("ramify.select.knapsack.rule.learn", line(40, {"0": share}))
    monkeypatch.setattr("ramify.select.knapsack.rule.measure_edited", milliseconds)
    found = ramify.Knapsack(latency=-20.0).solve(offered)
    assert len(found.chosen) in {20, 21, 22}  # 22 are 2.5 % faster than the 80 that are allowed
    assert len(measured) <= 1 + 6
    with pytest.raises(ramify.RamifyError, match=r"at most -60 ms, as measured; all .* add -50 ms"):
        ramify.Knapsack(latency=-60.0).solve(offered)


def test_the_solver_is_kept_from_printing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """HiGHS 1.12 prints lines of debugging for some problems; others may print meanwhile."""
    solve = scipy.optimize.milp

    def loud(*arguments: Any, **named: Any) -> Any:
        os.write(1, b"HighsMipSolverData::transformNewIntegerFeasibleSolution\na line of others\n")
        return solve(*arguments, **named)

    monkeypatch.setattr("scipy.optimize.milp", loud)
    graph = ramify.trace(Two(), torch.randn(1, 3, 5, 5))
    model = CostModel(graph)
    offered = [
        ramify.Proposal(edit, 1.0, model.added([edit]), graph=graph)
        for edit in (ramify.Split(name, c) for name in "ab" for c in range(4))
    ]
    found = ramify.Knapsack(params=100).select(offered)
    assert 0 < len(found) < 8
    assert set(capfd.readouterr().out.splitlines()) == {"a line of others"}
    with monkeypatch.context() as without:
        without.setattr("os.dup", Mock(side_effect=OSError))  # no standard output
        assert ramify.Knapsack(params=100).select(offered) == found
