"""Widths in multiples: every rule and budget against exhaustive search."""

from __future__ import annotations

import json
import random
import warnings
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

import ramify
from ramify.cost import CostModel, graph_cost
from ramify.select.width_bounds import WidthBounds
from tests.select.test_knapsack import budgets_for, even, key, on_graph, spent, subsets


def added(chosen: Sequence[ramify.Proposal]) -> Counter[str]:
    """How many channels each group gets."""
    total: Counter[str] = Counter()
    for p in chosen:
        more = len(p.edit.weights) - 1 if isinstance(p.edit, ramify.Split) else -1
        total[key(p)[0]] += more
    return total


def fits(chosen: Sequence[ramify.Proposal], multiple: int) -> bool:
    """Whether every width is a multiple, or as it was."""
    graph = chosen[0].graph if chosen else None
    assert graph is not None or not chosen
    return all(
        not more or (graph[name].width + more) % multiple == 0  # type: ignore[index]
        for name, more in added(chosen).items()
    )


def total(chosen: Sequence[ramify.Proposal]) -> float:
    return sum(p.value for p in chosen)


RULES: dict[str, Callable[[int], ramify.TopFraction | ramify.Threshold | ramify.TradeOff]] = {
    "top": lambda m: ramify.TopFraction(0.4, multiple_of=m),
    "top of each": lambda m: ramify.TopFraction(0.5, per_group=True, multiple_of=m),
    "threshold": lambda m: ramify.Threshold(most=3, multiple_of=m),
    "trade-off": lambda m: ramify.TradeOff(params=1e-3, per_group=0.5, multiple_of=m),
}


@pytest.mark.parametrize("prunes", [False, True])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.filterwarnings("ignore:.*keeps its:UserWarning")
def test_a_ranking_comes_to_the_nearest_multiple_for_the_most_value(
    rule: str, prunes: bool
) -> None:
    seen = Counter[str]()
    for seed in range(25):
        draw = random.Random(seed)
        graph, offered = on_graph(draw.choice(["two", "residual"]), draw, 6, prunes)
        multiple = draw.choice([2, 3, 4, 5])
        plain, even_ = RULES[rule](1), RULES[rule](multiple)
        worth = plain.worth if isinstance(plain, ramify.TradeOff) else (lambda p: p.value)
        first = plain.select(offered)
        found = even_.select(offered)
        assert fits(found, multiple)
        assert {key(p)[0] for p in found} <= {key(p)[0] for p in first}
        for name in {key(p)[0] for p in first}:
            own = [p for p in first if key(p)[0] == name]
            mine = [p for p in found if key(p)[0] == name]
            width = graph[name].width
            wanted = width + added(own)[name]
            best: dict[int, float] = {}
            for sign in (-1, 1):
                onward = [p for p in offered if sign * added([p])[name] > 0 and worth(p) > 0]
                for chosen in subsets(list({id(p): p for p in [*own, *onward]}.values())):
                    if all(key(p)[0] == name for p in chosen):
                        at = width + added(chosen)[name]
                        near = abs(at - wanted) < multiple and sign * (at - wanted) >= 0
                        if at > 0 and at % multiple == 0 and near:
                            value = sum(map(worth, chosen))
                            best[at] = max(best.get(at, -9.0), value)
            if wanted % multiple == 0:
                assert mine == own
                seen["kept"] += 1
            elif not best:
                assert not mine
                seen["left"] += 1
            else:
                at = min(best, key=lambda at: (abs(at - wanted), -best[at]))
                assert width + added(mine)[name] == at
                assert sum(map(worth, mine)) == pytest.approx(best[at])
                seen["moved"] += 1
    assert min(seen[name] for name in ("kept", "left", "moved")) > 0, seen


@pytest.mark.parametrize("exact_up_to", [500, 0])
@pytest.mark.parametrize("kind", ["grow", "mixed", "shrink"])
@pytest.mark.parametrize("name", ["two", "residual", "depthwise"])
def test_the_knapsack_is_exhaustive_search_over_multiples(
    name: str, kind: str, exact_up_to: int
) -> None:
    tried = 0
    for seed in range(40):
        draw = random.Random(seed)
        graph, offered = on_graph(name, draw, 5, kind != "grow")
        budgets = budgets_for(draw, offered, -1 if kind == "shrink" else 1)
        multiple = draw.choice([2, 3])
        known: dict[tuple[tuple[str, int], ...], ramify.cost.Cost] = {}
        values = []
        for chosen in subsets(offered):
            if fits(chosen, multiple):
                shape = tuple(sorted(added(chosen).items()))
                cost = known.setdefault(shape, spent(chosen, graph))
                if all(cost.of(r) <= budget for r, budget in budgets.items()):
                    values.append(total(chosen))
        rule = ramify.Knapsack(**budgets, exact_up_to=exact_up_to, multiple_of=multiple)
        if not values:
            with pytest.raises(ramify.RamifyError, match="no selection is within|takes"):
                rule.solve(offered)
            continue
        found = rule.solve(offered)
        assert fits(found.chosen, multiple)
        cost = spent(found.chosen, graph)
        assert all(cost.of(r) <= budget for r, budget in budgets.items())
        assert found.value <= max(values) + 1e-9
        assert found.bound >= max(values) - 1e-9
        if exact_up_to:
            assert found.value == pytest.approx(max(values), abs=1e-5)
        tried += max(values) > 0 or kind == "shrink"
        if tried == 3:
            break
    assert tried


