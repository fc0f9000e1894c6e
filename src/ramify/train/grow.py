"""Training alternated with edits: train, propose, select, edit, train again."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from ramify import distributed
from ramify.arguments import check_method_and_rule
from ramify.edit import Follower
from ramify.errors import RamifyError
from ramify.methods import GaussNewton, Method
from ramify.probe.loss import Loss
from ramify.refit.at_chance import constant_loss
from ramify.select import Rule
from ramify.select.width_bounds import Bound, WidthBounds
from ramify.tracing import ChannelGraph, trace
from ramify.train.depth_rounds import check_depth
from ramify.train.edit_once import Editing, edit_once
from ramify.train.edit_trials import HELD, EditTrials
from ramify.train.epoch import Training
from ramify.train.history import Event
from ramify.train.kernel_lengths import restore_lengths
from ramify.train.logs import Log
from ramify.train.loop import LENGTHS, Evaluate, Grown, Loop, begin
from ramify.train.passes import Data, Epoch, Passes
from ramify.train.rounds import (
    check_total,
    checked_budget,
    checked_rounds,
    default_rule,
    of_round,
)

AT_CHANCE = 0.99
"""A loss above this share of that of a network which ignores its input counts as chance."""


def grow(  # noqa: PLR0913  (one call for the whole loop)
    model: nn.Module,
    inputs: Any,
    loss: Loss,
    data: Data,
    *,
    method: Method | None = None,
    rule: Rule | None = None,
    training: Training,
    rounds: int,
    budget: Mapping[str, float] | None = None,
    keep: Bound | None = None,
    ceiling: Bound | None = None,
    groups: Sequence[str] | None = None,
    followers: Iterable[Follower] = (),
    after_step: Callable[[nn.Module], None] | None = None,
    probe: Iterable[Any] | None = None,
    evaluate: Evaluate | None = None,
    log: Log | None = None,
    checkpoint: str | Path | None = None,
    tags: Mapping[str, Any] | None = None,
    trial: bool = True,
    rescale: bool = True,
    depth: bool = False,
) -> Grown:
    """Train a network and grow it, in place.

    The network trains for ``training.epochs``, or with ``training.patience`` until the loss stops
    falling. Then ``method`` proposes edits, ``rule`` selects some, and as many as fit into
    ``budget`` are applied to the network, its optimizer and its followers; then it trains again.
    Growth ends after ``rounds`` edits, or once the budget is used up, no proposed morphism pays, or
    every edit would raise the loss; the last event of the history gives the reason. If the schedule
    of ``training`` spans the run, the final network then trains for the rest of the planned epochs:
    ``training.total_epochs``, or ``training.epochs`` for each round and before the first.

    A selection is tried on the network itself before it is kept: splits are shortened, and prunes
    dropped, until the mean loss on the batches that judge edits rises by no more than 0.1 %, with
    batch norm statistics recomputed. A network over its budget is pruned whatever the loss.

    Kernels before a batch norm grow in norm with every step, and the larger the norm, the less a
    step changes their direction. After an edit they are rescaled to the norm that they had when the
    run began. This keeps the function of the network and lets it train like a new network of its
    shape (:mod:`ramify.train.kernel_lengths`).

    With ``torch.distributed``, every rank calls this function with the same network and inputs and
    its own share of the data: gradients, losses and the measurements of methods are averaged over
    all ranks, rank 0 writes the checkpoint and calls ``log``, buffers are those of rank 0 after
    each epoch, and the networks are compared after each edit.

    Args:
        model: Any network that :func:`ramify.trace` accepts.
        inputs: One example of its inputs, to trace it.
        loss: ``loss(model, batch)``, one loss a sample, shape (S,).
        data: The training batches: a list, a ``DataLoader``, or a function of the epoch's number.
        method: Proposes edits and predicts their gains. By default :class:`ramify.GaussNewton`,
            which learns for half as many epochs as a round trains.
        rule: Selects among the proposals; a :class:`ramify.select.BudgetKnapsack` fills its
            budget gradually. By default half of the channels of each group; without a budget, for
            ``GaussNewton``, the edits that are worth their parameters.
        training: How to train in each round.
        rounds: The most edits.
        budget: The most that the network may cost on ``inputs``: ``params``, ``macs``, ``flops``,
            ``latency`` in milliseconds. A method that prunes brings a larger network within it.
        keep: The fewest channels that pruning leaves in every group; or such floors by group, with
            a name that ``graph[...]`` accepts or a pattern such as ``"layer1*"`` as the key. If
            several match, the tightest counts.
        ceiling: The most channels of every group, or of some, in the same forms.
        groups: Names or patterns of the groups whose widths may change; None for all.
        followers: Weight averages and other models or state dictionaries with the model's names
            and shapes; they receive the same edits and are stored in the checkpoint.
        after_step: Called with the model after each step, for example to update a weight average.
        probe: The batches on which edits are judged. By default each pass of the method reads a
            new epoch of ``data``, as a method that learns needs, and selections are tried on about
            1,024 samples of it. With ``trial`` these stay in memory.
        evaluate: Returns measures of the model to add to the event of each epoch; called in
            evaluation mode, without gradients.
        log: Called with each event, a dictionary; or an object with ``log(dict)``, which gets the
            event's numbers. ``"event"`` is ``"epoch"``, ``"edit"``, which holds every proposal, or
            ``"stop"``, whose ``"reason"`` is ``"rounds"``, ``"budget"``, ``"no morphism pays"``,
            ``"no edit that does not raise the loss"`` or ``"floors and ceilings"``, if these
            leave nothing to propose.
        checkpoint: A file written after each event. If it exists, the run resumes from it, with
            the same result as without the interruption.
        tags: Entries to put at the front of each event.
        trial: Whether selections are tried before they are kept; otherwise they are applied
            untried, as in the papers.
        rescale: Whether kernels before a batch norm are rescaled to their initial norm after each
            edit.
        depth: Whether a round may also insert copies of blocks (:class:`ramify.Insert`), if these
            gain more per cost than the widths that ``rule`` selected. All candidates are trained
            for 64 steps at a tenth of the learning rate (:mod:`ramify.train.depth_rounds`).

    Returns:
        The grown model's graph, the optimizer and the history.

    Raises:
        RamifyError: The loss is not one a sample, a value is no longer finite, a follower is the
            model itself, rounds, budget or bounds are out of range, a bound or one of ``groups``
            matches no group, the checkpoint is damaged or of another model, or the ranks do not
            hold the same network.

    Example:
        >>> import torch, ramify
        >>> from torch import nn
        >>> generator = torch.manual_seed(0)
        >>> x = torch.randn(256, 2)
        >>> y = (x[:, 0] * x[:, 1] > 0).long()
        >>> data = list(zip(x.split(32), y.split(32)))
        >>> net = nn.Sequential(nn.Linear(2, 4), nn.Softplus(), nn.Linear(4, 2))
        >>> def loss(model, batch):
        ...     return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")
        >>> grown = ramify.grow(net, x[:1], loss, data, training=ramify.Training(epochs=5, lr=0.1),
        ...     rounds=9, budget={"params": 50})
        >>> grown.graph["0"].width == net[0].out_features
        True
        >>> grown = ramify.grow(net, x[:1], loss, data, method=ramify.SplittingDescent(),
        ...     rule=ramify.TopFraction(0.5), training=ramify.Training(epochs=1), rounds=1)
        >>> grown.history[-1]["reason"]
        'rounds'

    Source: Splitting Steepest Descent, Algorithm 1; Gauss-Newton morphisms, Algorithm 1.
    """
    check_method_and_rule(method, rule)
    with distributed.together():
        bounds = WidthBounds(keep, ceiling, groups)
        limits: Event = {"rounds": checked_rounds(rounds), "budget": checked_budget(budget)}
        limits |= bounds.plain() | ({"depth": True} if depth else {})
        loop = begin(
            model,
            loss,
            data,
            training=training,
            limits=limits,
            followers=followers,
            after_step=after_step,
            evaluate=evaluate,
            log=log,
            checkpoint=checkpoint,
            tags=tags,
        )
        check_total(training, rounds)
        method = method or GaussNewton(epochs=(training.epochs + 1) // 2)
        rule = rule or default_rule(method, budget)
        graph = _traced(model, inputs, rounds)
        bounds.floors_and_ceilings(graph)
        if depth:
            check_depth(graph, bounds, rule, trial, rounds)
        distributed.check_ranks(model)
        loop.remember_lengths(graph)
        while not loop.journal.stopped:
            if (reason := loop.journal.ended(limits)) is not None:
                loop.end(graph, reason, limits)
                break
            loop.train_round(graph)
            if (full := loop.journal.full(limits["budget"])) or loop.journal.round >= rounds:
                loop.end(graph, "budget" if full else "rounds", limits)
            else:
                search = _Search(method, rule, probe, trial, rescale, bounds, depth)
                graph = _edited(loop, graph, search, limits)
        return Grown(graph, loop.subject.optimizer, loop.journal.history)


@dataclass(frozen=True)
class _Search:
    """How edits are found: the arguments of :func:`grow` with these names."""

    method: Method
    rule: Rule
    probe: Iterable[Any] | None
    trial: bool
    rescale: bool
    bounds: WidthBounds
    depth: bool


def _edited(loop: Loop, graph: ChannelGraph, search: _Search, limits: Event) -> ChannelGraph:
    """The graph after one edit of the network, or the same graph if no edit was made."""
    journal, subject = loop.journal, loop.subject
    # By default the next epoch's batches judge, and each pass of the method reads one epoch more.
    passes = Passes(loop.data, journal.passes, loop.steps)
    judges: Iterable[Any] = Epoch(loop.data, journal.passes)
    batches: Iterable[Any] = passes
    if search.probe is not None:
        judges = batches = search.probe
    trials = None
    if search.trial:
        most = HELD if search.probe is None else None
        trials = EditTrials(graph, loop.loss, judges, most)
        batches = passes if search.probe is None else trials.held
        if journal.round == 0:
            _warn_at_chance(graph, loop.loss, trials)
    rule = of_round(search.rule, loop.rounds - journal.round)

    known = (event[LENGTHS] for event in reversed(journal.history) if LENGTHS in event)
    wanted: Mapping[str, float] = next(known, {})
    lengths: dict[str, float] = {}

    def restore(edited: ChannelGraph) -> None:
        names = edited.came_from or {name: name for name in wanted}
        lengths.update({name: wanted[old] for name, old in names.items() if old in wanted})
        if search.rescale and lengths:
            restore_lengths(edited, subject, lengths)

    editing = Editing(loop.loss, search.method, rule, limits["budget"], search.bounds, restore)
    graph, event = edit_once(
        graph,
        replace(editing, deepen=loop.training) if search.depth else editing,
        batches,
        judges=judges,
        trials=trials,
        optimizer=subject.optimizer,
        followers=subject.followers,
        history=journal.history,
    )
    if "reason" in event:
        loop.end(graph, event["reason"], limits)
        return graph
    head: Event = {"round": journal.round + 1, "step": journal.step}
    head |= {"passes": passes.epoch - journal.passes, "budget": limits["budget"]}
    head |= {LENGTHS: lengths} if graph.came_from else {}
    journal.write("edit", head | event)
    return graph


def _warn_at_chance(graph: ChannelGraph, loss: Loss, trials: EditTrials) -> None:
    """Warn if the network to grow is no better than one that ignores its input."""
    now, chance = trials.before, constant_loss(graph.model, loss, trials.held)
    if now >= AT_CHANCE * chance and distributed.is_rank_zero():
        warnings.warn(
            f"before its first edit the network has a loss of {now:.4g}, and a network that does "
            f"not look at its input has {chance:.4g}: it has not learned anything yet that growing "
            "could build on; train longer before an edit, or begin with a wider network",
            stacklevel=4,  # the caller of `grow`
        )


def _traced(model: nn.Module, inputs: Any, rounds: int) -> ChannelGraph:
    """The model's graph; an error if edits are requested and no channel can be edited."""
    graph = trace(model, inputs)
    if rounds > 0 and not any(group.can_split or group.can_prune for group in graph.groups):
        reasons = "; ".join(f"'{group.name}': {group.reason}" for group in graph.groups[:3])
        reasons = reasons or "it has no weights"
        raise RamifyError(
            f"the network has no channels that can be split or pruned ({reasons}): see every "
            "reason with print(ramify.trace(model, inputs)) or `ramify show`"
        )
    return graph
