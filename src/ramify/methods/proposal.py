"""What every method returns."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any, Protocol

from ramify import distributed
from ramify.arguments import arguments_checked
from ramify.cost import Cost
from ramify.edit import Edit, Split
from ramify.errors import RamifyError
from ramify.methods.aliases import accepts_old_keywords
from ramify.probe.loss import Loss
from ramify.tracing import ChannelGraph


@accepts_old_keywords(index="splitting_index")
@dataclass(frozen=True)
class Proposal:
    """An edit, what it should gain, and what it costs.

    Attributes:
        edit: what to do.
        gain: expected decrease of the mean loss; 0 where the method has no estimate of it.
        cost: what the edit alone adds to parameters and MACs, with the columns of what reads the
            channel; negative where a channel goes.
        splitting_index: where the method has one, λ_min of S2D or G of S3D, to which the change of
            the loss is proportional.
        score: what rules rank by in place of the gain, where the method estimates no gain (random
            splits, L1 pruning): larger is better, and any value may be taken.
        graph: the traced model, so that a rule can price edits that meet in one layer together.

    Example:
        >>> import ramify
        >>> from ramify.cost import Cost
        >>> scored = Proposal(ramify.Prune("conv1", 3), gain=0.0, cost=Cost(-28, -900), score=-0.2)
        >>> scored.value, scored.pays
        (-0.2, True)
    """

    edit: Edit
    gain: float
    cost: Cost
    splitting_index: float | None = None
    score: float | None = None
    graph: ChannelGraph | None = field(default=None, repr=False, compare=False)

    @property
    def index(self) -> float | None:
        """The old name of `splitting_index`."""
        return self.splitting_index

    @property
    def value(self) -> float:
        """What rules rank by: the score, or else the gain."""
        return self.gain if self.score is None else self.score

    @property
    def pays(self) -> bool:
        """Whether the edit is worth taking at no cost: a score says nothing against it."""
        return self.score is not None or self.gain > 0


class Method(Protocol):
    """The contract of every method: a frozen set of settings with one verb.

    Any object with this verb is a method; it derives from nothing and is registered nowhere. It
    leaves the model (parameters, buffers, gradients, modes, hooks), the optimizer and the global
    random states as they were; the same samples in other batches, and channels in another order,
    give the same proposals, except where it draws at random or takes a step a batch.
    :func:`ramify.testing.check_method` puts all of this to the proof.

    Example:
        >>> import ramify
        >>> from ramify.cost import CostModel
        >>> class Widest:
        ...     def propose(self, graph, loss, batches):
        ...         group = max((g for g in graph.groups if g.can_split), key=lambda g: g.width)
        ...         edit = ramify.Split(group.name, 0)
        ...         cost = CostModel(graph).added([edit])
        ...         return [ramify.Proposal(edit, 0.0, cost, score=1.0, graph=graph)]
        >>> method: Method = Widest()
    """

    def propose(self, graph: ChannelGraph, loss: Loss, batches: Iterable[Any]) -> list[Proposal]:
        """Propose edits of a network.

        Args:
            graph: the traced model; `graph.model` is the model.
            loss: `loss(model, batch)` -> (S,), one number a sample; what counts is the mean.
            batches: the sample to judge by; it may have to be gone through several times.

        Returns:
            The proposals, best first by `value`: an edit of the graph as it is, its cost alone, and
            either a `gain`, the expected decrease of the mean loss by this edit alone, or, with a
            gain of 0, a `score` that rules rank by in its place.

        Raises:
            RamifyError: what cannot be judged, in one sentence that says what to do.
        """
        ...


def best_first(proposals: Iterable[Proposal]) -> list[Proposal]:
    """Proposals in the order of their values.

    Args:
        proposals: of a method.

    Returns:
        They, the largest value first.

    Raises:
        RamifyError: names the first whose gain or value is not finite.
    """
    found = list(proposals)
    for one in found:
        if not (math.isfinite(one.value) and math.isfinite(one.gain)):
            raise RamifyError(
                f"what an edit of channel {one.edit.channel} of '{one.edit.group}' is worth comes "
                f"out as {one.value}: weights or activations are not finite, or too large or small "
                "for their squares to be; scale the data, or take a type of number of wider range"
            )
    return sorted(found, key=lambda proposal: -proposal.value)


def checked(graph: ChannelGraph, method: Method, proposals: Any) -> list[Proposal]:
    """What a method returned, once it is a list of proposals for this graph.

    Args:
        graph: what the method was given.
        method: the method, for errors.
        proposals: what it returned.

    Returns:
        The proposals.

    Raises:
        RamifyError: it is no list of proposals, or a proposal is of another graph or has a value or
            cost of the wrong type.
    """
    who = f"the method {type(method).__name__}"
    if not isinstance(proposals, Iterable):
        raise RamifyError(
            f"{who} returned {type(proposals).__name__} from propose, where a list of "
            "ramify.Proposal is expected: return [] where there is nothing to propose."
        )
    found = list(proposals)
    for one in found:
        if not isinstance(one, Proposal):
            raise RamifyError(
                f"{who} returned a list with {type(one).__name__} from propose, where each entry "
                "is a ramify.Proposal: put edit, gain and cost into one."
            )
        for member, kind in (("value", Real), ("cost", Cost), ("edit", Edit)):
            if not isinstance(value := getattr(one, member), kind):
                raise RamifyError(
                    f"{who} proposed an edit whose {member} is a {type(value).__name__}, where "
                    f"{_KINDS[member]} is expected."
                )
        if one.graph is not None and one.graph.model is not graph.model:
            raise RamifyError(
                f"{who} proposed an edit of another network than the one it was given: make "
                "proposals for the groups of the graph that propose receives."
            )
    return found


_KINDS = {
    "value": "a number (gain, or score in its place; of a tensor, its .item())",
    "cost": "what ramify.cost.CostModel(graph).added([edit]) gives",
    "edit": "a ramify.Split or a ramify.Prune",
}


@arguments_checked
def agree(graph: ChannelGraph, proposals: Sequence[Proposal]) -> list[Proposal]:
    """Rank 0's proposals, on every rank.

    What a rule selects may depend on the clock (:class:`ramify.Knapsack`, a budget of latency), and
    what a method proposes on the hardware: after this it is the same everywhere. Every rank must
    call it; where `torch.distributed` has not been set up it gives back what it gets.

    Args:
        graph: this rank's own graph.
        proposals: of a method, or selected by a rule.

    Returns:
        What rank 0 gave.

    Example:
        >>> import ramify, torch
        >>> from torch import nn
        >>> graph = ramify.trace(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1)), torch.randn(2, 4))
        >>> proposals = ramify.L1().propose(graph, None, [])
        >>> agree(graph, proposals) == proposals  # in one process
        True
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
