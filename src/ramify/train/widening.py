"""Widen all layers by one factor, within a budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch.optim import Optimizer

from ramify.arguments import check_kind
from ramify.cost import RESOURCES, CostModel
from ramify.edit import Edit
from ramify.edit.apply import apply
from ramify.errors import RamifyError
from ramify.methods.baselines import RandomSplit
from ramify.tracing import ChannelGraph
from ramify.train.fresh_networks import PRECISION

MOST = 2.0**20  # a larger factor means that the budget bounds nothing
SLACK = 1e-9  # so that a width computed as 6.999999999 is rounded down to 7


def widen(
    graph: ChannelGraph,
    budget: Mapping[str, float],
    *,
    step: float = 0.01,
    seed: int = 0,
    optimizer: Optimizer | Sequence[Optimizer] | None = None,
    followers: Any = (),
) -> ChannelGraph:
    r"""Widen all layers by one factor, the largest that a budget allows.

    .. math:: \omega = \max \{\omega \ge 1 : F_r(\lfloor \omega W \rfloor) \le B_r \ \forall r\}

    over the widths W of the groups that can be split; other groups keep their width. Channels are
    drawn at random and split in two (repeatedly if :math:`\omega > 2`), with a small step between
    the copies, since identical copies would stay identical in training. MorphNet alternates this
    step with a cut of the channels that a penalty has driven to zero
    (:func:`ramify.relax.norm_costs`).

    Args:
        graph: the traced model, which is edited.
        budget: the most that the model may cost for one sample, by `params`, `macs`, `flops` or
            `energy`.
        step: ε, the distance by which each copy is displaced from its channel, as in
            :class:`ramify.RandomSplit`.
        seed: seed of the random draws.
        optimizer: one or more optimizers, whose state is edited along.
        followers: weight averages and other copies of the model, which receive the same edits.

    Returns:
        The graph of the widened model; the same graph if no further channel fits.

    Raises:
        RamifyError: the budget is missing, has an unknown name or bounds nothing; or the model is
            already over it.

    Example:
        >>> import ramify, torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 20), nn.Linear(20, 2))
        >>> graph = ramify.trace(net, torch.randn(1, 4))  # 312 parameters
        >>> graph = ramify.widen(graph, {"params": 600})
        >>> [group.width for group in graph.groups if group.can_split]
        [14, 29]
        >>> ramify.cost.graph_cost(graph).params
        565

    Source: A. Gordon and others, "MorphNet: Fast & simple resource-constrained structure learning
    of deep networks", 2018, Algorithm 1, step 3.
    """
    goal, drawn = _goal(graph, budget), RandomSplit(step=step, seed=seed)
    while True:
        missing = {name: width - graph[name].width for name, width in goal.items()}
        edits: list[Edit] = []
        for proposal in drawn.propose(graph):
            name = graph[proposal.edit.group].name
            missing[name] -= 1
            edits += [proposal.edit] if missing[name] >= 0 else []
        if not edits:
            return graph
        graph = apply(graph, edits, optimizer=optimizer, followers=followers)


def _goal(graph: ChannelGraph, budget: Mapping[str, float]) -> dict[str, int]:
    """The new width of each group that can be split."""
    check_kind(budget, "budget", Mapping, optional=False)
    if not budget or not set(budget) <= set(RESOURCES):
        raise RamifyError(
            f"a budget to widen to must be one of {', '.join(RESOURCES)}, but got "
            f"{', '.join(budget) or 'none'}"
        )
    model, cost = CostModel(graph), CostModel(graph).cost()
    for name, most in budget.items():
        if not isinstance(most, int | float) or not math.isfinite(most):
            raise RamifyError(f"the budget of {name} must be finite, but got {most!r}")
        if not cost.of(name) <= most:
            raise RamifyError(
                f"the model has {cost.of(name):,} {name}, over the budget of {most:,.12g}: prune "
                "it first, or give a larger budget"
            )
    # Multiply the width of every group that can be split by one common factor.
    able = {graph[name].name for name in model.names if graph[name].can_split}
    wider = [name in able for name in model.names]

    def widths(factor: float) -> list[int]:
        return [
            math.floor(factor * int(width) + SLACK) if can else int(width)
            for can, width in zip(wider, model.widths, strict=True)
        ]

    def fits(factor: float) -> bool:
        now = model.widths.copy()
        now[:] = widths(factor)
        found = model.cost(now)
        return all(found.of(name) <= most for name, most in budget.items())

    # Double the factor until it no longer fits, then find the largest one by bisection.
    low, high = 1.0, 2.0
    while any(wider) and fits(high):
        low, high = high, 2 * high
        if high > MOST:
            raise RamifyError(
                f"wider layers do not cost more {' or '.join(budget)}, so that the budget bounds "
                "nothing: give one of another resource"
            )
    while high - low > PRECISION:
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    found = zip(model.names, wider, widths(low), strict=True)
    return {graph[name].name: width for name, can, width in found if can}
