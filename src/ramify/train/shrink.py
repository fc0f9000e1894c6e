"""Shrink a trained network: optional search, cut, refit of the remaining weights, fine-tuning."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import nn

from ramify import distributed
from ramify.arguments import check_called, check_kind, check_method_and_rule
from ramify.edit import Follower
from ramify.errors import RamifyError
from ramify.methods.proposal import Method
from ramify.probe.loss import Loss, each_batch, first_batches
from ramify.refit.budget_shares import in_numbers
from ramify.refit.choosing import Floor
from ramify.refit.outcome import Accept
from ramify.relax import Pairs
from ramify.relax.distillation import distilled, takes_softmax, teacher_of
from ramify.select import Rule
from ramify.select.rounding import Multiple
from ramify.store.checkpoint import read_checkpoint
from ramify.tracing import ChannelGraph, trace
from ramify.tracing.recorder import evaluating
from ramify.tracing.untouched import untouched
from ramify.train.cut_rounds import CutRounds, Cutting
from ramify.train.epoch import Training, check_trainable
from ramify.train.history import Event
from ramify.train.logs import Log
from ramify.train.loop import Evaluate, Grown, Loop, begin
from ramify.train.norm_statistics import recompute_statistics
from ramify.train.passes import Data, Epoch
from ramify.train.rounds import costs
from ramify.train.scored import Scores, check_search, plain_batches, search_widths
from ramify.train.width_search import WidthSearch

SAMPLES = 256
"""The samples that choose channels and refit weights; as many others measure the cut."""
TEMPERATURE = 2.0
"""The distillation temperature of the fine-tuning."""


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
    find_lr: bool | None = None,
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
    """Make a trained network smaller, in place: cut it, refit the remaining weights, fine-tune it.

    :func:`ramify.cut` chooses the channels and refits the rest, on a few hundred samples. Then the
    network is fine-tuned, by default at a learning rate that short trials find and with the full
    network as its teacher. Finally its batch norm statistics are recomputed. With ``search``, the
    channels are first scored while the full network trains, as in Algorithm 3 of the thesis.

    With ``torch.distributed``, every rank calls this function with the same network and its own
    share of the data.

    Args:
        model: A trained network that :func:`ramify.trace` accepts.
        inputs: One example of its inputs, for which its cost is counted.
        loss: ``loss(model, batch)``, one loss a sample, shape (S,).
        data: The training batches: a list, a ``DataLoader``, or a function of the epoch's number;
            or :class:`ramify.relax.Pairs` of two halves, for a search that needs them.
        budget: The most that the network may cost in the end, as in :func:`ramify.cut`.
        accept: Decides whether a cut network is good enough, as in :func:`ramify.cut`.
        rule: Selects the channels that may be removed, as in :func:`ramify.cut`.
        search: How channels are scored in training; by default ``method`` scores them.
        method: Scores the channels; by default `Takeover`.
        refit: Whether the remaining weights are refitted to replace the removed channels.
        keep: The floor of every group: a share of its width, a width, or one of these by group.
        multiple_of: The width of each group that changes becomes a multiple of this.
        alike: Patterns of group names; groups that match the same pattern stay equally wide.
        groups: Patterns of the names of the groups that may be cut; None for all.
        raw: Whether to compare scores of different layers without normalisation, for a method
            whose scores have no unit.
        rounds: Number of cuts, each followed by fine-tuning; they approach the budget by equal
            factors.
        depth: Whether whole blocks may be removed too, as in :func:`ramify.cut`; requires a budget
            of size, one round and no search.
        sensitivity: Whether to measure first how the loss depends on the share cut of each single
            group, and to record it as an event.
        calibration: The batches for choosing and refitting; by default the first 256 samples of
            ``data``.
        held: The batches on which the cut is measured, not used for choosing; by default the next
            256 samples.
        training: How the network is fine-tuned after every cut; its ``epochs`` may be 0. By default
            :func:`tuning`.
        find_lr: Whether the learning rate is found by short trials after every cut, of which the
            first one takes that of ``training``; None: only if ``training`` is not given. Not with
            ``fresh``.
        search_training: How the network trains in the search; by default as ``training``.
        teacher: The network whose outputs fine-tuning distils in addition to the loss; ``None``; or
            ``"full"``, a copy of the original network, which is used if the loss takes a softmax of
            the outputs and there is no search.
        temperature: T of the distillation, whose divergence is weighted by T².
        fresh: Builds the full network anew: the cut shape is then trained from scratch.
        followers: Weight averages and other copies, which are cut along but not refitted.
        after_step: Called with the model after each step.
        evaluate: Returns measures of the network to add to the events; called in evaluation mode,
            without gradients.
        log: Called with each event, a dictionary; or an object with ``log(dict)``, which gets the
            event's numbers. ``"event"`` is ``"epoch"``, ``"edit"``, which holds every proposal,
            ``"rate"`` for a learning rate that was found, or ``"stop"``.
        checkpoint: A file written after each event. If it exists, the run resumes from it, with the
            same result as without the interruption; pass the full network again then. With a
            search, the stages after it use a second file with ``-tuning`` appended to the name.
        tags: Entries to put at the front of each event.

    Returns:
        The graph of the small network, the optimizer and the history.

    Raises:
        RamifyError: The budget or the floor cannot be met, the searcher needs ``Pairs``, the
            teacher is the network itself or does not return logits like its own, a value is no
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
    if find_lr and fresh is not None:
        raise RamifyError(
            "find_lr finds the learning rate for a network that keeps its weights, and with fresh "
            "it is trained from scratch: leave one of them out."
        )
    finds = find_lr or (find_lr is None and training is None and fresh is None)
    training = training or tuning()
    with distributed.together():
        check_shrink(model, inputs, search, cutting)
        check_trainable(model, training)
        plain, last = plain_batches(data), _after(checkpoint, search)
        teacher = None if teacher == "full" and search is not None else teacher
        taught = _tuning_loss(model, loss, plain, teacher, temperature)
        sample, judges = _samples(model, loss, plain, calibration, held)
        job = CutRounds(loss, plain, cutting, sample, judges, fresh, sensitivity, finds)
        before: list[Event] = []
        scores: Scores | None = None
        # The search, unless a later stage has already begun.
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
        # Cut and fine-tune.
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
    """The default settings for fine-tuning a cut network.

    Returns:
        Two epochs of SGD with warm-up, at a rate low enough to preserve a trained network.

    Example:
        >>> tuning().epochs
        2
    """
    return Training(epochs=2, lr=0.01, nesterov=True, weight_decay=1e-4, warmup=0.1)


