"""What a run of ``ramify prune`` did, read from its events: phases, cuts, and layers.

The jobs of a seed follow each other: the full network, a search where there is one, and what was
cut and tuned. In folders of earlier versions the cut stands at the end of the search.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ramify.data import Metric
from ramify.report.events import Event, of_kind

PHASES = ("baseline", "scored", "pruned")
"""The jobs of a seed, in order."""

NOTHING_LOST = 1e-12
"""A layer that misses no more of what it should make was not touched by the cut."""


@dataclass(frozen=True)
class Phase:
    """A stretch of a run.

    Attributes:
        name: what the page calls it.
        start: where it begins, in steps from the beginning of the run.
        end: where it ends.
    """

    name: str
    start: int
    end: int


@dataclass(frozen=True)
class Layer:
    """What the cuts of one network did to one layer.

    Attributes:
        group: its name.
        before: its channels before the first cut.
        after: its channels after the last.
        floor: the least that it might have; None where the run does not say.
        taken: the cost of the dearest channel that the last cut took; None where it took none.
        left: the cost of the cheapest channel that it left; None where nothing else could go.
    """

    group: str
    before: int
    after: int
    floor: int | None
    taken: float | None
    left: float | None


@dataclass(frozen=True)
class RefittedLayer:
    """A layer that was refitted.

    Attributes:
        name: of the layer.
        strength: λ of the ridge.
        before: the share of the variance of what it should make that it missed after the cut.
        after: the same when it was refitted.
    """

    name: str
    strength: float
    before: float
    after: float


def by_seed(events: Sequence[Event]) -> dict[int, list[Event]]:
    """The events of the phases of each seed, seeds in order of appearance."""
    seeds: dict[int, list[Event]] = {}
    for event in events:
        # An edit of the oldest folders has the name of its job alone.
        arm, _, number = str(event["job"]).rpartition("-")
        if arm in PHASES and number.isdecimal():
            seeds.setdefault(int(number), []).append(event)
    return seeds


def arm_of(event: Event) -> str:
    """The phase that an event belongs to."""
    return str(event["job"]).rpartition("-")[0]


def offsets(seeds: Mapping[int, Sequence[Event]]) -> dict[str, int]:
    """Where each phase begins, in steps from the beginning: behind the longest of the one before.

    Args:
        seeds: from `by_seed`.

    Returns:
        The first step of each of `PHASES`, and under ``""`` the end of the run.
    """
    found, start = dict[str, int](), 0
    for arm in PHASES:
        found[arm] = start
        own = [event for events in seeds.values() for event in events if arm_of(event) == arm]
        start += max((int(event.get("step", 0)) for event in own), default=0)
    return found | {"": start}


def phases(seeds: Mapping[int, Sequence[Event]]) -> tuple[list[Phase], list[int]]:
    """The phases of a run end to end, and where its cuts are.

    Args:
        seeds: from `by_seed`.

    Returns:
        The phases that take any steps, and the steps of the cuts of the first seed.
    """
    starts = offsets(seeds)
    first = next(iter(seeds.values()), [])
    marks = [starts[arm_of(cut)] + cut["step"] for cut in of_kind(first, "edit")]
    names = {"baseline": "full network", "scored": "search"}
    found = [
        Phase(name, starts[arm], starts[following])
        for (arm, name), following in zip(names.items(), PHASES[1:], strict=True)
    ]
    # The tuning is parted by the cuts, of which the first may stand where the search ends.
    within = [mark for mark in marks if mark > starts["pruned"]]
    edges = [starts["pruned"], *within, starts[""]]
    for number, (start, end) in enumerate(itertools.pairwise(edges), start=1):
        found.append(Phase(f"tuning {number}" if within else "tuning", start, end))
    return [phase for phase in found if phase.end > phase.start], marks


def curve(events: Sequence[Event], starts: Mapping[str, int]) -> list[tuple[int, float]]:
    """The metric of one seed along the run; a cut is two points at the same step.

    Args:
        events: of the seed.
        starts: from `offsets`.

    Returns:
        Steps from the beginning of the run, and the value there.
    """
    points, trained = list[tuple[int, float]](), set[str]()
    for event in events:
        arm, kind = arm_of(event), event["event"]
        name = f"test_{Metric.of(event).key}"
        names = [name] if kind in ("epoch", "result") else []
        names = [f"{name}_before", f"{name}_after"] if kind == "edit" else names
        # The result of a phase repeats its last epoch; but norms have other statistics in the end.
        if kind == "result" and arm in trained and arm != PHASES[-1]:
            names = []
        trained |= {arm} if kind == "epoch" else set()
        place = starts[arm] + int(event.get("step", event.get("steps", 0)))
        points += [(place, event[name]) for name in names if event.get(name) is not None]
    return points


def sizes(events: Sequence[Event], starts: Mapping[str, int], unit: str) -> list[tuple[int, float]]:
    """Parameters or MACs of one seed along the run, as shares of the full network's.

    Args:
        events: of the seed.
        starts: from `offsets`.
        unit: ``"params"`` or ``"macs"``.

    Returns:
        Steps from the beginning of the run, and the share from there on.
    """
    cuts = [cut for cut in of_kind(events, "edit") if cut.get(f"{unit}_before")]
    if not cuts:
        return []
    full = cuts[0][f"{unit}_before"]
    falls = [(starts[arm_of(cut)] + cut["step"], cut[f"{unit}_after"] / full) for cut in cuts]
    return [(0, 1.0), *falls, (starts[""], falls[-1][1])]


def in_loss(cuts: Sequence[Event]) -> bool:
    """Whether what the channels cost is a rise of the loss, and not a score of another unit."""
    return any(proposal["gain"] for cut in cuts for proposal in cut["proposals"])


def cost_of(proposal: Event) -> float:
    """What a channel costs that goes: the cheapest go first."""
    value = proposal["score"] if proposal["score"] is not None else proposal["gain"]
    return math.nan if value is None else -float(value)


def layers_of(cuts: Sequence[Event]) -> list[Layer]:
    """What the cuts of one network did to each layer that channels could leave.

    Args:
        cuts: the edits of the network, in order; at least one.

    Returns:
        The layers in forward order. Costs are those of the last cut.
    """
    first, last = cuts[0], cuts[-1]
    offered = {proposal["group"] for cut in cuts for proposal in cut["proposals"]}
    costs: dict[tuple[str, bool], list[float]] = {}
    for proposal in last["proposals"]:
        if math.isfinite(cost := cost_of(proposal)):
            costs.setdefault((proposal["group"], proposal["selected"]), []).append(cost)
    return [
        Layer(
            group,
            before,
            last["widths_after"].get(group, before),
            last.get("floors", {}).get(group),
            max(costs.get((group, True), []), default=None),
            min(costs.get((group, False), []), default=None),
        )
        for group, before in first["widths_before"].items()
        if group in offered
    ]


def refitted_layers(cut: Event) -> list[RefittedLayer]:
    """The layers that a cut touched and a refit could change, in forward order."""
    found = []
    for one in cut.get("refitted", []):
        strength, before = one["strength"], one["before"]
        if strength is not None and math.isfinite(strength) and before > NOTHING_LOST:
            name = str(one["name"]).removesuffix(".weight")
            found.append(RefittedLayer(name, strength, before, one["after"]))
    return found


def sensitivities(events: Sequence[Event]) -> list[Event]:
    """The loss against the share cut, group by group, where the run says it; once a network."""
    found: dict[Any, Event] = {}
    for event in of_kind(events, "sensitivity"):
        if event["groups"]:
            found.setdefault(event["job"], event)
    return list(found.values())
