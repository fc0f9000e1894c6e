"""A budget that a knapsack fills over several rounds."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ramify
from ramify.cost import CostModel, graph_cost
from ramify.select import BudgetKnapsack


def offered(width: int = 6, copies: tuple[int, ...] = (2, 3, 4)) -> list[ramify.Proposal]:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(5, width), nn.Tanh(), nn.Linear(width, 4), nn.Tanh(), nn.Linear(4, 2)
    )
    graph = ramify.trace(net, torch.randn(2, 5))
    x, y = torch.randn(60, 5), torch.randint(0, 2, (60,))

    def loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")

    method = ramify.SplittingDescent(signed=1.5, copies=copies, best_of_each=True)
    return method.propose(graph, loss, [(x, y)])


def cost_after(chosen: list[ramify.Proposal], resource: str) -> float:
    graph = chosen[0].graph
    assert graph is not None
    added = CostModel(graph).added([proposal.edit for proposal in chosen])
    return graph_cost(graph).of(resource) + added.of(resource)


@pytest.mark.parametrize("resource", ["params", "macs", "flops", "energy"])
def test_a_round_takes_its_share_by_equal_factors(resource: str) -> None:
    proposals = offered()
    assert proposals[0].graph is not None
    now = graph_cost(proposals[0].graph).of(resource)
    values = []
    for left in (4, 2, 1):
        rule = BudgetKnapsack({resource: 3 * now}, rounds_left=left)
        chosen = rule.select(proposals)
        assert (
            0
            < len(chosen)
            == len({p.edit.channel for p in chosen if p.edit.group == "0"})
            + len({p.edit.channel for p in chosen if p.edit.group == "2"})
        )
        assert now < cost_after(chosen, resource) <= now * 3 ** (1 / left)
        values.append(sum(p.value for p in chosen))
        share = {resource: now * 3 ** (1 / left) - now}
        best = ramify.Knapsack(**share).solve(proposals)
        assert values[-1] == pytest.approx(best.value)
    assert values == sorted(values)


def test_the_same_is_chosen_again() -> None:
    proposals = offered()
    rule = BudgetKnapsack({"params": 200, "macs": 250}, rounds_left=2)
    assert rule.select(proposals) == rule.select(proposals)


def test_a_share_that_is_too_small_for_any_edit_is_joined_with_others() -> None:
    proposals = offered()
    assert proposals[0].graph is not None
    now = graph_cost(proposals[0].graph).params
    cheapest = min(proposal.cost.params for proposal in proposals)
    most = now + 3 * cheapest
    assert now * (most / now) ** (1 / 50) < now + cheapest
    chosen = BudgetKnapsack({"params": most}, rounds_left=50).select(proposals)
    assert len(chosen) > 0
    assert cost_after(chosen, "params") <= most
    assert BudgetKnapsack({"params": now + 1}, rounds_left=50).select(proposals) == []


def test_what_is_over_the_budget_is_pruned_share_by_share() -> None:
    graph = offered()[0].graph
    assert graph is not None
    prunes = ramify.L1().propose(graph, None, [])  # type: ignore[arg-type]
    now = graph_cost(graph).params
    chosen = BudgetKnapsack({"params": 0.5 * now}, rounds_left=2).select(prunes)
    assert 0.5 * now < cost_after(chosen, "params") <= now * 0.5**0.5


def test_what_it_refuses() -> None:
    with pytest.raises(ramify.RamifyError, match="needs a budget: give params"):
        BudgetKnapsack({})
    with pytest.raises(ramify.RamifyError, match="rounds_left must be at least 1, but got 0"):
        BudgetKnapsack({"params": 3.0}, rounds_left=0)
    with pytest.raises(ramify.RamifyError, match="must be one of params, .*, but got 'mac'"):
        BudgetKnapsack({"params": 100, "mac": 1})
    with pytest.raises(ramify.RamifyError, match="budget of params must be finite and above 0"):
        BudgetKnapsack({"params": -100}, rounds_left=2)
    with pytest.raises(ramify.RamifyError, match="multiple_of must be a whole number"):
        BudgetKnapsack({"params": 100}, multiple_of=0)
    assert BudgetKnapsack({"params": 3.0}).select([]) == []
