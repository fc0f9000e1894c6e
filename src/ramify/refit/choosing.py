"""Choose the channels to remove: the least loss within a budget, with a floor for each group."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property, partial
from typing import TypeAlias

from ramify.arguments import texts_of
from ramify.cost import RESOURCES, CostModel
from ramify.edit import Prune
from ramify.errors import OutOfReach, RamifyError, in_digits
from ramify.latency import LatencyModel, learn, measure_edited
from ramify.methods import Proposal
from ramify.select import Knapsack, Rule
from ramify.select.rounding import Multiple, multiples
from ramify.tracing import ChannelGraph

EXACT = 100
"""The number of prunes up to which the best choice is proved: in under a second. Local search found
it for all networks tried, or one within 0.2 %, and a proof for 300 prunes took half a minute."""

STEPS = 5_000
"""The number of group pairs compared to improve the choice: about two seconds."""

ROUNDING = 1e-12
"""Times the loss at chance: the single-precision error of squares that should be 0."""

Floor: TypeAlias = float | int | Mapping[str, float | int]
"""The floor of every group: a share below 1, a width, or these by group."""


def floors(graph: ChannelGraph, keep: Floor) -> dict[str, int]:
    """The least width of each group.

    Args:
        graph: the traced model.
        keep: a share of the width, rounded up, a width, or one of these by group, by any name that
            `graph[...]` takes, or by a pattern of names; the floor of other groups is a tenth.

    Returns:
        Group name -> width.

    Raises:
        RamifyError: an invalid share or width.
    """
    if isinstance(keep, Mapping):
        asked = {
            group.name: least
            for name, least in keep.items()
            for group in graph.matching(name) or [graph[name]]
        }
        return {g.name: _floor(g.width, asked.get(g.name, 0.1)) for g in graph.groups}
    return {group.name: _floor(group.width, keep) for group in graph.groups}


def _floor(width: int, keep: float | int) -> int:
    if isinstance(keep, bool) or not (isinstance(keep, (int, float)) and keep > 0):
        raise RamifyError(
            f"keep must be a share below 1 or a whole width of at least 1, but got {keep!r}"
        )
    if isinstance(keep, int):
        return min(width, keep)
    if keep > 1:
        raise RamifyError(f"keep must be a share of at most 1 or a whole width, but got {keep}")
    return max(1, math.ceil(keep * width - 1e-9))


def matching(graph: ChannelGraph, patterns: Sequence[str]) -> list[str]:
    """The names of the groups that can be pruned and that match one of the patterns.

    Args:
        graph: the traced model.
        patterns: such as `"*.mlp.*"`, of names as `print(graph)` lists them.

    Returns:
        The names, in forward order.

    Raises:
        RamifyError: a pattern matches no group.
    """
    found = set[str]()
    for pattern in texts_of(patterns, "groups", "patterns of names of groups"):
        meant = {group.name for group in graph.matching(pattern) if group.can_prune}
        if not meant:
            raise RamifyError(
                f"no group that can be pruned matches '{pattern}': print(graph) and `ramify show` "
                "list their names"
            )
        found |= meant
    return [group.name for group in graph.groups if group.name in found]


def of_groups(
    graph: ChannelGraph, proposals: Sequence[Proposal], patterns: Sequence[str] | None
) -> list[Proposal]:
    """The proposals for groups that match one of the patterns; all of them without patterns."""
    if patterns is None:
        return list(proposals)
    names = matching(graph, [patterns] if isinstance(patterns, str) else patterns)
    return [proposal for proposal in proposals if graph[proposal.edit.group].name in names]


def comparable(proposals: Sequence[Proposal], raw: bool = False) -> list[Proposal]:
    """Prunes with values that are comparable between groups.

    A method that estimates the rise of the loss (Takeover, Taylor) gives it in units of the loss.
    Other scores (a norm of weights, a scale) have a different unit in each layer, and are divided
    by their mean in the group.

    Args:
        proposals: the proposals of a method.
        raw: leave scores as they are, as the thesis ranks them.

    Returns:
        The prunes among the proposals.
    """
    prunes = [p for p in proposals if isinstance(p.edit, Prune)]
    if raw or any(p.gain for p in prunes):
        return prunes
    sizes: dict[str, list[float]] = {}
    for proposal in prunes:
        sizes.setdefault(proposal.edit.group, []).append(abs(proposal.value))
    mean = {name: math.fsum(own) / len(own) or 1.0 for name, own in sizes.items()}
    return [replace(p, score=p.value / mean[p.edit.group]) for p in prunes]


def tells_apart(prunes: Sequence[Proposal], chance: float) -> bool:
    """Whether scores are larger than rounding error.

    Args:
        prunes: the prunes of a method; those with a score in other units are always accepted.
        chance: the loss of a model that ignores its input; infinity if unknown.

    Returns:
        False if a channel costs nothing on average.
    """
    if any(proposal.value for proposal in prunes) and not any(p.gain for p in prunes):
        return True
    if not prunes:
        return True
    mean = math.fsum(abs(proposal.value) for proposal in prunes) / len(prunes)
    return mean > (ROUNDING * chance if math.isfinite(chance) else 0)


def candidates(
    graph: ChannelGraph, proposals: Sequence[Proposal], least: Mapping[str, int]
) -> list[Proposal]:
    """The prunes that keep every group at or above its floor: the best ones of each group.

    Args:
        graph: the traced model.
        proposals: prunes with comparable values.
        least: the floor of each group.

    Returns:
        The prunes, least loss first.
    """
    gone: Counter[str] = Counter()
    out = []
    for proposal in sorted(proposals, key=lambda p: -p.value):
        name = graph[proposal.edit.group].name
        if gone[name] < graph[name].width - least[name]:
            gone[name] += 1
            out.append(proposal)
    return out


def allowed_by(
    rule: Rule, proposals: Sequence[Proposal], offered: Sequence[Proposal]
) -> list[Proposal]:
    """The candidates that a rule selects.

    The rule sees all prunes, so that a fraction is a fraction of all channels; prunes that a floor
    forbids come last in its order, and others take their place.

    Args:
        rule: the selection rule.
        proposals: all prunes, with comparable values.
        offered: the candidates among them.

    Returns:
        The selected candidates, least loss first.
    """
    free = {proposal.edit for proposal in offered}
    last = -sys.float_info.max
    ranked = [p if p.edit in free else replace(p, score=last) for p in proposals]
    selected = {proposal.edit for proposal in rule.select(ranked)}
    return [proposal for proposal in offered if proposal.edit in selected]


def choose_channels(
    graph: ChannelGraph,
    offered: Sequence[Proposal],
    pool: Sequence[Proposal],
    sizes: Mapping[str, float] | None,
    *,
    multiple_of: Multiple = 1,
    alike: Sequence[str] = (),
    timing: Timing | None = None,
) -> list[Proposal]:
    """The prunes that lose least and bring the model within its budgets.

    Args:
        graph: the traced model.
        offered: the candidates.
        pool: the candidates that a rule allows; tied groups may need others.
        sizes: the most that the model may have, by resource; latency in milliseconds. None: the
            whole pool is pruned.
        multiple_of: the number that changed widths become multiples of.
        alike: patterns of group names; the groups that match one pattern keep one width.
        timing: the latency of the model, for several choices; by default of this choice alone.

    Returns:
        The chosen prunes; none if the model is within its budgets.

    Raises:
        OutOfReach: the candidates are not sufficient.
    """
    sets = _sets(graph, alike)
    solve = partial(_solve, graph, sizes, multiple_of, timing or Timing(graph))
    if not sets:
        return solve(pool)
    widths = _mean_widths(graph, sets, solve(pool), multiple_of)
    tied = partial(_tied, graph, offered, pool, solve)
    while True:
        try:
            chosen = tied(widths)
            break
        except OutOfReach:
            if not _narrower(graph, sets, widths, offered, multiple_of):
                raise
    return chosen if sizes is None else _widened(graph, sets, widths, chosen, tied, multiple_of)


class Timing:
    """The latency of a traced model, measured and learned at most once for several choices.

    Args:
        graph: the traced model.
    """

    def __init__(self, graph: ChannelGraph) -> None:
        self._graph = graph

    @cached_property
    def milliseconds(self) -> float:
        """The present latency on the inputs of the trace."""
        return measure_edited(self._graph).median

    @cached_property
    def predicted(self) -> LatencyModel:
        """The latency at other widths."""
        return learn(self._graph)


def _solve(
    graph: ChannelGraph,
    sizes: Mapping[str, float] | None,
    multiple: Multiple,
    timing: Timing,
    offered: Sequence[Proposal],
) -> list[Proposal]:
    if sizes is None:
        return list(offered)
    now = CostModel(graph).cost()
    counted = {name: most - now.of(name) for name, most in sizes.items() if name in RESOURCES}
    timed = "latency" in sizes
    if timed:
        counted["latency"] = sizes["latency"] - timing.milliseconds
    if all(change >= 0 for change in counted.values()):
        return []
    check_reach(graph, offered, sizes)
    try:
        rule = Knapsack(
            **counted,
            multiple_of=multiple,
            exact_up_to=EXACT,
            steps=STEPS,
            milliseconds=timing.milliseconds if timed else None,
            predicted=timing.predicted if timed else None,
        )
        return rule.select(offered)
    except OutOfReach:
        if not timed:
            raise
        raise _too_slow(graph, offered, sizes["latency"], timing.milliseconds) from None


def _too_slow(
    graph: ChannelGraph, offered: Sequence[Proposal], most: float, now: float
) -> OutOfReach:
    """The message that no shape is within a latency budget, with the lowest latency found."""
    budget = f"the budget of latency is {in_digits(most)} ms"
    takes = f"the network takes {in_digits(now)} ms on the inputs of the trace"
    if not offered:
        return OutOfReach(
            f"{budget}, {takes}, and none of its channels can be removed: give a larger budget, or "
            "a smaller floor (keep); print(graph) gives the reason for each group"
        )
    least = measure_edited(graph, [proposal.edit for proposal in offered]).median
    still = "still takes" if least > most else "takes"
    return OutOfReach(
        f"{budget}, and no shape was found that meets it: {takes}, and with all removable channels "
        f"removed it {still} {in_digits(least)} ms here; give a larger budget, or a smaller floor "
        "(keep)"
    )


def check_reach(
    graph: ChannelGraph, offered: Sequence[Proposal], sizes: Mapping[str, float]
) -> None:
    """Check that a model can be brought within its budgets.

    Args:
        graph: the traced model.
        offered: all allowed prunes.
        sizes: the most that the model may have, by resource.

    Raises:
        OutOfReach: the model exceeds a budget even with all of them.
    """
    model = CostModel(graph)
    now, change = model.cost(), model.added([proposal.edit for proposal in offered])
    for name, most in sizes.items():
        if name in RESOURCES and not offered and now.of(name) > most:
            raise OutOfReach(
                f"the budget of {name} is {most:,.12g}, the network has {now.of(name):,}, and none "
                "of its channels can be removed: print(graph) gives the reason for each group"
            )
        if name in RESOURCES and (least := now.of(name) + change.of(name)) > most:
            raise OutOfReach(
                f"the budget of {name} is {most:,.12g}, and with all removable channels removed "
                f"the network still has {least:,}: give a larger budget, or a smaller floor (keep)"
                + (f"; a share of the network is given as '{100 * most:g}%'" if most < 1 else "")
            )


def _sets(graph: ChannelGraph, alike: Sequence[str]) -> list[list[str]]:
    """The names of the groups that each pattern ties together, grouped by current width."""
    found = []
    for pattern in texts_of(alike, "alike", "patterns of names of groups"):
        names = matching(graph, [pattern])
        widths = sorted({graph[name].width for name in names})
        found += [[name for name in names if graph[name].width == width] for width in widths]
    return [names for names in found if len(names) > 1]


def _mean_widths(
    graph: ChannelGraph,
    sets: Sequence[Sequence[str]],
    chosen: Sequence[Proposal],
    multiple_of: Multiple,
) -> dict[str, int]:
    """The width of each tied group: the mean of their selected widths, as a multiple."""
    gone = Counter(graph[proposal.edit.group].name for proposal in chosen)
    asked = multiples(graph, multiple_of)
    widths = {}
    for names in sets:
        step = asked.get(names[0], 1)
        mean = sum(graph[name].width - gone[name] for name in names) / len(names)
        width = max(step, round(mean / step) * step)
        widths.update({name: min(width, graph[name].width) for name in names})
    return widths


def _narrower(
    graph: ChannelGraph,
    sets: Sequence[Sequence[str]],
    widths: dict[str, int],
    offered: Sequence[Proposal],
    multiple_of: Multiple,
) -> bool:
    """Narrow every tied set by one step where possible; False if none can be narrowed."""
    most = Counter(graph[proposal.edit.group].name for proposal in offered)
    asked, moved = multiples(graph, multiple_of), False
    for names in sets:
        step = asked.get(names[0], 1)
        least = max(graph[name].width - most[name] for name in names)
        if widths[names[0]] - step >= max(least, 1):
            moved = True
            for name in names:
                widths[name] -= step
    return moved


def _widened(
    graph: ChannelGraph,
    sets: Sequence[Sequence[str]],
    widths: Mapping[str, int],
    chosen: list[Proposal],
    tied: Callable[[Mapping[str, int]], list[Proposal]],
    multiple_of: Multiple,
) -> list[Proposal]:
    """Widen tied groups again as far as the budgets allow, those with the largest loss first."""
    asked, now = multiples(graph, multiple_of), dict(widths)
    lost = lambda prunes: -math.fsum(proposal.value for proposal in prunes)  # noqa: E731
    by_group: dict[str, float] = {}
    for proposal in chosen:
        name = graph[proposal.edit.group].name
        by_group[name] = max(by_group.get(name, 0.0), -proposal.value)
    for names in sorted(sets, key=lambda names: -sum(by_group.get(name, 0.0) for name in names)):
        step, width = asked.get(names[0], 1), now[names[0]]
        more = (graph[names[0]].width - width) // step
        for times in (2**power for power in reversed(range(more.bit_length()))):
            wider = now | dict.fromkeys(names, now[names[0]] + times * step)
            if wider[names[0]] > graph[names[0]].width:
                continue
            with suppress(OutOfReach):  # this width is not within the budgets
                if lost(found := tied(wider)) < lost(chosen):
                    chosen, now = found, wider
    return chosen


def _tied(
    graph: ChannelGraph,
    offered: Sequence[Proposal],
    pool: Sequence[Proposal],
    solve: Callable[[Sequence[Proposal]], list[Proposal]],
    widths: Mapping[str, int],
) -> list[Proposal]:
    """The best choice in which some groups have given widths."""
    room = {name: graph[name].width - width for name, width in widths.items()}
    free = [proposal for proposal in pool if graph[proposal.edit.group].name not in room]
    fixed = []
    for proposal in offered:
        name = graph[proposal.edit.group].name
        if room.get(name):
            room[name] -= 1
            fixed.append(proposal)
    taken = [replace(proposal, score=1.0, gain=0.0) for proposal in fixed]  # they all pay
    chosen = solve([*taken, *free])
    edits = {proposal.edit for proposal in [*fixed, *chosen]}
    return [proposal for proposal in offered if proposal.edit in edits]
