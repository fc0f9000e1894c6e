"""The search stage of shrinking: a network trains while its channels are scored."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ramify.cost import Cost, CostModel
from ramify.edit import Prune
from ramify.errors import RamifyError
from ramify.methods import Proposal
from ramify.methods.proposal import checked
from ramify.methods.scores import norm_scales, prunable
from ramify.probe.loss import Loss
from ramify.refit.choosing import of_groups
from ramify.relax import Gates, GateScale, Pairs, channel_costs, fold, gate, norm_costs
from ramify.tracing import ChannelGraph, trace
from ramify.tracing.recorder import tensors_of
from ramify.train.epoch import Training
from ramify.train.history import Event
from ramify.train.loop import Evaluate, train
from ramify.train.passes import Data
from ramify.train.rounds import costs
from ramify.train.search import search as run_search
from ramify.train.width_search import WidthSearch


@dataclass(frozen=True)
class Scores:
    """A method that proposes prunes from stored scores.

    Attributes:
        rows: Group, channel, gain and score of each prune, least important first; plain JSON.

    Example:
        >>> import ramify
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
        >>> scores = Scores([["0", 2, 0.0, -0.1], ["0", 1, 0.0, -0.5]])
        >>> found = scores.propose(ramify.trace(net, torch.ones(1, 2)), None, ())
        >>> [(proposal.edit.channel, proposal.value) for proposal in found]
        [(2, -0.1), (1, -0.5)]
    """

    rows: list[list[Any]]

    @classmethod
    def of(cls, proposals: Iterable[Proposal]) -> "Scores":
        """The scores of proposals."""
        return cls([[p.edit.group, p.edit.channel, p.gain, p.score] for p in proposals])

    def propose(
        self, graph: ChannelGraph, loss: Loss | None, batches: Iterable[Any]
    ) -> list[Proposal]:
        """The prunes; loss and batches are ignored."""
        prices, model = dict[str, Cost](), CostModel(graph)
        found = []
        for group, channel, gain, score in self.rows:
            if group not in prices:
                prices[group] = model.added([Prune(group, 0)])
            edit = Prune(group, channel)
            found.append(Proposal(edit, gain, prices[group], score=score, graph=graph))
        return found


@dataclass(frozen=True)
class Scored:
    """A network after the search, with its gates folded.

    Attributes:
        graph: Its channel graph.
        proposals: A prune of every scored channel, least important first.
        history: The events of the search.
    """

    graph: ChannelGraph
    proposals: list[Proposal]
    history: list[Event]


def search_widths(
    model: nn.Module,
    inputs: Any,
    loss: Loss,
    data: Data | Pairs,
    *,
    search: WidthSearch,
    training: Training,
    probe: Iterable[Any],
    **others: Any,
) -> Scored:
    """Train a network while its channels are scored: the search stage of Algorithm 3.

    Args:
        model: Any network that :func:`ramify.trace` accepts; it is trained in place.
        inputs: One example of its inputs.
        loss: ``loss(model, batch)``, one loss a sample, shape (S,).
        data: Batches of both halves of the data; plain batches if the searcher trains plainly.
        search: How to score.
        training: How the weights train; its ``epochs`` are ignored.
        probe: The batches on which a method scores after plain training.
        **others: ``evaluate``, ``log``, ``checkpoint`` and ``tags``, as in :func:`ramify.grow`.

    Returns:
        The scored network.

    Raises:
        RamifyError: The loss or a score is not finite, all gates of a layer are zero, the
            network has nothing to gate, or lacks the norm layers that ``bn`` needs; or the searcher
            needs two halves of the data and got plain batches.
    """
    graph = trace(model, inputs)
    method = search.method()
    # Train: plainly if a method scores afterwards, otherwise with learned gates or norm scales.
    if search.plain:
        both = isinstance(data, Pairs)
        history = train(
            model,
            inputs,
            partial(_of_pairs, loss) if both else loss,
            data,
            training=replace(training, epochs=search.epochs),
            **others,
        ).history
    else:
        if not isinstance(data, Pairs):
            raise RamifyError(
                f"the searcher {search.searcher} learns on two halves of the data that do not "
                "overlap: give ramify.relax.Pairs(batches_of_one, batches_of_the_other) as data."
            )
        groups = None if search.groups is None else search.chosen(graph)
        gates = gate(graph, groups) if method is None else None
        try:
            history = _searched(
                graph, gates, loss, data, search=search, training=training, **others
            )
        except BaseException:
            if gates is not None:  # hand back a plain network, which computes the same
                fold(gates)
            raise
        method = method if gates is None else GateScale(fold(gates))
    # Score every channel of the groups that were chosen.
    graph = trace(model, inputs)
    proposals = checked(graph, method, method.propose(graph, loss, probe)) if method else []
    prunes = [proposal for proposal in proposals if isinstance(proposal.edit, Prune)]
    return Scored(graph, of_groups(graph, prunes, search.chosen(graph)), history)


def check_search(graph: ChannelGraph, search: WidthSearch) -> None:
    """Check before any work that a network can be searched this way, without changing it.

    Args:
        graph: The graph of the network.
        search: How channels are to be scored.

    Raises:
        RamifyError: The network has no channels that can be scored this way.
    """
    groups = search.chosen(graph)
    if search.gated:
        fold(gate(graph, None if search.groups is None else groups))
    elif search.searcher == "bn":
        _scales(graph)


@dataclass(frozen=True)
class BothHalves:
    """Plain batches from both halves of the data, one after the other.

    Attributes:
        pairs: The batches of both halves.
    """

    pairs: Pairs

    def __len__(self) -> int:
        """Batches per epoch."""
        return 2 * len(self.pairs)

    def __call__(self, epoch: int) -> Iterator[Any]:
        """One epoch."""
        return (batch for pair in self.pairs(epoch) for batch in pair)


def plain_batches(data: Data | Pairs) -> Data:
    """The training batches, from both halves if there are two."""
    return BothHalves(data) if isinstance(data, Pairs) else data


def _searched(
    graph: ChannelGraph,
    gates: Gates | None,
    loss: Loss,
    pairs: Pairs,
    *,
    search: WidthSearch,
    training: Training,
    evaluate: Evaluate | None = None,
    **others: Any,
) -> list[Event]:
    """The search itself; the cost of the network is recorded with every epoch."""
    priced, by = costs(graph), search.penalty_by
    scales = _scales(graph) if gates is None else {}
    weights: list[Tensor] | None = None
    if by is not None:
        known = norm_costs(graph, by) if gates is None else {}
        weights = [known[n] for n in scales] if gates is None else channel_costs(gates, graph, by)
    searcher = search.make(
        graph.model,
        scales.values() if gates is None else gates,
        loss,
        training,
        search.epochs * len(pairs),
        weights,
    )
    return run_search(
        searcher,
        pairs,
        epochs=search.epochs,
        evaluate=lambda model: dict(evaluate(model) if evaluate else {}) | priced,
        **others,
    )


def _of_pairs(loss: Loss, model: nn.Module, pair: tuple[Any, Any]) -> Tensor:
    """The losses of both batches of a pair, for plain training on the batches of a search step."""
    return torch.cat([loss(model, batch) for batch in pair])


def _scales(graph: ChannelGraph) -> dict[str, Tensor]:
    """The scales of norm layers whose channels can be pruned, by name."""
    tensors, known = tensors_of(graph.model), norm_scales(graph)
    carried = {slot.name for group in prunable(graph) for slot in group.slots}
    names = [name for name in sorted(known & carried) if tensors[name].requires_grad]
    found = {name: tensors[name] for name in names}
    if not found:
        raise RamifyError(
            "no channel that could be pruned passes a norm layer with a scale, which is what bn "
            "learns: take another searcher."
        )
    return found
