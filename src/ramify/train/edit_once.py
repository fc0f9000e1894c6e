"""One edit of a network, in any training loop: propose, select, try, apply, measure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch.optim import Optimizer

from ramify import distributed
from ramify.edit import Follower
from ramify.edit.apply import apply
from ramify.methods import Bottlenecks, Method, Proposal, agree
from ramify.methods.proposal import checked
from ramify.probe.loss import Loss, mean_loss
from ramify.select import Rule
from ramify.select.fit import fit
from ramify.select.width_bounds import WidthBounds
from ramify.tracing import ChannelGraph
from ramify.train.depth_rounds import weigh
from ramify.train.edit_trials import EditTrials, Tried, foretold, try_edits
from ramify.train.epoch import Training
from ramify.train.history import Event
from ramify.train.rounds import (
    ALL_HARM,
    Choice,
    agreed,
    choose,
    edit_event,
    measured_edit,
    multiple_of,
)


@dataclass(frozen=True)
class Editing:
    """How a network is edited; the arguments of :func:`ramify.grow` with these names.

    Attributes:
        loss: ``loss(model, batch)``, one loss a sample, shape (S,).
        method: Proposes edits.
        rule: Selects among the proposals.
        budget: The most that the network may cost.
        bounds: How narrow and how wide groups may become, and which of them may change.
        then: Called with the graph of the edited network, before the loss is measured again.
        deepen: How the network trains, if blocks may also be inserted; None for widths only.
    """

    loss: Loss
    method: Method
    rule: Rule
    budget: Mapping[str, float] | None
    bounds: WidthBounds
    then: Callable[[ChannelGraph], None] | None = None
    deepen: Training | None = None


def edit_once(
    graph: ChannelGraph,
    editing: Editing,
    batches: Iterable[Any],
    *,
    judges: Iterable[Any],
    trials: EditTrials | None,
    optimizer: Optimizer | Sequence[Optimizer] | None,
    followers: Iterable[Follower],
    history: Iterable[Mapping[str, Any]],
) -> tuple[ChannelGraph, Event]:
    """Edit a network in place, if an edit pays and does not raise the loss.

    Args:
        graph: The graph of the network.
        editing: How it is edited.
        batches: The batches that the method reads.
        judges: The batches on which the loss before and after is measured, if nothing is tried.
        trials: Tries a selection before it is kept; None to keep it untried.
        optimizer: The optimizer (or several) whose state is edited along.
        followers: Models or state dictionaries that receive the same edits.
        history: Earlier events, by which predictions are corrected.

    Returns:
        The graph of the resulting network, and the event of the edit; if there was none, only the
        ``"reason"``.
    """
    model, loss = graph.model, editing.loss
    proposed = _within(editing.method, graph, editing.bounds).propose(graph, loss, batches)
    proposals = agree(graph, checked(graph, editing.method, proposed))
    proposals = editing.bounds.of_groups(graph, proposals)
    found = choose(graph, proposals, editing.rule, editing.budget, editing.bounds)
    choice = agreed(found, proposals)
    tried = _tried(trials, graph, choice, editing)
    weighed = None
    if editing.deepen is not None and trials is not None and not choice.over:
        weighed = weigh(trials, proposals, tried.edits, editing.budget, editing.deepen)
        if weighed is not None and (blocks := weighed.inserts):
            tried = replace(tried, edits=[*tried.edits, *blocks])
            if not weighed.both:
                choice, tried = Choice(), Tried((), blocks)
    if not tried.edits:
        if trials is not None:
            trials.undo()
        return graph, {"reason": choice.reason or ALL_HARM}
    before = measured_edit(graph, trials.before if trials else mean_loss(model, loss, judges))
    old = graph
    graph = apply(graph, tried.edits, optimizer=optimizer, followers=followers)
    if editing.then is not None:
        editing.then(graph)
    distributed.check_ranks(model)
    after = measured_edit(graph, trials.settle() if trials else mean_loss(model, loss, judges))
    kept = replace(choice, selected=tried.selected)
    event = edit_event(graph, proposals, kept, before, after, old) | foretold(tried, history)
    event |= {} if weighed is None else {"blocks": weighed.plain()}
    if graph.came_from:  # layers after a new block have new names
        event["came_from"] = {group.name: graph.came_from[group.name] for group in graph.groups}
    return graph, event | {"measured_gain": before["loss"] - after["loss"]}


def _within(method: Method, graph: ChannelGraph, bounds: WidthBounds) -> Method:
    """The method; bottlenecks are chosen among the groups that may become wider."""
    if not isinstance(method, Bottlenecks) or method.groups is not None:
        return method
    _, ceilings = bounds.floors_and_ceilings(graph)
    able = [graph[name] for name in sorted(bounds.changeable(graph))]
    free = (g.name for g in able if g.width < ceilings.get(g.name, math.inf))
    return replace(method, groups=tuple(free))


def _tried(
    trials: EditTrials | None, graph: ChannelGraph, choice: Choice, editing: Editing
) -> Tried:
    """What remains of a choice after the trial; all of it if the network is over its budget."""
    if trials is None or choice.over or not choice.selected:
        return Tried(choice.selected, [proposal.edit for proposal in choice.selected])
    multiple, budget = multiple_of(editing.rule), editing.budget

    def fitted(selected: Sequence[Proposal]) -> Sequence[Proposal]:
        if not budget:
            return selected
        fitting = fit(selected, graph, budget, multiple_of=multiple)
        return agreed(Choice(fitting), selected).selected

    return try_edits(trials, choice.selected, fitted, by_group=multiple != 1)
