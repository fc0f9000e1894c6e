"""Search for the widths of a network: score its channels in training, cut them, fine-tune."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ramify import distributed
from ramify.cost import RESOURCES, graph_cost
from ramify.edit import Prune
from ramify.edit.apply import apply
from ramify.errors import RamifyError
from ramify.methods import Proposal, agree
from ramify.methods.proposal import checked
from ramify.methods.scores import norm_scales, prunable
from ramify.probe.loss import Loss
from ramify.relax import (
    Gates,
    GateScale,
    Pairs,
    distilled,
    fold,
    gate,
)
from ramify.select import Rule
from ramify.tracing import ChannelGraph, trace
from ramify.tracing.recorder import evaluating, tensors_of, untouched
from ramify.train.epoch import Training
from ramify.train.history import Event
from ramify.train.loop import Evaluate, Grown, train
from ramify.train.rounds import agreed, choose, costs, edit_event, measured
from ramify.train.search import search as run_search
from ramify.train.width_search import Chance, WidthSearch


@dataclass(frozen=True)
class Scored:
    """A network after the search, its gates folded.

    Attributes:
        graph: Its channel graph.
        proposals: A prune of every channel that was scored, the least needed first.
        history: The events of the search.
    """

    graph: ChannelGraph
    proposals: list[Proposal]
    history: list[Event]


def search_widths(
    model: nn.Module,
    inputs: Any,
    loss: Loss,
    pairs: Pairs,
    *,
    search: WidthSearch,
    training: Training,
    probe: Iterable[Any],
    **others: Any,
) -> Scored:
    """Train a network while its channels are scored: the search stage of Algorithm 3.

    Args:
        model: Any network that :func:`ramify.trace` takes; it is trained in place.
        inputs: One example of its inputs.
        loss: ``loss(model, batch)``, one loss a sample, shape (S,).
        pairs: Batches of both halves of the data.
        search: How to score.
        training: How the weights train; its epochs are not looked at.
        probe: The batches on which ``taylor`` scores.
        **others: ``evaluate``, ``log``, ``checkpoint`` and ``tags``, as :func:`ramify.grow` takes
            them.

    Returns:
        The scored network.

    Raises:
        RamifyError: The loss or a score is not finite, all gates of a layer are zero, or the
            network has nothing to gate, or no norm layers where ``bn`` needs them.
    """
    graph = trace(model, inputs)
    method = search.method()
    # Train: plainly where another method scores, else with gates or norm scales that are learned.
    if search.plain:
        done: Grown = train(
            model,
            inputs,
            partial(_of_pairs, loss),
            pairs,
            training=replace(training, epochs=search.epochs),
            **others,
        )
        history = done.history
    else:
        groups = None if search.groups is None else search.chosen(graph)
        gates = gate(graph, groups) if method is None else None
        history = _searched(graph, gates, loss, pairs, search=search, training=training, **others)
        method = method if gates is None else GateScale(fold(gates))
    # Score every channel of the groups that were chosen.
    graph = trace(model, inputs)
    proposals = checked(graph, method, method.propose(graph, loss, probe)) if method else []
    return Scored(graph, _among(search.chosen(graph), graph, proposals), history)


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
    """The search proper; every epoch is measured with what the network costs."""
    priced = costs(graph)
    searcher = search.make(
        graph.model,
        _scales(graph) if gates is None else gates,
        loss,
        training,
        search.epochs * len(pairs),
    )
    return run_search(
        searcher,
        pairs,
        epochs=search.epochs,
        evaluate=lambda model: dict(evaluate(model) if evaluate else {}) | priced,
        **others,
    )


def check_widths(
    model: nn.Module,
    inputs: Any,
    search: WidthSearch,
    rule: Rule,
    budget: Mapping[str, float] | None = None,
) -> None:
    """Try on a network, before any work, whether it can be searched and cut so; it stays as it is.

    Args:
        model: The network.
        inputs: One example of its inputs.
        search: How channels are to be scored.
        rule: What is to select among the prunes.
        budget: What is to be reached; a latency is not tried.

    Raises:
        RamifyError: It has no channels that can be scored so, it is within the budget as it is, or
            all prunes together do not bring it there.
    """
    graph = trace(model, inputs)
    groups = search.chosen(graph)
    # Whether there is something to learn on.
    if search.gated:
        fold(gate(graph, None if search.groups is None else groups))
    elif search.searcher == "bn":
        _scales(graph)
    # Whether the budget can be reached: any order of the same prunes tells.
    proposals = _among(groups, graph, Chance(0).propose(graph, None, ()))
    counted = {name: most for name, most in (budget or {}).items() if name in RESOURCES}
    choice = choose(graph, proposals, rule, counted)
    if counted and counted == budget and not choice.selected:
        raise RamifyError(
            "the network is within the budget as it is, and nothing would be cut: give a smaller "
            "budget, or a ratio."
        )
    least = graph_cost(graph, [proposal.edit for proposal in choice.selected])
    for name, most in counted.items():
        if least.of(name) > most:
            raise RamifyError(
                f"the budget of {name} is {most:g}, and with a single channel left in every group "
                f"the network still has {least.of(name):,}: give a larger budget."
            )


def _among(
    groups: Sequence[str], graph: ChannelGraph, proposals: Sequence[Proposal]
) -> list[Proposal]:
    # A method of the user's own may propose splits too.
    prunes = [proposal for proposal in proposals if isinstance(proposal.edit, Prune)]
    return [proposal for proposal in prunes if graph[proposal.edit.group].name in groups]


def cut(
    scored: Scored,
    loss: Loss,
    probe: Iterable[Any],
    *,
    rule: Rule,
    budget: Mapping[str, float] | None = None,
    evaluate: Evaluate | None = None,
) -> tuple[ChannelGraph, Event]:
    """Prune what the search found least needed: the pruning stage of Algorithm 3.

    Args:
        scored: From :func:`search_widths`; its network is cut in place.
        loss: ``loss(model, batch)``, one loss a sample.
        probe: The batches on which the loss is measured before and after.
        rule: What selects among the prunes.
        budget: The most that the network may then cost, as in :func:`ramify.grow`.
        evaluate: Measures of the network, also taken before and after.

    Returns:
        The graph of the cut network, and the event, but for its tags.

    Raises:
        RamifyError: A budget is of another name, or the ranks do not hold the same network.
    """
    graph = scored.graph

    def seen(graph: ChannelGraph) -> dict[str, Any]:
        return measured(graph, loss, probe) | dict(evaluate(graph.model) if evaluate else {})

    with distributed.together():
        proposals = agree(graph, scored.proposals)
        choice = agreed(choose(graph, proposals, rule, budget), proposals)
        before, edits = seen(graph), [proposal.edit for proposal in choice.selected]
        graph = apply(graph, edits) if edits else graph
        distributed.check_ranks(graph.model)
        after = seen(graph)
    step = scored.history[-1]["step"]
    place: Event = {"event": "edit", "step": step, "round": 1, "passes": 0, "budget": budget}
    return graph, place | edit_event(graph, proposals, choice, before, after)


def shrink(  # noqa: PLR0913  (one call for the whole of Algorithm 3)
    model: nn.Module,
    inputs: Any,
    loss: Loss,
    pairs: Pairs,
    *,
    search: WidthSearch,
    rule: Rule,
    training: Training,
    budget: Mapping[str, float] | None = None,
    teacher: nn.Module | None = None,
    evaluate: Evaluate | None = None,
    log: Callable[[Event], None] | None = None,
    checkpoint: str | Path | None = None,
) -> Grown:
    """Search for a network's widths, cut it, and fine-tune what is left, in place (Algorithm 3).

    Args:
        model: Any network that :func:`ramify.trace` takes, trained before or not.
        inputs: One example of its inputs.
        loss: ``loss(model, batch)``, one loss a sample, shape (S,).
        pairs: Batches of two halves of the data that do not overlap; the fine-tuning goes through
            both.
        search: How channels are scored, and for how many epochs.
        rule: What to prune: ``TopFraction(0.4)`` of all channels, or with ``per_group=True`` of
            each layer.
        training: How the weights train, in the search and in the fine-tuning, whose epochs it says.
        budget: The most that the network may cost on ``inputs``: ``params``, ``macs``, ``flops``,
            ``latency`` in milliseconds; give ``rule=TopFraction(1.0)`` with it.
        teacher: The full network, to distil from in the fine-tuning.
        evaluate: Measures of the network to add to the events.
        log: Called with each event; ``"event"`` is ``"epoch"``, ``"edit"`` or ``"stop"``.
        checkpoint: A file written after each epoch of the search; one named alike with ``-tuning``
            behind takes over after the cut. Where they exist, the run goes on from them.

    Returns:
        The graph of the small network, the optimizer and the history.

    Raises:
        RamifyError: As :func:`search_widths` and :func:`cut`; or the teacher is the network itself
            or does not give logits like its own.

    Example:
        >>> import torch, ramify
        >>> from torch import nn
        >>> generator = torch.manual_seed(0)
        >>> x = torch.randn(64, 2)
        >>> y = (x[:, 0] * x[:, 1] > 0).long()
        >>> net = nn.Sequential(nn.Linear(2, 20), nn.ReLU(), nn.Linear(20, 2))
        >>> def loss(model, batch):
        ...     return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")
        >>> pairs = ramify.relax.Pairs([(x[:32], y[:32])], [(x[32:], y[32:])])
        >>> small = ramify.shrink(net, x[:1], loss, pairs, search=ramify.WidthSearch(epochs=20),
        ...     rule=ramify.TopFraction(0.4), training=ramify.Training(epochs=20))
        >>> net[0].out_features
        12

    Source: RARTS thesis, Algorithm 3.
    """
    check_widths(model, inputs, search, rule, budget)
    if teacher is not None:
        _check_teacher(model, teacher, loss, pairs)
    second = None if checkpoint is None else Path(checkpoint).with_suffix("")
    probe = _Both(pairs, 0)
    scored = search_widths(
        model,
        inputs,
        loss,
        pairs,
        search=search,
        training=training,
        probe=probe,
        evaluate=evaluate,
        log=log,
        checkpoint=checkpoint,
    )
    _, event = cut(scored, loss, probe, rule=rule, budget=budget, evaluate=evaluate)
    if log is not None and distributed.is_rank_zero():
        log(event)
    tuned = train(
        model,
        inputs,
        loss if teacher is None else distilled(loss, teacher),
        partial(_Both, pairs),
        training=training,
        evaluate=evaluate,
        log=log,
        checkpoint=second and second.with_name(f"{second.name}-tuning.safetensors"),
    )
    return replace(tuned, history=[*scored.history, event, *tuned.history])


def _check_teacher(model: nn.Module, teacher: nn.Module, loss: Loss, pairs: Pairs) -> None:
    """Try the loss of the fine-tuning on one batch, before any work; everything stays as it is."""
    if teacher is model:
        raise RamifyError(
            "the teacher is the network that is to be cut: give a copy of it, as copy.deepcopy "
            "makes."
        )
    with untouched(model), evaluating(model):
        distilled(loss, teacher)(model, next(iter(_Both(pairs, 0))))


@dataclass(frozen=True)
class _Both:
    """The batches of both halves, one after the other, as often as wanted."""

    pairs: Pairs
    epoch: int

    def __len__(self) -> int:
        return 2 * len(self.pairs)

    def __iter__(self) -> Iterator[Any]:
        return (batch for pair in self.pairs(self.epoch) for batch in pair)


def _of_pairs(loss: Loss, model: nn.Module, pair: tuple[Any, Any]) -> Tensor:
    """The losses of both batches of a pair: plain training on what a searcher sees in a step."""
    return torch.cat([loss(model, batch) for batch in pair])


def _scales(graph: ChannelGraph) -> list[Tensor]:
    """The scales of the norm layers that carry channels that can go."""
    tensors, known = tensors_of(graph.model), norm_scales(graph)
    carried = {slot.name for group in prunable(graph) for slot in group.slots}
    found = [tensors[name] for name in sorted(known & carried) if tensors[name].requires_grad]
    if not found:
        raise RamifyError(
            "no channel that could be pruned passes a norm layer with a scale, which is what bn "
            "learns: take another searcher."
        )
    return found
