"""The phases, cuts and layers of a run of ``ramify prune``, read from its events.

The jobs of a seed follow one another: the full network, the search if there is one, and the cut and
fine-tuned network. In folders of earlier versions the cut is at the end of the search.
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
"""A layer whose output error is no larger than this was not affected by the cut."""


@dataclass(frozen=True)
class Phase:
    """A stretch of a run.

    Attributes:
        name: its name on the page.
        start: its first step, counted from the beginning of the run.
        end: its last step.
    """

    name: str
    start: int
    end: int


@dataclass(frozen=True)
class Layer:
    """The effect of a network's cuts on one layer.

    Attributes:
        group: the name of its group.
        before: its channels before the first cut.
        after: its channels after the last cut.
        floor: the fewest channels allowed; None if the run does not record it.
        taken: the highest cost of a channel that the last cut removed; None if it removed none.
        left: the lowest cost of a channel that it could have removed and kept; None without any.
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
        name: the name of the layer.
        strength: λ of the ridge regression.
        before: its output error after the cut, as a share of the variance of the original output.
        after: the same after the refit.
    """

    name: str
    strength: float
    before: float
    after: float


def by_seed(events: Sequence[Event]) -> dict[int, list[Event]]:
    """The events of the phases of each seed, seeds in order of appearance."""
    seeds: dict[int, list[Event]] = {}
    for event in events:
        # An edit in the oldest folders has only the name of its job.
        arm, _, number = str(event["job"]).rpartition("-")
        if arm in PHASES and number.isdecimal():
            seeds.setdefault(int(number), []).append(event)
    return seeds


def arm_of(event: Event) -> str:
    """The phase that an event belongs to."""
    return str(event["job"]).rpartition("-")[0]


def offsets(seeds: Mapping[int, Sequence[Event]]) -> dict[str, int]:
    """The first step of each phase, which follows the longest job of the phase before.

    Args:
        seeds: from `by_seed`.

    Returns:
        The first step of each of `PHASES`, and the end of the run under ``""``.
    """
    found, start = dict[str, int](), 0
    for arm in PHASES:
        found[arm] = start
        own = [event for events in seeds.values() for event in events if arm_of(event) == arm]
        start += max((int(event.get("step", 0)) for event in own), default=0)
    return found | {"": start}


def phases(seeds: Mapping[int, Sequence[Event]]) -> tuple[list[Phase], list[int]]:
    """The consecutive phases of a run, and the steps of its cuts.

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
    # The cuts divide the fine-tuning; the first one may be at the end of the search.
    within = [mark for mark in marks if mark > starts["pruned"]]
    edges = [starts["pruned"], *within, starts[""]]
    for number, (start, end) in enumerate(itertools.pairwise(edges), start=1):
        found.append(Phase(f"fine-tuning {number}" if within else "fine-tuning", start, end))
    return [phase for phase in found if phase.end > phase.start], marks


def curve(events: Sequence[Event], starts: Mapping[str, int]) -> list[tuple[int, float]]:
    """The metric of one seed along the run; a cut gives two points at the same step.

    Args:
        events: the events of the seed.
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
        # The result of a phase repeats its last epoch, unless norm statistics were recomputed.
        if kind == "result" and arm in trained and arm != PHASES[-1]:
            names = []
        trained |= {arm} if kind == "epoch" else set()
        place = starts[arm] + int(event.get("step", event.get("steps", 0)))
        points += [(place, event[name]) for name in names if event.get(name) is not None]
    return points


def sizes(events: Sequence[Event], starts: Mapping[str, int], unit: str) -> list[tuple[int, float]]:
    """Parameters or MACs of one seed along the run, as shares of those of the full network.

    Args:
        events: the events of the seed.
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
    """Whether the cost of channels is a rise of the loss, and not a score in another unit."""
    return any(proposal["gain"] for cut in cuts for proposal in cut["proposals"])


def cost_of(proposal: Event) -> float:
    """The cost of removing a channel; the cheapest are removed first."""
    value = proposal["score"] if proposal["score"] is not None else proposal["gain"]
    return math.nan if value is None else -float(value)


def layers_of(cuts: Sequence[Event]) -> list[Layer]:
    """The effect of a network's cuts on each layer that could be cut.

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
    """The layers that a cut affected and a refit could change, in forward order."""
    found = []
    for one in cut.get("refitted", []):
        strength, before = one["strength"], one["before"]
        if strength is not None and math.isfinite(strength) and before > NOTHING_LOST:
            name = str(one["name"]).removesuffix(".weight")
            found.append(RefittedLayer(name, strength, before, one["after"]))
    return found


def sensitivities(events: Sequence[Event]) -> list[Event]:
    """The recorded sensitivities (loss against the share cut, by group), one for each network."""
    found: dict[Any, Event] = {}
    for event in of_kind(events, "sensitivity"):
        if event["groups"]:
            found.setdefault(event["job"], event)
    return list(found.values())