def test_an_option_that_is_worth_less_may_be_what_makes_a_multiple() -> None:
    graph = ramify.trace(
        nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 2)), torch.randn(1, 2)
    )
    model = CostModel(graph)
    edits = [ramify.Split("0", 0, even(2)), ramify.Split("0", 0, even(3)), ramify.Split("0", 1)]
    offered = [
        ramify.Proposal(edit, value, model.added([edit]), graph=graph)
        for edit, value in zip(edits, (1.0, 0.9, -0.05), strict=True)
    ]
    chosen = ramify.Knapsack(params=100, multiple_of=3).select(offered)
    assert [p.value for p in chosen] == [1.0, -0.05]
    assert ramify.Knapsack(params=100, multiple_of=3).select(offered[:2]) == offered[1:2]


def wide(
    *widths: int,
) -> tuple[ramify.ChannelGraph, Callable[[Sequence[ramify.Split | ramify.Prune]], list]]:
    """A chain of layers, and proposals for it, each worth less than the one before."""
    layers: list[nn.Module] = []
    for inputs, outputs in zip((3, *widths), (*widths, 2), strict=True):
        layers += [nn.Linear(inputs, outputs), nn.Tanh()]
    graph = ramify.trace(nn.Sequential(*layers), torch.randn(1, 3))
    model = CostModel(graph)

    def proposed(edits: Sequence[ramify.Split | ramify.Prune]) -> list[ramify.Proposal]:
        return [
            ramify.Proposal(edit, 1.0 - n / 100, model.added([edit]), graph=graph)
            for n, edit in enumerate(edits)
        ]

    return graph, proposed


def test_numbers_by_group_take_any_of_its_names() -> None:
    _, proposed = wide(5, 6)
    offered = proposed([ramify.Split(g, c) for c in range(5) for g in ("0", "2")])
    rule = ramify.TopFraction(0.5, multiple_of={"0.weight": 4})
    assert added(rule.select(offered)) == {"0": 3, "2": 2}
    assert added(ramify.TopFraction(0.5).select(offered)) == {"0": 3, "2": 2}
    rule = ramify.TopFraction(0.5, multiple_of={"0": 7, "2.bias": 9})
    assert added(rule.select(offered)) == {"0": 2, "2": 3}
    with pytest.raises(ramify.RamifyError, match="by another name"):
        ramify.TopFraction(0.5, multiple_of={"0": 7, "0.weight": 4}).select(offered)
    with pytest.raises(ramify.RamifyError, match="no group"):
        ramify.TopFraction(0.5, multiple_of={"nowhere": 7}).select(offered)


def test_a_group_that_reaches_no_multiple_is_left_and_named() -> None:
    _, proposed = wide(5, 6)
    offered = proposed([ramify.Split(g, c) for c in range(2) for g in ("0", "2")])
    with pytest.warns(UserWarning, match="'0' keeps its 5 channels: .* neither 0 nor 8"):
        chosen = ramify.TopFraction(1.0, multiple_of=8).select(offered)
    assert added(chosen) == {"2": 2}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ramify.Knapsack(params=1000, multiple_of=8).select(offered) == chosen


