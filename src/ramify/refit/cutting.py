"""Cut a trained network to a smaller one in one call, without training."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch.optim import Optimizer

from ramify.arguments import check_called, check_method_and_rule
from ramify.cost import Cost, CostModel
from ramify.edit import Drop, Edit
from ramify.edit.apply import apply, several_followers
from ramify.edit.carry import Follower
from ramify.edit.optimizers import several
from ramify.edit.plan import check_editable
from ramify.errors import RamifyError, in_digits
from ramify.latency import measure_edited
from ramify.methods import L1, Proposal, agree
from ramify.methods.proposal import Method, checked
from ramify.probe.loss import Loss, first_complex, mean_loss
from ramify.refit.at_chance import constant_loss
from ramify.refit.budget_shares import in_numbers
from ramify.refit.choosing import Floor, comparable, floors, matching, of_groups, tells_apart
from ramify.refit.cut_warnings import latency_warnings, nothing_cut, warnings_of
from ramify.refit.depth_choice import shortened_within
from ramify.refit.expected import expected_rise
from ramify.refit.outcome import (
    Accept,
    Outcome,
    all_or_nothing,
    put_state,
    samples,
)
from ramify.refit.selecting import Selecting, smallest
from ramify.refit.sequential import Refitted
from ramify.refit.takeover import Takeover, proposed
from ramify.select import Rule
from ramify.select.fit import BUDGETS
from ramify.select.rounding import Multiple, check_multiple
from ramify.tracing import ChannelGraph
from ramify.tracing.text_table import text_table

_SILENT = (
    "the loss does not change to first order with any channel, as when a network is compared with "
    "its own outputs, and says nothing of what each is worth"
)


@dataclass(frozen=True)
class CutReport:
    """The result of a cut.

    Attributes:
        before: the cost of the original model.
        after: the cost of the cut model.
        widths: group name -> (width before, width after), by the group names without the dropped
            blocks.
        proposals: all prunes that the method proposed, with values comparable between layers.
        edits: the prunes that were made, by these names.
        drops: the blocks that were dropped.
        latency: the milliseconds of the model before and after, as measured, if there is a latency
            budget.
        loss_before: the mean loss of the original model on the measuring samples.
        loss_after: the mean loss of the cut model on the same samples.
        predicted: the expected rise of the loss on unseen samples like those used to choose and
            refit (`expected.py`); nan if there is only one batch, infinity if it is not finite on
            half of the samples.
        held: whether the measuring samples were not used for choosing.
        refitted: the result for each reader, in forward order.
        warnings: the warnings for the user; those about the measured latency are only here.
    """

    before: Cost
    after: Cost
    widths: Mapping[str, tuple[int, int]]
    proposals: list[Proposal]
    edits: tuple[Edit, ...]
    loss_before: float
    loss_after: float
    predicted: float
    held: bool
    refitted: list[Refitted]
    warnings: tuple[str, ...]
    drops: tuple[Drop, ...] = ()
    latency: tuple[float, float] | None = None

    def __str__(self) -> str:
        """The cut channels, the cost, and the result for each group."""
        changed = {name: widths for name, widths in self.widths.items() if widths[0] != widths[1]}
        rows = [
            (name, str(old), str(new), f"{new / old:.0%}") for name, (old, new) in changed.items()
        ]
        expected = (
            "" if math.isnan(self.predicted) else f", where {self.predicted:+.4g} was expected"
        )
        timed = ""
        if self.latency is not None:
            timed = f", {in_digits(self.latency[0])} -> {in_digits(self.latency[1])} ms"
        return "\n".join(
            [
                f"{self.before.params:,} -> {self.after.params:,} parameters, "
                f"{self.before.macs:,} -> {self.after.macs:,} MACs{timed}",
                f"loss {self.loss_before:.4g} -> {self.loss_after:.4g}{expected}",
                *(f"dropped block '{drop.block}'" for drop in self.drops),
                *(text_table(("group", "was", "is", "kept"), rows, (None,) * 4) if rows else ()),
                *(f"warning: {sentence}" for sentence in self.warnings),
            ]
        )


def cut(  # noqa: PLR0913
    graph: ChannelGraph,
    loss: Loss,
    batches: Iterable[Any],
    *,
    budget: Mapping[str, float | str] | None = None,
    accept: Accept | None = None,
    rule: Rule | None = None,
    method: Method | None = None,
    refit: bool = True,
    keep: Floor = 0.1,
    multiple_of: Multiple = 1,
    alike: Sequence[str] = (),
    groups: Sequence[str] | None = None,
    raw: bool = False,
    balance: bool | None = None,
    depth: bool = False,
    held: Iterable[Any] | None = None,
    optimizer: Optimizer | Sequence[Optimizer] | None = None,
    followers: Follower | Iterable[Follower] = (),
    log: Callable[[CutReport], None] | None = None,
) -> ChannelGraph:
    r"""Choose channels, prune them, and refit the remaining weights; nothing is trained.

    The removed channels are those with the least total cost :math:`\sum_c \Delta L_c` that bring
    the model within its budget, where :math:`\Delta L_c` is the rise of the loss when c is removed
    *and its readers are refitted* (:class:`Takeover`). Then every linear reader gets the ridge
    solution

    .. math:: W' = \arg\min_W \mathbb{E}\lVert W\phi + b - y\rVert^2 + \lambda\lVert W - W_K\rVert^2

    in forward order, with y its output in the full network, φ its input in the cut one, and λ
    chosen for each reader by cross-validation. Batch norms get the statistics of their new inputs,
    and are adjusted so that each channel has the mean and deviation that it had in the full
    network.

    Args:
        graph: the traced model; it is cut in place.
        loss: `loss(model, batch)` -> (S,), one number per sample.
        batches: a few hundred samples to choose and refit on.
        budget: the most that the model may have, by `params`, `macs`, `flops`, `energy` or
            `latency` (milliseconds on the inputs of the trace), in numbers or as a share of the
            current cost (`"50%"`); and `loss`, the most that the mean loss may rise by: the model
            is then cut as far as that allows, by bisection over measured cuts.
        accept: `accept(model)`, whether a cut model is good enough, for example in accuracy: the
            model is then cut as far as that allows.
        rule: which channels may be removed, such as `TopFraction(0.4)` of all of them; without a
            budget, all that it selects are removed.
        method: the method that scores the channels; by default `Takeover()`.
        refit: whether to refit the remaining weights.
        keep: the floor of every group: a share of its width, a width, or one of these by group.
        multiple_of: the number that the width of each changed group becomes a multiple of.
        alike: patterns of group names (`"*.mlp.*"`); groups that match one pattern keep equal
            widths.
        groups: patterns of the names of the groups that may be cut; None for all.
        raw: whether to compare scores between layers unscaled, for methods whose scores have no
            unit.
        balance: whether to try other selections as well: more equal shares of all layers, and
            `Takeover`'s order of the channels in each; for `Takeover` itself, the order and shares
            of its other curvature, unless a loss is negative. The selection with the lowest loss on
            `batches` is kept; without a budget, of those that remove as many channels. By default,
            unless `raw` or with complex weights; for `Takeover`, only if its own selection raises
            the loss by more than 1 % of what the model has learned (the loss of one that ignores
            its input, if it is known, minus its own), or by more than a quarter of itself and more
            than four standard errors. With `accept` or a budget of the loss, no others are tried
            where the first selection is accepted.
        depth: whether whole blocks may be dropped too (`graph.blocks`). Each is tried alone, with a
            refit; then they are dropped one after the other, in order of the rise of the loss per
            cost saved. After each drop the model is refitted, its widths are cut to the budget and
            the loss is measured, and the number of drops with the lowest loss is kept. Needs a
            budget of size.
        held: separate samples to measure the loss on; by default it is measured on `batches`.
        optimizer: the optimizer (or several) whose state is edited too.
        followers: models or state dictionaries that get the same edit; they are not refitted.
        log: receives a :class:`CutReport`; its expected rise of the loss needs a refit on each half
            of the sample.

    Returns:
        The graph of the cut model; its `origin` tells which channels are left.

    Raises:
        RamifyError: no budget, or one that pruning cannot reach; the model is then unchanged.

    Warns:
        UserWarning: the loss has no gradient, and channels were chosen by `L1`; a layer keeps no
            more than a tenth of its channels, or one of three or more; the cut model is no better
            than one that ignores its input; or nothing is cut, since the model is within its
            latency budget.

    Example:
        >>> import ramify, torch
        >>> from torch import nn
        >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
        <torch...>
        >>> net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
        >>> x = torch.randn(256, 8)
        >>> y = net(x).argmax(1)
        >>> loss = lambda m, b: nn.functional.cross_entropy(m(b[0]), b[1], reduction="none")
        >>> graph = ramify.trace(net, x[:1])
        >>> graph = cut(graph, loss, [(x, y)], budget={"params": 250})
        >>> graph["0"].width, float((net(x).argmax(1) == y).float().mean()) > 0.8
        (18, True)

    Source: the score is optimal brain surgery with the curvature of K-FAC (`Takeover`); refitting
    the readers of pruned channels by least squares: Y. He, X. Zhang and J. Sun, "Channel pruning
    for accelerating very deep neural networks", 2017.
    """
    check_editable(graph)
    check_multiple(multiple_of)
    sizes, most = _checked(graph, budget, accept, (rule, method, log))
    if depth:
        _check_depth(budget, accept, keep)
    optimizers, following = several(optimizer), several_followers(followers)
    with all_or_nothing(graph, optimizers, following) as before_writing:
        sample, measured_on = samples(batches, held)
        constant = constant_loss(graph.model, loss, measured_on)

        def selecting_of(graph: ChannelGraph) -> tuple[Selecting, list[str]]:
            proposals, scorer = _scored(graph, method, constant, loss, sample, groups, raw)
            silent = method is None and isinstance(scorer, L1)
            alone = balance is None and (raw or first_complex(graph.model))
            said = [f"{_SILENT}: channels were chosen by L1()"] if silent else []
            return Selecting(
                graph=graph,
                loss=loss,
                sample=sample,
                measured_on=measured_on,
                proposals=proposals,
                least=floors(graph, keep),
                rule=rule,
                multiple_of=multiple_of,
                alike=alike,
                refit=refit,
                method=scorer,
                constant=constant,
                balance=False if alone else balance,
            ), said

        def cut_to_size(graph: ChannelGraph) -> tuple[float, _Cut]:
            selecting, said = selecting_of(graph)
            outcome = selecting.best(sizes)
            return outcome.sample_loss, _Cut(selecting, said, outcome)

        drops: Sequence[Drop] = ()
        milliseconds = None if log is None else _milliseconds(graph, sizes)
        lost, full_cost = 0.0, CostModel(graph).cost()
        if depth:
            start = mean_loss(graph.model, loss, measured_on)
            best = shortened_within(graph, loss, sample, sizes or {}, cut_to_size, refit=refit)
            drops, (selecting, said, outcome) = best.drops, best.cut
            if drops:
                before_writing()
                before = start if measured_on is sample else mean_loss(graph.model, loss, sample)
                put_state(graph.model, best.state)
                graph = apply(graph, drops, optimizer=optimizers, followers=following)
                lost = mean_loss(graph.model, loss, sample) - before
        elif accept is None and most == math.inf:
            _, (selecting, said, outcome) = cut_to_size(graph)
            start = outcome.start if held is None else mean_loss(graph.model, loss, measured_on)
        else:
            selecting, said = selecting_of(graph)
            start = mean_loss(graph.model, loss, measured_on)
            outcome = smallest(selecting, sizes, start + most, accept)
        expected = math.nan if log is None else lost + expected_rise(graph, outcome, loss, sample)
        shapes = _shapes(graph, outcome.edits)
        said += [
            *warnings_of(shapes, start, outcome.loss, constant, refit),
            *nothing_cut(sizes, bool(outcome.edits or drops)),
        ]
        _warn(said)  # before the edit, since a warning may be turned into an error
        if outcome.edits:
            before_writing()
            graph = apply(graph, outcome.edits, optimizer=optimizers, followers=following)
            outcome.put(graph.model)
    # The cut is complete at this point, whatever the log does.
    if log is not None:
        cost = CostModel(graph).cost()
        latency = _timed(graph, milliseconds, bool(outcome.edits or drops))
        log(
            CutReport(
                before=full_cost,
                after=cost,
                widths=shapes,
                proposals=list(selecting.proposals),
                edits=outcome.edits,
                loss_before=start,
                loss_after=outcome.loss,
                predicted=expected,
                held=held is not None,
                refitted=outcome.refitted,
                warnings=(*said, *latency_warnings(sizes, latency, full_cost, cost, depth=depth)),
                drops=tuple(drops),
                latency=latency,
            )
        )
    return graph


class _Cut(NamedTuple):
    """A selection, its warnings, and its outcome."""

    selecting: Selecting
    said: list[str]
    outcome: Outcome


def _scored(
    graph: ChannelGraph,
    method: Method | None,
    chance: float,
    loss: Loss,
    sample: Sequence[Any],
    groups: Sequence[str] | None,
    raw: bool,
) -> tuple[list[Proposal], Method]:
    """The prunes of a method, or of the default method that is informative for this loss.

    Returns:
        The prunes and the method.

    Raises:
        RamifyError: the requested method is not informative.
    """
    scorer = method or Takeover()
    proposals = _prunes(graph, scorer, loss, sample, groups, raw)
    if tells_apart(proposals, chance):
        return proposals, scorer
    if method is not None:
        raise RamifyError(f"{_SILENT}: take method=L1(), or another loss")
    return _prunes(graph, L1(), loss, sample, groups, raw), L1()


def _prunes(
    graph: ChannelGraph,
    method: Method,
    loss: Loss,
    sample: Sequence[Any],
    groups: Sequence[str] | None,
    raw: bool,
) -> list[Proposal]:
    """The prunes that a method proposes, with values comparable between layers.

    Returns:
        The prunes; none if no group can be pruned.

    Raises:
        RamifyError: the method proposes none although groups could be pruned.
    """
    if not any(group.can_prune for group in graph.groups):
        return []
    names = [group.name for group in graph.groups]
    if groups is not None:
        names = matching(graph, [groups] if isinstance(groups, str) else groups)
    proposals = agree(graph, checked(graph, method, proposed(method, graph, loss, sample, names)))
    prunes = comparable(of_groups(graph, proposals, groups), raw)
    if not prunes and proposals:
        raise RamifyError(
            f"{type(method).__name__} proposes no prunes for these groups, and a cut makes no "
            "other edits: take Takeover(), Taylor() or L1()"
        )
    if not prunes:
        raise RamifyError(
            f"{type(method).__name__} proposes nothing: the loss depends on no channel that could "
            "be pruned; it is made of what the model returns"
        )
    return prunes


def _shapes(graph: ChannelGraph, edits: Sequence[Edit]) -> dict[str, tuple[int, int]]:
    """The width of each group before and after the prunes."""
    gone = Counter(graph[edit.group].name for edit in edits)
    return {g.name: (g.width, g.width - gone[g.name]) for g in graph.groups}


def _warn(said: Sequence[str]) -> None:
    for sentence in said:
        warnings.warn(sentence, stacklevel=3)


def _milliseconds(graph: ChannelGraph, sizes: Mapping[str, float] | None) -> float | None:
    """The current latency of the model, if there is a latency budget."""
    return measure_edited(graph).median if "latency" in (sizes or {}) else None


def _timed(graph: ChannelGraph, before: float | None, cut: bool) -> tuple[float, float] | None:
    """The latency before and after the cut; a model that was not cut is not measured again."""
    if before is None:
        return None
    return before, measure_edited(graph).median if cut else before


def _checked(
    graph: ChannelGraph,
    budget: Mapping[str, float | str] | None,
    accept: Accept | None,
    called: tuple[Rule | None, Method | None, Callable[[CutReport], None] | None],
) -> tuple[dict[str, float] | None, float]:
    """The budgets of size and of the loss, after checking everything that is called later.

    Returns:
        Resource -> total, None if only the rule decides what is removed; and the most that the loss
        may rise by.

    Raises:
        RamifyError: an unknown budget name, a total that is not above 0, or no budget at all; or an
            argument is not a method, rule or function.
    """
    rule, method, log = called
    check_method_and_rule(method, rule)
    check_called(log, "log", "the report")
    names = (*BUDGETS, "loss")
    if not isinstance(budget, Mapping | None):
        raise RamifyError(
            f'a budget must be a dictionary such as {{"macs": 1e8}}, but got {budget!r}'
        )
    for name in budget or {}:
        if name not in names:
            raise RamifyError(f"a budget must be one of {', '.join(names)}, but got '{name}'")
    given_totals = in_numbers(graph, budget or {})
    for name, given in given_totals.items():
        total = _number(given)
        if not (math.isfinite(total) and (total > 0 or (name == "loss" and total == 0))):
            raise RamifyError(f"the budget of {name} must be finite and above 0, but got {given!r}")
    if accept is not None and not callable(accept):
        raise RamifyError(
            f"accept must be a function of the model that returns True or False, but got {accept!r}"
        )
    if not budget and accept is None:
        if rule is not None:
            return None, math.inf
        raise RamifyError(
            'cut takes a budget, say {"macs": 1e8}, or {"loss": 0.05} for the most that the loss '
            "may rise by, or accept=, which says whether a cut model is good enough, or rule=, "
            "which says which channels go"
        )
    totals = {name: float(total) for name, total in given_totals.items()}
    most = totals.pop("loss", math.inf)
    return totals, most


def _number(given: Any) -> float:
    """A number, or a tensor or an array with one number; nan for anything else."""
    try:
        return math.nan if isinstance(given, (str, bytes, bool)) else float(given)
    except (TypeError, ValueError, RuntimeError):
        return math.nan


def _check_depth(budget: Mapping[str, Any] | None, accept: Accept | None, keep: Floor) -> None:
    """Raise an error if blocks cannot be chosen together with channels."""
    if not set(budget or {}) - {"loss"} or accept is not None or "loss" in (budget or {}):
        raise RamifyError(
            "depth is chosen within a budget of size: give params, macs, flops, energy or latency, "
            "and no budget of the loss, nor accept="
        )
    if isinstance(keep, Mapping):
        raise RamifyError(
            "names of groups change as blocks go, so that keep= cannot go by name with depth=True: "
            "give one share or width for all"
        )
