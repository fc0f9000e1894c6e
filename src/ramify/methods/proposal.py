"""`Proposal`, the result of every method, and `Method`, the contract."""

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
    """An edit, its expected gain, and its cost.

    Attributes:
        edit: the edit.
        gain: expected decrease of the mean loss; 0 where the method does not estimate it.
        cost: the parameters and MACs that this edit alone adds, including the columns of the layers
            that read the channel; negative where a channel is removed.
        splitting_index: λ_min of S2D or G of S3D, where the method has one; the change of the loss
            is proportional to it.
        score: what rules rank by instead of the gain, where the method does not estimate one
            (random splits, L1 pruning): larger is better, and any value may be taken.
        graph: the traced model, so that a rule can price edits of the same layer together.

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
        """What rules rank by: the score if there is one, else the gain."""
        return self.gain if self.score is None else self.score

    @property
    def pays(self) -> bool:
        """Whether the edit is worth making if it costs nothing: always true with a score."""
        return self.score is not None or self.gain > 0


class Method(Protocol):
    """The contract of every method: a frozen set of settings with one method, `propose`.

    Any object with `propose` is a method; it needs no base class and no registration. It leaves the
    model (parameters, buffers, gradients, modes, hooks), the optimizer and the global random states
    unchanged. The same samples in other batches, or channels in another order, give the same
    proposals, except where the method draws at random or takes a step per batch.
    :func:`ramify.testing.check_method` tests all of this.

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
            loss: `loss(model, batch)` -> (S,), one number per sample; methods use the mean.
            batches: the sample to estimate on; it may be iterated several times.

        Returns:
            The proposals, best first by `value`: each has an edit of the current graph, the cost of
            this edit alone, and either a `gain`, the expected decrease of the mean loss by this
            edit alone, or a gain of 0 and a `score` that rules rank by instead.

        Raises:
            RamifyError: what cannot be estimated, in one sentence that says what to do.
        """
        ...


def best_first(proposals: Iterable[Proposal]) -> list[Proposal]:
    """Sort proposals by value.

    Args:
        proposals: the proposals of a method.

    Returns:
        The proposals, largest value first.

    Raises:
        RamifyError: a gain or value is not finite; the message names the first such proposal.
    """
    found = list(proposals)
    for one in found:
        if not (math.isfinite(one.value) and math.isfinite(one.gain)):
            raise RamifyError(
                f"the value of an edit of channel {one.edit.channel} of '{one.edit.group}' "
                f"is {one.value}: weights or activations are not finite, or too large or small "
                "for their squares to be finite; scale the data, or use a dtype with a wider range"
            )
    return sorted(found, key=lambda proposal: -proposal.value)


def checked(graph: ChannelGraph, method: Method, proposals: Any) -> list[Proposal]:
    """Check that a method returned a list of proposals for this graph.

    Args:
        graph: the graph that the method was given.
        method: the method, for error messages.
        proposals: what the method returned.

    Returns:
        The proposals.

    Raises:
        RamifyError: it is not a list of proposals, or a proposal is for another graph or has a
            value or cost of the wrong type.
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
                "must be a ramify.Proposal: put edit, gain and cost into one."
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
    """Give every rank the proposals of rank 0.

    A rule's selection may depend on measured time (:class:`ramify.Knapsack`, a latency budget), and
    a method's proposals on the hardware; after this call all ranks have the same proposals. Every
    rank must call it. Without `torch.distributed` it returns its argument.

    Args:
        graph: this rank's own graph.
        proposals: those of a method, or those selected by a rule.

    Returns:
        The proposals of rank 0.

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
