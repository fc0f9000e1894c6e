"""A knapsack that fills a budget for the whole network over several rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ramify.cost import RESOURCES, graph_cost
from ramify.errors import RamifyError
from ramify.latency import learn, measure_edited
from ramify.methods import Proposal
from ramify.select.fit import check_budget
from ramify.select.knapsack.rule import Knapsack
from ramify.select.rounding import Multiple, check_multiple
from ramify.tracing import ChannelGraph

STEPS = 5_000
"""The number of :class:`Knapsack` steps, so that the result does not depend on time."""


@dataclass(frozen=True)
class BudgetKnapsack:
    r"""In each round, the edits of the largest total value within that round's share of a budget.

    The budget is for the whole network and is approached by equal factors: a current cost of r may
    become

    .. math:: r \, (B_r / r)^{1/n}

    after this round of the n remaining rounds, for each resource r with a budget :math:`B_r`. Where
    this is less than any edit costs, the share of two rounds is used, then of four, and so on.
    :func:`ramify.grow` passes the number of remaining rounds.

    Args:
        budget: the most that the network may cost, by ``params``, ``macs``, ``flops``, ``energy``,
            or ``latency`` in milliseconds.
        multiple_of: as for :class:`Knapsack`.
        rounds_left: n, including this round; 1 fills the budget at once.

    Raises:
        RamifyError: there is no budget, one is not valid (see :func:`ramify.fit`), or no round is
            left.

    Example:
        >>> import ramify, torch
        >>> from torch import nn
        >>> graph = ramify.trace(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), torch.randn(1, 4))
        >>> proposals = [
        ...     ramify.Proposal(ramify.Split("0", n), 0.1, ramify.cost.Cost(7, 6), graph=graph)
        ...     for n in range(8)
        ... ]
        >>> [len(BudgetKnapsack({"params": 100}, rounds_left=n).select(proposals)) for n in (1, 2)]
        [6, 2]

    Source: S3D, Appendix C.1 and section 4, whose energy-aware variant has a budget of ``energy``
    per round.
    """

    budget: Mapping[str, float]
    multiple_of: Multiple = 1
    rounds_left: int = 1

    def __post_init__(self) -> None:
        check_budget(self.budget)
        check_multiple(self.multiple_of)
        if not self.budget:
            raise RamifyError(
                "a knapsack needs a budget: give params, macs, flops or another resource"
            )
        if self.rounds_left < 1:
            raise RamifyError(f"rounds_left must be at least 1, but got {self.rounds_left}")

    def select(self, proposals: Sequence[Proposal]) -> list[Proposal]:
        """The edits of the largest total value within this round's share."""
        graph = proposals[0].graph if proposals else None
        if graph is None:
            return []
        now, left = _costs(graph, self.budget), self.rounds_left
        predicted = learn(graph) if "latency" in self.budget else None
        while True:
            # An edit too expensive for one share may fit into several.
            room: dict[str, Any] = {
                name: cost * (self.budget[name] / cost) ** (1 / left) - cost
                for name, cost in now.items()
            }
            rule = Knapsack(
                **room,
                multiple_of=self.multiple_of,
                predicted=predicted,
                steps=STEPS,
                milliseconds=now.get("latency"),
            )
            found = rule.select(proposals)
            if found or left == 1:
                return found
            left //= 2


def _costs(graph: ChannelGraph, names: Mapping[str, float]) -> dict[str, float]:
    """The current costs of the network, by the names of the budgets."""
    cost = graph_cost(graph)
    counted: dict[str, float] = {name: cost.of(name) for name in names if name in RESOURCES}
    if "latency" in names:
        counted["latency"] = measure_edited(graph).median
    return counted
