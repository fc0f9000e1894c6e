"""What every method returns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from ramify import distributed
from ramify.cost import Cost
from ramify.edit import Edit, Split
from ramify.probe.splitting_matrix import Loss
from ramify.tracing import ChannelGraph


@dataclass(frozen=True)
class Proposal:
    """An edit, what it should gain, and what it costs.

    Attributes:
        edit: what to do.
        gain: expected decrease of the mean loss; 0 where the method has no estimate of it.
        cost: what the edit alone adds to parameters and MACs, with the columns of what reads the
            channel; negative where a channel goes.
        index: the splitting index, where the method has one: λ_min of S2D, G of S3D, to which the
            change of the loss is proportional.
        score: what rules rank by in place of the gain, where the method estimates no gain (random
            splits, L1 pruning): larger is better, and any value may be taken.
        graph: the traced model, so that a rule can price edits that meet in one layer together.
    """

    edit: Edit
    gain: float
    cost: Cost
    index: float | None = None
    score: float | None = None
    graph: ChannelGraph | None = field(default=None, repr=False, compare=False)

    @property
    def value(self) -> float:
        """What rules rank by: the score, or else the gain."""
        return self.gain if self.score is None else self.score

    @property
    def pays(self) -> bool:
        """Whether the edit is worth taking at no cost: a score says nothing against it."""
        return self.score is not None or self.gain > 0


class Method(Protocol):
    """A growth method: a frozen set of settings with one verb."""

    def propose(self, graph: ChannelGraph, loss: Loss, batches: Iterable[Any]) -> list[Proposal]:
        """Edits that should lower the loss, best first."""
        ...


def agree(graph: ChannelGraph, proposals: Sequence[Proposal]) -> list[Proposal]:
    """Rank 0's proposals, on every rank.

    What a rule selects may hang on the clock (:class:`ramify.Knapsack`, a budget of latency), and
    what a method proposes on the hardware: after this it is the same everywhere. Every rank must
    call it; where `torch.distributed` has not been set up it gives back what it gets.

    Args:
        graph: this rank's own graph.
        proposals: of a method, or selected by a rule.

    Returns:
        What rank 0 gave.
    """
    with distributed.together():
        if distributed.world_size() == 1:
            return list(proposals)
        sent = [replace(p, edit=_on_cpu(p.edit), graph=None) for p in proposals]
        return [replace(proposal, graph=graph) for proposal in distributed.broadcast(sent)]


def _on_cpu(edit: Edit) -> Edit:
    if not isinstance(edit, Split):
        return edit
    return replace(edit, offsets={name: part.cpu() for name, part in edit.offsets.items()})
