"""Shrinking a trained network: search where asked, cut, let the rest take over, tune."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from ramify import distributed
from ramify.arguments import check_called, check_kind, check_method_and_rule
from ramify.edit import Follower
from ramify.errors import RamifyError
from ramify.methods.proposal import Method
from ramify.probe.loss import Loss, checked_loss, each_batch
from ramify.refit import CutReport
from ramify.refit import cut as refitted_cut
from ramify.refit import sensitivity as sensitivity_of
from ramify.refit.budget_shares import in_numbers
from ramify.refit.choosing import Floor, floors, matching
from ramify.refit.outcome import Accept
from ramify.relax import Pairs
from ramify.relax.distillation import distilled, takes_softmax
from ramify.select import Rule
from ramify.select.rounding import Multiple
from ramify.store.checkpoint import read_checkpoint
from ramify.store.model import recipe_of
from ramify.tracing import ChannelGraph, trace
from ramify.tracing.recorder import evaluating, tensors_of, untouched
from ramify.train.cut_rounds import Cutting
from ramify.train.epoch import Training
from ramify.train.fresh_networks import scratch
from ramify.train.history import Event
from ramify.train.logs import Log
from ramify.train.loop import Evaluate, Grown, Loop, begin
from ramify.train.norm_statistics import recompute_statistics
from ramify.train.passes import Data, Epoch
from ramify.train.rounds import Choice, costs, edit_event
from ramify.train.scored import Scores, check_search, plain_batches, search_widths
from ramify.train.width_search import WidthSearch

SAMPLES = 256
"""So many samples choose the channels and refit the rest; as many others measure the cut."""
TEMPERATURE = 2.0
"""Of the outputs of the full network that the tuning follows."""


def shrink(  # noqa: PLR0913  (one call for the whole job)
    model: nn.Module,
    inputs: Any,
    loss: Loss,
    data: Data | Pairs,
    *,
    budget: Mapping[str, float | str] | None = None,
    accept: Accept | None = None,
    rule: Rule | None = None,
    search: WidthSearch | None = None,
    method: Method | None = None,
    refit: bool = True,
    keep: Floor = 0.1,
    multiple_of: Multiple = 1,
    alike: Sequence[str] = (),
    groups: Sequence[str] | None = None,
    raw: bool = False,
    rounds: int = 1,
    depth: bool = False,
    sensitivity: bool = False,
    calibration: Iterable[Any] | None = None,
    held: Iterable[Any] | None = None,
    training: Training | None = None,
    search_training: Training | None = None,
    teacher: nn.Module | Literal["full"] | None = "full",
    temperature: float = TEMPERATURE,
    fresh: Callable[[], nn.Module] | None = None,
    followers: Iterable[Follower] = (),
    after_step: Callable[[nn.Module], None] | None = None,
    evaluate: Evaluate | None = None,
    log: Log | None = None,
    checkpoint: str | Path | None = None,
    tags: Mapping[str, Any] | None = None,
) -> Grown:
    """Make a trained network smaller, in place: cut it, let what stays take over, and tune it.

    Channels are chosen and the rest is refitted by :func:`ramify.cut`, on a few hundred samples.
    Then the network is tuned, by default at a rate for a network that already works and with the
    full network as its teacher, and in the end its batch norms get the statistics that they really
    have. With ``search`` the channels are first scored while the full network trains, as in
    Algorithm 3 of the thesis.

    Where ``torch.distributed`` is set up, every rank calls it with the same network and its own
    share of the data.

    Args:
        model: Any network that :func:`ramify.trace` takes, trained before.
        inputs: One example of its inputs, on which its cost is counted.
        loss: ``loss(model, batch)``, one loss a sample, shape (S,).
        data: The training batches: a list, a ``DataLoader``, or a function of the epoch's number;
            or :class:`ramify.relax.Pairs` of two halves, for a search that needs them.
        budget: The most that the network may have in the end, as :func:`ramify.cut` takes it.
        accept: Whether a cut network is good enough, as :func:`ramify.cut` takes it.
        rule: Which channels may go, as :func:`ramify.cut` takes it.
        search: How channels are scored in training; by default ``method`` scores them.
        method: What scores the channels; by default `Takeover`.
        refit: Whether what stays takes over.
        keep: The floor of every group: a share of its width, a width, or one of these by group.
        multiple_of: What the width of each group that changes becomes a multiple of.
        alike: Patterns of group names; groups that one matches stay equally wide.
        groups: Patterns of the names of the groups that may be cut; None for all.
        raw: Compare scores between layers as they are, where a method's have no unit.
        rounds: So many cuts, each with its tuning; the budget is approached by equal factors.
        depth: Whether whole blocks may go too, as :func:`ramify.cut` drops them; with a budget of
            size, one round and no search.
        sensitivity: Whether the loss against the share cut of each group alone is measured first,
            and kept as an event.
        calibration: The batches to choose and refit on; by default the first 256 samples of
            ``data``.
        held: The batches to measure the cut on, which choose nothing; by default the next 256.
        training: How the cut network is tuned, after every cut; its ``epochs`` may be 0. By default
            :func:`tuning`.
        search_training: How the network trains in the search; by default as ``training``.
        teacher: What the tuning follows beside the loss: a network, ``None``, or ``"full"``, a copy
            of the network as it comes, where the loss takes a softmax of its outputs and no search
            comes before.
        temperature: T of the outputs that are followed; their divergence counts T² times.
        fresh: Makes the full network anew: the cut shape is then trained from fresh weights.
        followers: Weight averages and the like, which are cut alike; they are not refitted.
        after_step: Called with the model after each step.
        evaluate: Measures of the network to add to the events; called in evaluation mode, without
            gradients.
        log: Called with each event, a dictionary, or an object with ``log(dict)``, which gets its
            numbers; ``"event"`` is ``"epoch"``, ``"edit"``, which holds every proposal, or
            ``"stop"``.
        checkpoint: A file written after each event. Where it exists, the run goes on from it, to
            the same result as without the interruption; give the full network again then. With a
            search, one named alike with ``-tuning`` behind takes over after it.
        tags: Entries to put in front of each event.

    Returns:
        The graph of the small network, the optimizer and the history.

    Raises:
        RamifyError: The budget or the floor cannot be met, the searcher needs ``Pairs``, the
            teacher is the network itself or does not give logits like its own, something is no
            longer finite, or the checkpoint is damaged.

    Example:
        >>> import torch, ramify
        >>> from torch import nn
        >>> generator = torch.manual_seed(0)
        >>> x = torch.randn(64, 2)
        >>> y = (x[:, 0] * x[:, 1] > 0).long()
        >>> net = nn.Sequential(nn.Linear(2, 20), nn.ReLU(), nn.Linear(20, 2))
        >>> def loss(model, batch):
        ...     return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")
        >>> small = ramify.shrink(net, x[:1], loss, [(x, y)], budget={"params": 62},
        ...     training=ramify.Training(epochs=2, lr=0.01))
        >>> net[0].out_features, [event["event"] for event in small.history]
        (12, ['edit', 'epoch', 'epoch', 'stop'])

    Source: RARTS thesis, Algorithm 3, for the search; :func:`ramify.cut` for the rest.
    """
    check_method_and_rule(method, rule)
    check_kind(budget, "budget", Mapping)
    check_kind(search, "search", WidthSearch)
    check_kind(training, "training", Training)
    check_kind(search_training, "search_training", Training)
    check_kind(checkpoint, "checkpoint", str, Path)
    check_kind(temperature, "temperature", int, float, optional=False)
    check_called(fresh, "fresh", "nothing, which makes the network anew")
    totals: Any = budget
    if isinstance(budget, Mapping) and any(isinstance(most, str) for most in budget.values()):
        totals = in_numbers(trace(model, inputs), budget)
    cutting = Cutting(
        totals, accept, rule, method, refit, keep, multiple_of, alike, groups, raw, rounds, depth
    )
    if search is not None and depth:
        raise RamifyError(
            "a search scores the channels of the network with all of its blocks: give depth=False, "
            "or no search."
        )
    if search is not None and rounds > 1:
        raise RamifyError(
            "a search scores the channels once, and several rounds need scores of their own: give "
            "one round, or no search."
        )
    training = training or tuning()
    with distributed.together():
        check_shrink(model, inputs, search, cutting)
        plain, last = plain_batches(data), _after(checkpoint, search)
        teacher = None if teacher == "full" and search is not None else teacher
        taught = _tuning_loss(model, loss, plain, teacher, temperature)
        sample, judges = _samples(model, loss, plain, calibration, held)
        job = _Job(loss, plain, cutting, sample, judges, fresh, sensitivity)
        before: list[Event] = []
        scores: Scores | None = None
        # The search, unless what comes after it has begun.
        if search is not None and not (last and last.exists()):
            scored = search_widths(
                model,
                inputs,
                loss,
                data,
                search=search,
                training=search_training or training,
                probe=sample,
                evaluate=evaluate,
                log=log,
                checkpoint=checkpoint,
                tags=tags,
            )
            before, scores = scored.history, Scores.of(scored.proposals)
        elif search is not None and checkpoint is not None:
            before = read_checkpoint(Path(checkpoint)).history
        # Cut and tune.
        limits: Event = {"rounds": rounds - 1, "budget": dict(totals) if totals else None}
        loop = begin(
            model,
            taught,
            plain,
            training=training,
            limits=limits,
            followers=followers,
            after_step=after_step,
            evaluate=evaluate,
            log=log,
            checkpoint=last,
            tags=tags,
        )
        graph = trace(model, inputs)
        distributed.check_ranks(model)
        while not loop.journal.stopped:
            graph = _next(loop, graph, job, scores, limits)
        return Grown(graph, loop.subject.optimizer, [*before, *loop.journal.history])


def tuning() -> Training:
    """How a cut network is tuned where nothing else is said.

    Returns:
        Two epochs of SGD at a rate, after a warm-up, that does not destroy what a network knows.

    Example:
        >>> tuning().epochs
        2
    """
    return Training(epochs=2, lr=0.01, nesterov=True, weight_decay=1e-4, warmup=0.1)


def check_shrink(
    model: nn.Module, inputs: Any, search: WidthSearch | None, cutting: Cutting
) -> None:
    """Try on a network, before any work, whether it can be searched and cut; it stays as it is.

    Args:
        model: The network.
        inputs: One example of its inputs.
        search: How channels are to be scored; None for no search.
        cutting: How it is to be cut; a latency is not tried.

    Raises:
        RamifyError: It has no channels that can be scored so, it is within the budget as it is, or
            all prunes together do not bring it there.
    """
    graph = trace(model, inputs)
    if search is not None:
        check_search(graph, search)
    cutting.check(graph)


@dataclass(frozen=True)
class _Job:
    """What every cut of a run goes by."""

    loss: Loss
    data: Data
    cutting: Cutting
    sample: list[Any]
    held: list[Any] | None
    fresh: Callable[[], nn.Module] | None
    sensitivity: bool

    def cut(
        self, loop: Loop, graph: ChannelGraph, scores: Scores | None, round_: int
    ) -> tuple[ChannelGraph, Event]:
        """Cut once.

        Returns:
            The graph of the cut network, and what the history keeps.
        """
        cutting, reports = self.cutting, list[CutReport]()
        before, least = _seen(loop, graph), floors(graph, cutting.keep)
        with warnings.catch_warnings():  # they stand in the event
            warnings.simplefilter("ignore", UserWarning)
            graph = refitted_cut(
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
        # By the names that groups have without the blocks that went.
        before["widths"] = {name: old for name, (old, _) in reports[0].widths.items()}
        after = _seen(loop, graph)
        if (latency := reports[0].latency) is not None:
            before["latency"], after["latency"] = latency
        event = _described(graph, reports[0], before, after)
        if self.fresh is not None:  # what the cut itself came to is measured by now
            _refresh(graph.model, self.fresh)
        return graph, event | {"floors": least}


def _seen(loop: Loop, graph: ChannelGraph) -> dict[str, Any]:
    """Widths, cost and measures of the network as it is."""
    measures = loop.measures(graph.model)
    return {"widths": {g.name: g.width for g in graph.groups}} | costs(graph) | measures


def _next(
    loop: Loop, graph: ChannelGraph, job: _Job, scores: Scores | None, limits: Event
) -> ChannelGraph:
    """The next step of the run: a cut, the rest of a tuning, or the end."""
    journal = loop.journal
    first = all(event["event"] != "edit" for event in journal.history)
    if job.sensitivity and not journal.history:
        place: Event = {"round": 0, "step": 0, "passes": 0}
        journal.write("sensitivity", place | _by_group(graph, job))
    elif first or (journal.round < loop.rounds and loop.through()):
        round_ = 0 if first else journal.round + 1
        graph, event = job.cut(loop, graph, scores, round_)
        distributed.check_ranks(graph.model)
        place = {"round": round_, "step": journal.step, "passes": 0}
        journal.write("edit", place | {"budget": limits["budget"]} | event)
    elif not loop.through():
        loop.train_round(graph)
    else:
        # The statistics that the norms really have, and what the network then measures.
        if loop.training.epochs:
            recompute_statistics(graph.model, job.loss, Epoch(job.data, 0))
        measures = loop.measures(graph.model)
        loop.stop("rounds", limits | measures | costs(graph))
    return graph


def _by_group(graph: ChannelGraph, job: _Job) -> Event:
    """The loss against the share cut, group by group, as plain values."""
    names = None if job.cutting.groups is None else matching(graph, job.cutting.groups)
    found = sensitivity_of(graph, job.loss, job.sample, groups=names, held=job.held)
    groups: dict[str, list[list[float]]] = {name: [] for name in found.widths}
    for row in found.rows:
        groups[row.group].append([row.share, row.loss])
    return {"loss": found.loss, "groups": groups}


def _described(
    graph: ChannelGraph, report: CutReport, before: Mapping[str, Any], after: Mapping[str, Any]
) -> Event:
    """What the history keeps of a cut: the edit, what was expected of it, and the refit."""
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
                # A reader that has lost nothing needs no λ, and NaN would be no JSON.
                "strength": one.strength if math.isfinite(one.strength) else None,
                "before": one.before,
                "after": one.after,
            }
            for one in report.refitted
        ],
    }


def _refresh(model: nn.Module, fresh: Callable[[], nn.Module]) -> None:
    """Give a cut network the fresh weights of its shape."""
    drawn = tensors_of(scratch(fresh, recipe_of(model)))
    with torch.no_grad():
        for name, tensor in tensors_of(model).items():
            tensor.copy_(drawn[name])


def _samples(
    model: nn.Module,
    loss: Loss,
    data: Data,
    calibration: Iterable[Any] | None,
    held: Iterable[Any] | None,
) -> tuple[list[Any], list[Any] | None]:
    """The batches that choose and refit, and those that measure; None where none are left."""
    passing = iter(Epoch(data, 0))

    def first() -> list[Any]:
        found, samples = list[Any](), 0
        with evaluating(model):
            while samples < SAMPLES and (batch := next(passing, None)) is not None:
                found.append(batch)
                samples += len(checked_loss(loss, model, batch))
        return found

    sample = first() if calibration is None else list(each_batch(calibration))
    return sample, (first() if held is None else list(each_batch(held))) or None


def _after(checkpoint: str | Path | None, search: WidthSearch | None) -> Path | None:
    """The file of what comes after the search, which has one of its own."""
    if checkpoint is None or search is None:
        return None if checkpoint is None else Path(checkpoint)
    stem = Path(checkpoint).with_suffix("")
    return stem.with_name(f"{stem.name}-tuning.safetensors")


def _tuning_loss(
    model: nn.Module,
    loss: Loss,
    data: Data,
    teacher: nn.Module | str | None,
    temperature: float,
) -> Loss:
    """The loss of the tuning, tried on one batch before any work; everything stays as it is."""
    if teacher is None:
        return loss
    check_kind(teacher, "teacher", nn.Module, str)
    if teacher is model:
        raise RamifyError(
            "the teacher is the network that is to be cut: give a copy of it, as copy.deepcopy "
            'makes, or teacher="full", which copies it.'
        )
    if isinstance(teacher, str) and teacher != "full":
        raise RamifyError(f'teacher is a network, "full" or None, and got {teacher!r}.')
    batch = next(iter(Epoch(data, 0)), None)
    if batch is None:
        raise RamifyError("the data gave no batch; give a list, a DataLoader or a function.")
    if isinstance(teacher, str):
        with untouched(model):
            if not takes_softmax(model, loss, batch):
                return loss
        teacher = copy.deepcopy(model)
    taught = distilled(loss, teacher, temperature, weight=temperature**2)
    with untouched(model), evaluating(model):
        taught(model, batch)
    return taught
