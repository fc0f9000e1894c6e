"""Sensitivity: the measured rise of the loss when one group alone is cut."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ramify.arguments import check_method_and_rule, texts_of
from ramify.cost import Cost, CostModel
from ramify.edit.plan import check_current
from ramify.errors import RamifyError
from ramify.imports import require
from ramify.methods import Proposal, Taylor, agree
from ramify.methods.proposal import Method
from ramify.probe.loss import Loss, mean_loss
from ramify.refit.choosing import candidates, comparable
from ramify.refit.outcome import outcome_of, samples
from ramify.refit.takeover import Takeover, proposed
from ramify.refit.trials import losses_of_cuts
from ramify.tracing import ChannelGraph
from ramify.tracing.untouched import untouched

SHARES = (0.125, 0.25, 0.5, 0.75, 0.9)
"""The shares of a group that are cut by default."""


@dataclass(frozen=True)
class SensitivityRow:
    """The result of one tried cut.

    Attributes:
        group: the name of the group, the only one cut.
        share: the share of its channels that was removed.
        width: its remaining width.
        loss: the mean loss.
        rise: the rise of the mean loss over that of the full model.
        saved: the cost that the cut saves.

    Example:
        >>> row = SensitivityRow("conv1", 0.5, 8, loss=0.75, rise=0.25, saved=Cost(100, 2000))
        >>> row.loss - row.rise  # the loss of the full model
        0.5
    """

    group: str
    share: float
    width: int
    loss: float
    rise: float
    saved: Cost


@dataclass(frozen=True)
class Sensitivity:
    """The loss as a function of the share cut, for each group.

    Attributes:
        loss: the mean loss of the full model.
        cost: the cost of the full model.
        widths: group -> its width in the full model, for the groups that were tried, in forward
            order.
        rows: the trials of each group in turn, smallest share first.

    Example:
        >>> row = SensitivityRow("conv1", 0.5, 8, loss=0.75, rise=0.25, saved=Cost(100, 2000))
        >>> report = Sensitivity(0.5, Cost(400, 10000), {"conv1": 16}, [row])
        >>> print(report)
        The mean loss is 0.5, and rises by this if a share of one group alone is removed:
        group  width   50 %
        conv1     16  +0.25
        >>> report.plan(most_rise=0.1), report.plan(most_rise=0.3)
        ({'conv1': 16}, {'conv1': 8})
    """

    loss: float
    cost: Cost
    widths: Mapping[str, int]
    rows: Sequence[SensitivityRow]

    def plan(self, most_rise: float) -> dict[str, int]:
        """The narrowest width for each group alone: floors that `cut(keep=...)` takes.

        Args:
            most_rise: the largest rise of the mean loss allowed when one group alone is cut.

        Returns:
            Group -> the narrowest tried width at which, and at every larger one, the loss rises by
            no more; its full width if there is none.
        """
        found = {}
        for name, width in self.widths.items():
            own = sorted((row for row in self.rows if row.group == name), key=lambda r: -r.width)
            good = itertools.takewhile(lambda row: row.rise <= most_rise, own)
            found[name] = min((row.width for row in good), default=width)
        return found

    def __str__(self) -> str:
        """A table with one row per group, one column per share, and the rise of the mean loss."""
        shares, rises = self._cells()
        lines = [["group", "width", *(f"{100 * share:.3g} %" for share in shares)]]
        for name, width in self.widths.items():
            cells = [rises.get((name, share)) for share in shares]
            lines.append(
                [name, str(width), *("" if rise is None else f"{rise:+.3g}" for rise in cells)]
            )
        sizes = [max(map(len, column)) for column in zip(*lines, strict=True)]
        said = (
            f"The mean loss is {self.loss:.4g}, and rises by this if a share of one group alone is "
            "removed:"
        )
        table = [
            "  ".join([line[0].ljust(sizes[0]), *map(str.rjust, line[1:], sizes[1:])]).rstrip()
            for line in lines
        ]
        return "\n".join([said, *table])

    def _cells(self) -> tuple[list[float], dict[tuple[str, float], float]]:
        """The shares in order, and the rise of each group at each."""
        rises = {(row.group, row.share): row.rise for row in self.rows}
        return sorted({share for _, share in rises}), rises

    def figure(self) -> Any:
        """The table as a heat map: a row per group, a column per share, darker for a larger rise.

        Returns:
            A `matplotlib.figure.Figure`.

        Raises:
            RamifyError: matplotlib is not installed.
        """
        require("matplotlib", "cli", "a figure is drawn by")
        from matplotlib.colors import LogNorm
        from matplotlib.figure import Figure

        shares, rises = self._cells()
        least = max(1e-4, 1e-3 * abs(self.loss))
        names = list(self.widths)
        grid = [[max(rises.get((n, s), math.nan), least) for s in shares] for n in names]
        most = max((rise for rise in rises.values() if math.isfinite(rise)), default=1.0)
        size = 3.5 + 0.8 * len(shares), 1.2 + 0.24 * len(names)
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        norm = LogNorm(least, max(most, 10 * least), clip=True)
        drawn = axes.imshow(grid, cmap="viridis_r", norm=norm, aspect="auto")
        axes.set_yticks(range(len(names)), [f"{n} ({w})" for n, w in self.widths.items()])
        axes.set_xticks(range(len(shares)), [f"{100 * share:.3g} %" for share in shares])
        axes.set_xlabel("share removed")
        figure.colorbar(drawn, label="rise of the mean loss")
        return figure


def sensitivity(
    graph: ChannelGraph,
    loss: Loss,
    batches: Iterable[Any],
    *,
    method: Method | None = None,
    shares: Iterable[float] = SHARES,
    groups: Iterable[str] | None = None,
    refit: bool = False,
    held: Iterable[Any] | None = None,
) -> Sensitivity:
    """Measure, for every group, the rise of the loss when a share of that group alone is cut.

    Each cut is made on the model itself, measured and undone; nothing is copied, and model and
    optimizers are left unchanged. Without a refit, the part of the network before a cut is run once
    for all trials, except on the first batch: several batches are faster than one.

    Args:
        graph: the traced model.
        loss: `loss(model, batch)` -> (S,), one number per sample.
        batches: the samples to choose the channels on, and to refit on.
        method: the method that ranks the channels of a group; by default `Taylor()` without refit
            and `Takeover()` with refit.
        shares: the shares to remove, above 0 and below 1; at least one channel of each group is
            kept.
        groups: the groups to try, by any name that `graph[...]` takes; by default all that can be
            pruned.
        refit: whether to refit the remaining weights in each trial, as `cut` does. This takes two
            passes and all least-squares solutions of the network per trial.
        held: the samples to measure on; by default `batches`.

    Returns:
        The report: `print` it, draw its `figure()`, or pass its `plan(most_rise)` to
        `cut(keep=...)`.

    Raises:
        RamifyError: no batch, no share, or a group that cannot be pruned; the model is unchanged.

    Example:
        >>> import ramify, torch
        >>> from torch import nn
        >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
        <torch...>
        >>> net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> x = torch.randn(64, 8)
        >>> y = net(x).argmax(1)
        >>> loss = lambda m, b: nn.functional.cross_entropy(m(b[0]), b[1], reduction="none")
        >>> report = sensitivity(ramify.trace(net, x[:1]), loss, [(x, y)], shares=(0.25, 0.75))
        >>> [(row.group, row.width, row.rise > 0) for row in report.rows]
        [('0', 12, True), ('0', 4, True)]
    """
    check_current(graph)
    check_method_and_rule(method, None)
    sample, measured_on = samples(batches, held)
    names, ordered_shares = _names(graph, groups), _checked(shares)
    scorer = method or (Takeover() if refit else Taylor())
    proposals = comparable(agree(graph, proposed(scorer, graph, loss, sample, names)), raw=True)
    ordered: dict[str, list[Proposal]] = {name: [] for name in names}
    for proposal in candidates(graph, proposals, {group.name: 1 for group in graph.groups}):
        ordered.get(graph[proposal.edit.group].name, []).append(proposal)
    wanted = [
        (name, share, min(round(share * graph[name].width), len(own)))
        for name, own in ordered.items()
        for share in ordered_shares
    ]
    wanted = [each for each in wanted if each[2]]
    cuts = {(n, gone): [p.edit for p in ordered[n][:gone]] for n, _, gone in wanted}
    # A model may count or observe its own runs, in eval mode too.
    with untouched(graph.model):
        start = mean_loss(graph.model, loss, measured_on)
        if refit:
            tried = (outcome_of(graph, edits, loss, sample, measured_on) for edits in cuts.values())
            losses = [outcome.loss for outcome in tried]
        else:
            losses = losses_of_cuts(graph, list(cuts.values()), loss, measured_on)
    after = dict(zip(cuts, losses, strict=True))
    prices = CostModel(graph)
    rows = [
        SensitivityRow(
            group=name,
            share=share,
            width=graph[name].width - gone,
            loss=after[name, gone],
            rise=after[name, gone] - start,
            saved=Cost(0, 0) - prices.added(cuts[name, gone]),
        )
        for name, share, gone in wanted
    ]
    widths = {name: graph[name].width for name in names}
    return Sensitivity(start, prices.cost(), widths, rows)


def _names(graph: ChannelGraph, groups: Iterable[str] | None) -> list[str]:
    """The groups to try, in forward order.

    Returns:
        Their names.

    Raises:
        RamifyError: one of them cannot be pruned.
    """
    if groups is None:
        return [group.name for group in graph.groups if group.can_prune]
    asked = {graph[name].name for name in texts_of(groups, "groups", "names of groups")}
    for name in asked:
        if not graph[name].can_prune:
            raise RamifyError(
                f"'{name}' cannot be pruned, so no cut of it can be tried: {graph[name].why}"
            )
    return [group.name for group in graph.groups if group.name in asked]


def _checked(shares: Iterable[float]) -> list[float]:
    """The shares in order.

    Returns:
        Each share once, smallest first.

    Raises:
        RamifyError: there is none, or one is not between 0 and 1.
    """
    try:
        given = {float(share) for share in shares}
    except (TypeError, ValueError):
        raise RamifyError(f"shares must be above 0 and below 1, but got {shares!r}") from None
    wrong = sorted(share for share in given if not 0 < share < 1)
    if wrong or not given:
        raise RamifyError(f"shares must be above 0 and below 1, but got {wrong or 'none'}")
    return sorted(given)
