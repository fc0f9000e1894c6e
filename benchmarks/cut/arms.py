"""The arms of a comparison: ways to cut a network to a share of its MACs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn

import ramify
from benchmarks.cut import torch_pruning
from ramify.cost import Cost, CostModel, graph_cost
from ramify.edit import Prune
from ramify.probe.loss import Loss
from ramify.refit import Reference, Takeover, cut, refit_readers
from ramify.refit.choosing import candidates, choose_channels, floors
from ramify.tracing import ChannelGraph

Cut = Callable[[ChannelGraph, Loss, Sequence[Any], float], object]
"""(graph, loss, calibration batches, MACs) -> ignored; the model is cut in place."""


def _cut(
    graph: ChannelGraph, loss: Loss, batches: Sequence[Any], macs: float, **changed: Any
) -> ChannelGraph:
    """`ramify.cut` with some changed arguments."""
    return cut(graph, loss, batches, budget={"macs": macs}, **changed)


def _in_rounds(
    graph: ChannelGraph, loss: Loss, batches: Sequence[Any], macs: float, rounds: int
) -> None:
    """Several cuts, each by the same factor."""
    now = graph_cost(graph).macs
    for done in range(1, rounds + 1):
        graph = _cut(graph, loss, batches, now * (macs / now) ** (done / rounds))


def _statistics_as_they_were(
    graph: ChannelGraph, loss: Loss, batches: Sequence[Any], macs: float
) -> None:
    """The same choice and refit, but norms keep the statistics of the full network."""
    proposals = Takeover().propose(graph, loss, batches)
    offered = candidates(graph, proposals, floors(graph, 0.1))
    chosen = choose_channels(graph, offered, offered, {"macs": macs})
    _apply(graph, [p.edit for p in chosen], loss, batches, norms=False)


def _equal_share(graph: ChannelGraph, loss: Loss, batches: Sequence[Any], macs: float) -> None:
    """The same scores within each group, but every group loses the same share of its channels."""
    proposals = Takeover().propose(graph, loss, batches)
    prices, low, high = CostModel(graph), 0.0, 1.0
    for _ in range(10):
        middle = (low + high) / 2
        left = prices.cost().macs + prices.added(_shared(graph, proposals, middle)).macs
        low, high = (middle, high) if left > macs else (low, middle)
    _apply(graph, _shared(graph, proposals, high), loss, batches)


def _shared(graph: ChannelGraph, proposals: Sequence[ramify.Proposal], share: float) -> list[Prune]:
    """The cheapest prunes of each group, up to a share of its channels."""
    gone: Counter[str] = Counter()
    out = []
    for proposal in sorted(proposals, key=lambda p: -p.value):
        group = graph[proposal.edit.group]
        if isinstance(proposal.edit, Prune) and gone[group.name] < math.floor(share * group.width):
            gone[group.name] += 1
            out.append(proposal.edit)
    return out


def _apply(
    graph: ChannelGraph,
    edits: Sequence[ramify.edit.Edit],
    loss: Loss,
    batches: Sequence[Any],
    norms: bool = True,
) -> None:
    """Prune and refit."""
    reference = Reference(graph)
    reference.follow(graph, edits)
    ramify.apply(graph, edits)
    refit_readers(graph.model, reference, batches, loss, norms=norms)


OURS: Mapping[str, Cut] = {
    "cut": _cut,
    "first selection": partial(_cut, balance=False),
    "score: Taylor": partial(_cut, method=ramify.Taylor()),
    "score: L1": partial(_cut, method=ramify.L1()),
    "score: BN scale": partial(_cut, method=ramify.BNScale()),
    "score: λ = 0.1": partial(_cut, method=Takeover(0.1)),
    "equal share": _equal_share,
    "no floor": partial(_cut, keep=1),
    "floor of a half": partial(_cut, keep=0.5),
    "no refit": partial(_cut, refit=False),
    "statistics as they were": _statistics_as_they_were,
    "two rounds": partial(_in_rounds, rounds=2),
    "four rounds": partial(_in_rounds, rounds=4),
    "depth and widths": partial(_cut, depth=True),
}
"""Arms of `ramify.cut`; each differs from the first in one thing."""

ARMS = (*OURS, *torch_pruning.ARMS)
"""The names of all arms."""


def pruned(
    arm: str,
    model: nn.Module,
    example: Any,
    loss: Loss,
    calibration: Sequence[Any],
    share: float,
    settings: torch_pruning.Settings | None = None,
) -> nn.Module:
    """Cut a network to a share of its MACs.

    Args:
        arm: one of `ARMS`.
        model: the network, which may be changed.
        example: one input of it.
        loss: `loss(model, batch)` -> (S,).
        calibration: batches on which channels are chosen.
        share: the share of the MACs to keep.
        settings: network-specific arguments for Torch-Pruning.

    Returns:
        The cut network, in eval mode.
    """
    model.eval()
    if arm in torch_pruning.ARMS:
        return torch_pruning.pruned(arm, model, example, loss, calibration, share, settings)
    graph = ramify.trace(model, example)
    OURS[arm](graph, loss, calibration, share * graph_cost(graph).macs)
    return model


def cost(model: nn.Module, example: Any) -> Cost:
    """Parameters and MACs of a network."""
    return graph_cost(ramify.trace(model, example))