def check_shrink(
    model: nn.Module, inputs: Any, search: WidthSearch | None, cutting: Cutting
) -> None:
    """Check before any work that a network can be searched and cut, without changing it.

    Args:
        model: The network.
        inputs: One example of its inputs.
        search: How channels are to be scored; None for no search.
        cutting: How it is to be cut; a budget of latency is not checked.

    Raises:
        RamifyError: It has no channels that can be scored this way, it is already within the
            budget, or all prunes together do not bring it within the budget.
    """
    graph = trace(model, inputs)
    if search is not None:
        check_search(graph, search)
    cutting.check(graph)


def _next(
    loop: Loop, graph: ChannelGraph, job: CutRounds, scores: Scores | None, limits: Event
) -> ChannelGraph:
    """The next step of the run: a cut, the rest of a fine-tuning, or the end."""
    journal = loop.journal
    first = all(event["event"] != "edit" for event in journal.history)
    if job.with_sensitivity and not journal.history:
        place: Event = {"round": 0, "step": 0, "passes": 0}
        journal.write("sensitivity", place | job.by_group(graph))
    elif first or (journal.round < loop.rounds and loop.through()):
        round_ = 0 if first else journal.round + 1
        graph, event = job.cut(loop, graph, scores, round_)
        distributed.check_ranks(graph.model)
        place = {"round": round_, "step": journal.step, "passes": 0}
        journal.write("edit", place | {"budget": limits["budget"]} | event)
    elif job.find_lr and not loop.through() and journal.history[-1]["event"] == "edit":
        journal.write("rate", {"round": journal.round, "step": journal.step} | job.rate(loop))
    elif not loop.through():
        loop.train_round(graph)
    else:
        # Recompute the norm statistics, then measure the network.
        if loop.training.epochs:
            recompute_statistics(graph.model, job.loss, Epoch(job.data, 0))
        measures = loop.measures(graph.model)
        loop.stop("rounds", limits | measures | costs(graph))
    return graph


def _samples(
    model: nn.Module,
    loss: Loss,
    data: Data,
    calibration: Iterable[Any] | None,
    held: Iterable[Any] | None,
) -> tuple[list[Any], list[Any] | None]:
    """The batches for choosing and refitting, and those for measuring (None if none are left)."""
    first = partial(first_batches, model, loss, iter(Epoch(data, 0)), SAMPLES)
    sample = first() if calibration is None else list(each_batch(calibration))
    return sample, (first() if held is None else list(each_batch(held))) or None


def _after(checkpoint: str | Path | None, search: WidthSearch | None) -> Path | None:
    """The checkpoint of the stages after a search, which has a separate one."""
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
    """The loss of the fine-tuning, checked on one batch without changing anything."""
    if teacher is None:
        return loss
    check_kind(teacher, "teacher", nn.Module, str)
    if teacher is model:
        raise RamifyError(
            "the teacher is the network that is to be cut: give a copy of it, as copy.deepcopy "
            'makes, or teacher="full", which copies it.'
        )
    if isinstance(teacher, str) and teacher != "full":
        raise RamifyError(f'teacher must be a network, "full" or None, but got {teacher!r}.')
    batch = next(iter(Epoch(data, 0)), None)
    if batch is None:
        raise RamifyError("the data gave no batch; give a list, a DataLoader or a function.")
    if isinstance(teacher, str):
        with untouched(model):
            if not takes_softmax(model, loss, batch):
                return loss
        teacher = teacher_of(model)
    taught = distilled(loss, teacher, temperature, weight=temperature**2)
    with untouched(model), evaluating(model):
        taught(model, batch)
    return taught