class Heads(nn.Module):
    """Attention of four heads of six."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(8, 24) for _ in range(3))
        self.o = nn.Linear(24, 8)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (4, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        return self.o(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def test_heads_count_by_their_dimensions() -> None:
    graph = ramify.trace(Heads(), torch.randn(1, 3, 8))
    free = ramify.cost.Cost(0, 0)
    offered = [
        ramify.Proposal(ramify.Prune("v", c), 0.0, free, score=-c, graph=graph) for c in range(6)
    ]
    chosen = ramify.TopFraction(0.2, multiple_of=4).select(offered)
    assert [p.edit.channel for p in chosen] == [0, 1]  # 6 a head become 4, hence 16 in all


@pytest.mark.parametrize("multiple", [2, 4])
def test_a_budget_is_filled_by_whole_steps(multiple: int) -> None:
    graph, proposed = wide(4, 5)
    edits = [ramify.Split(g, c, even(2 + c % 2)) for c in range(5) for g in ("2", "0")[c == 4 :]]
    offered = proposed([e for e in edits if e.channel < graph[e.group].width])
    model, now = CostModel(graph), graph_cost(graph)
    whole = ramify.fit(offered, graph, {"params": 10**6}, multiple_of=multiple)
    assert fits(whole, multiple)
    for share in (0.0, 0.2, 0.5, 0.9):
        most = now.params + share * model.added([p.edit for p in offered]).params
        chosen = ramify.fit(offered, graph, {"params": most}, multiple_of=multiple)
        assert fits(chosen, multiple)
        assert graph_cost(graph, [p.edit for p in chosen]).params <= most
        for name in ("0", "2"):  # the next multiple of neither would fit as well
            own = [p for p in chosen if key(p)[0] == name]
            rest = [p for p in chosen if key(p)[0] != name]
            for more in subsets([p for p in offered if key(p)[0] == name]):
                together = [p.edit for p in [*rest, *more]]
                if fits(more, multiple) and added(more)[name] > added(own)[name]:
                    assert graph_cost(graph, together).params > most


@pytest.mark.parametrize("multiple", [2, 4])
def test_shrinking_goes_by_whole_steps_of_what_loses_least(multiple: int) -> None:
    graph, proposed = wide(7, 8)
    offered = proposed([ramify.Prune(g, c) for c in range(7) for g in ("0", "2")])
    now = graph_cost(graph).params
    for share in (0.95, 0.7, 0.5, 0.01):
        chosen = ramify.fit(offered, graph, {"params": share * now}, multiple_of=multiple)
        assert fits(chosen, multiple)
        left = graph_cost(graph, [p.edit for p in chosen]).params
        if share == 0.01:  # as far as it goes
            assert added(chosen) == {"0": multiple - 7, "2": multiple - 8}
        else:
            assert left <= share * now
        for name in ("0", "2"):
            own = [p for p in offered if key(p)[0] == name]
            assert [p for p in chosen if key(p)[0] == name] == own[: -added(chosen)[name]]
        # One step less of the last group to be cut would not have been enough.
        if share > 0.01:
            shorter = []
            for name in ("0", "2"):
                width, gone = graph[name].width, -added(chosen)[name]
                if gone:
                    back = max(n for n in range(gone) if n == 0 or (width - n) % multiple == 0)
                    own = [p for p in chosen if key(p)[0] == name][:back]
                    shorter.append([*own, *(p for p in chosen if key(p)[0] != name)])
            over = [graph_cost(graph, [p.edit for p in s]).params > share * now for s in shorter]
            assert any(over)


def test_prunes_and_splits_that_make_a_multiple_together_stay_together() -> None:
    graph, proposed = wide(6, 6)
    edits = [*(ramify.Split("0", c) for c in range(3)), *(ramify.Prune("0", c) for c in (3, 4, 5))]
    offered = proposed([*edits[:1], *edits[3:]])  # one more, three fewer
    assert ramify.fit(offered, graph, {"params": 10**6}, multiple_of=4) == offered
    assert added(ramify.fit(offered[1:], graph, {"params": 10**6}, multiple_of=4)) == {"0": -2}
    cut = ramify.fit(proposed(edits[:3]), graph, {"params": 10**6}, multiple_of=4)
    assert added(cut) == {"0": 2}


@pytest.mark.parametrize("multiple", [0, -8, 1.5, True, {"0": 0}])
def test_what_is_no_multiple_is_refused(multiple: object) -> None:
    for rule in (
        lambda: ramify.TopFraction(0.5, multiple_of=multiple),  # type: ignore[arg-type]
        lambda: ramify.Threshold(multiple_of=multiple),  # type: ignore[arg-type]
        lambda: ramify.TradeOff(multiple_of=multiple),  # type: ignore[arg-type]
        lambda: ramify.Knapsack(params=1, multiple_of=multiple),  # type: ignore[arg-type]
        lambda: ramify.fit([], wide(4, 4)[0], {"params": 9}, multiple_of=multiple),  # type: ignore[arg-type]
    ):
        with pytest.raises(ramify.RamifyError, match="whole number of at least 1"):
            rule()


def test_widths_must_be_known() -> None:
    offered = [ramify.Proposal(ramify.Split("g", c), 1.0, ramify.cost.Cost(1, 1)) for c in (0, 1)]
    for rule in (ramify.TopFraction(1.0, multiple_of=2), ramify.Knapsack(params=1, multiple_of=2)):
        with pytest.raises(ramify.RamifyError, match="carry the traced model"):
            rule.select(offered)
    assert ramify.TopFraction(1.0, multiple_of=1).select(offered) == offered


def test_numbers_of_numpy_are_whole_numbers_too() -> None:
    graph = ramify.trace(nn.Sequential(nn.Linear(3, 6), nn.Linear(6, 2)), torch.randn(1, 3))
    proposals = ramify.RandomSplit().propose(graph)
    for multiple in (np.int64(4), {"0": np.int64(4)}):
        rule = ramify.TopFraction(0.3, multiple_of=multiple)  # type: ignore[arg-type]
        assert len(rule.select(proposals)) == 2
    bounds = WidthBounds(keep=np.int64(4), ceiling={"0": np.int64(7)})  # type: ignore[arg-type]
    assert json.loads(json.dumps(bounds.plain())) == {"keep": 4, "ceiling": {"0": 7}}
    assert len(bounds.allowed(graph, proposals)) == 1
