"""The cuts of a run: the arguments of `ramify.cut` for each round, and the event of each cut."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ramify.cost import RESOURCES, graph_cost
from ramify.errors import RamifyError
from ramify.latency import measure_edited
from ramify.methods.proposal import Method
from ramify.probe.loss import Loss
from ramify.refit import CutReport, cut, sensitivity
from ramify.refit.choosing import (
    Floor,
    allowed_by,
    candidates,
    check_reach,
    choose_channels,
    floors,
    matching,
    of_groups,
)
from ramify.refit.outcome import Accept
from ramify.select import Rule
from ramify.select.rounding import Multiple
from ramify.store.model import recipe_of
from ramify.tracing import ChannelGraph
from ramify.tracing.recorder import tensors_of
from ramify.train.fresh_networks import scratch
from ramify.train.history import Event
from ramify.train.loop import Loop
from ramify.train.passes import Data
from ramify.train.rounds import Choice, costs, edit_event
from ramify.train.scored import Scores
from ramify.train.tuning_rate import tuning_rate
from ramify.train.width_search import Chance


@dataclass(frozen=True)
class Cutting:
    """How a network is cut: the arguments of `ramify.cut`, and the number of cuts.

    Attributes:
        budget: The most that the network may cost in the end, as in :func:`ramify.cut`.
        accept: Decides whether a cut network is good enough.
        rule: Selects the channels that may be removed.
        method: Scores the channels.
        refit: Whether the remaining weights are refitted to replace the removed channels.
        keep: The fewest channels of every group.
        multiple_of: Widths that change become multiples of this.
        alike: Patterns of groups that stay equally wide.
        groups: Patterns of the groups that may be cut; None for all.
        raw: Whether scores of different layers are compared without normalisation.
        rounds: Number of cuts, each followed by fine-tuning; they approach the budget by equal
            factors.
        depth: Whether whole blocks may be removed too.

    Raises:
        RamifyError: ``rounds`` cannot be combined with the other settings.
    """

    budget: Mapping[str, float] | None = None
    accept: Accept | None = None
    rule: Rule | None = None
    method: Method | None = None
    refit: bool = True
    keep: Floor = 0.1
    multiple_of: Multiple = 1
    alike: Sequence[str] = ()
    groups: Sequence[str] | None = None
    raw: bool = False
    rounds: int = 1
    depth: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.rounds, int) or self.rounds < 1:
            raise RamifyError(f"rounds is {self.rounds!r}; give a whole number of at least 1.")
        if self.rounds > 1 and not self.budget and self.accept is None:
            raise RamifyError(
                "several rounds approach a budget, and a rule alone says what goes at once: give "
                "a budget, or one round."
            )
        if self.depth and (self.rounds > 1 or self.accept is not None or not self.budget):
            raise RamifyError(
                "depth is chosen once, within a budget of size: give a budget and one round, and "
                "no accept."
            )

    def within(self, graph: ChannelGraph, round_: int) -> dict[str, float] | None:
        """The budget of a round: equal factors lead from the present cost to the final budget.

        Args:
            graph: The graph of the present network.
            round_: Number of the round, from 0.

        Returns:
            The budget; None if there is none.
        """
        if not self.budget:
            return None
        left, now = self.rounds - round_, graph_cost(graph)
        given = dict(self.budget)
        for name, most in self.budget.items():
            if name == "loss" or left == 1:
                continue
            present = now.of(name) if name in RESOURCES else measure_edited(graph).median
            given[name] = max(most, present * min(1.0, most / present) ** (1 / left))
        return given

    def check(self, graph: ChannelGraph) -> None:
        """Check before any work that the network can be cut this way, without changing it.

        Args:
            graph: The graph of the network.

        Raises:
            RamifyError: It is already within the budget, or cannot be brought within it.
        """
        proposals = of_groups(graph, Chance(0).propose(graph, None, ()), self.groups)
        offered = candidates(graph, proposals, floors(graph, self.keep))
        pool = offered if self.rule is None else allowed_by(self.rule, proposals, offered)
        counted = {name: most for name, most in (self.budget or {}).items() if name in RESOURCES}
        if not self.depth:
            check_reach(graph, pool, counted)
        now = graph_cost(graph)
        if counted and counted == self.budget and all(now.of(n) <= m for n, m in counted.items()):
            raise RamifyError(
                "the network is within the budget as it is, and nothing would be cut: give a "
                "smaller budget."
            )
        choose_channels(graph, offered, pool, None, multiple_of=1, alike=self.alike)


@dataclass(frozen=True)
class CutRounds:
    """The cuts of a run: what each of its rounds does before the fine-tuning.

    Attributes:
        loss: The user's loss, without a teacher.
        data: The training batches.
        cutting: How the network is cut.
        sample: The batches that choose channels and refit weights.
        held: The batches that measure the cut; None if there are none besides the sample.
        fresh: Builds the full network anew, for weights that are drawn after a cut; None to keep
            the refitted ones.
        with_sensitivity: Whether the loss of every group's cuts is measured first.
        find_lr: Whether the learning rate of each fine-tuning is found by short trials.
    """

    loss: Loss
    data: Data
    cutting: Cutting
    sample: list[Any]
    held: list[Any] | None
    fresh: Callable[[], nn.Module] | None
    with_sensitivity: bool
    find_lr: bool

    def cut(
        self, loop: Loop, graph: ChannelGraph, scores: Scores | None, round_: int
    ) -> tuple[ChannelGraph, Event]:
        """Cut once.

        Returns:
            The graph of the cut network, and the event for the history.
        """
        cutting, reports = self.cutting, list[CutReport]()
        before, least = _seen(loop, graph), floors(graph, cutting.keep)
        with warnings.catch_warnings():  # the event holds them
            warnings.simplefilter("ignore", UserWarning)
            graph = cut(
                graph,
                self.loss,
                self.sample,
                budget=cutting.within(graph, round_),
                accept=cutting.accept,
                rule=cutting.rule,
                method=scores or cutting.method,
                refit=cutting.refit,
                keep=cutting.keep,
                multiple_of=cutting.multiple_of,
                alike=cutting.alike,
                groups=cutting.groups,
                raw=cutting.raw,
                depth=cutting.depth,
                held=self.held,
                optimizer=loop.subject.optimizer,
                followers=loop.subject.followers,
                log=reports.append,
            )
        # By the names of groups after blocks were removed.
        before["widths"] = {name: old for name, (old, _) in reports[0].widths.items()}
        after = _seen(loop, graph)
        if (latency := reports[0].latency) is not None:
            before["latency"], after["latency"] = latency
        event = _described(graph, reports[0], before, after)
        if self.fresh is not None:  # the cut itself has been measured by now
            _refresh(graph.model, self.fresh)
        return graph, event | {"floors": least}

    def by_group(self, graph: ChannelGraph) -> Event:
        """The loss against the share cut, group by group, as plain values."""
        groups = self.cutting.groups
        names = None if groups is None else matching(graph, groups)
        found = sensitivity(graph, self.loss, self.sample, groups=names, held=self.held)
        rows: dict[str, list[list[float]]] = {name: [] for name in found.widths}
        for row in found.rows:
            rows[row.group].append([row.share, row.loss])
        return {"loss": found.loss, "groups": rows}

    def rate(self, loop: Loop) -> Event:
        """Find the learning rate of a fine-tuning, and set it; the event says what was tried."""
        found = tuning_rate(
            loop.subject.model,
            self.loss,
            loop.loss,
            loop.data,
            epoch=loop.journal.passes,
            steps=loop.steps * loop.training.epochs,
            training=loop.training,
            sample=self.sample,
            held=self.held or self.sample,
        )
        # The checkpoint holds it, too.
        for group in loop.subject.optimizer.param_groups:
            group["initial_lr"] = found.lr
        return found.event()


def _seen(loop: Loop, graph: ChannelGraph) -> dict[str, Any]:
    """Widths, cost and measures of the present network."""
    measures = loop.measures(graph.model)
    return {"widths": {g.name: g.width for g in graph.groups}} | costs(graph) | measures


def _described(
    graph: ChannelGraph, report: CutReport, before: Mapping[str, Any], after: Mapping[str, Any]
) -> Event:
    """The event of a cut: the edit, the predicted loss, and the refit."""
    taken = set(report.edits)
    chosen = [proposal for proposal in report.proposals if proposal.edit in taken]
    losses = ({"loss": report.loss_before}, {"loss": report.loss_after})
    before, after = ({**seen, **loss} for seen, loss in zip((before, after), losses, strict=True))
    event = edit_event(graph, report.proposals, Choice(chosen), before, after)
    known = math.isfinite(report.predicted)
    return event | {
        "predicted_gain": -report.predicted if known else None,
        "held": report.held,
        "warnings": list(report.warnings),
        "drops": [str(drop.block) for drop in report.drops],
        "refitted": [
            {
                "name": one.name,
                # A reader that lost no inputs has no λ, and NaN is not valid JSON.
                "strength": one.strength if math.isfinite(one.strength) else None,
                "before": one.before,
                "after": one.after,
            }
            for one in report.refitted
        ],
    }


def _refresh(model: nn.Module, fresh: Callable[[], nn.Module]) -> None:
    """Reinitialise the weights of a cut network."""
    drawn = tensors_of(scratch(fresh, recipe_of(model)))
    with torch.no_grad():
        for name, tensor in tensors_of(model).items():
            tensor.copy_(drawn[name])
