"""What tables, figures and texts ask of the events of a run.

A *job* is the training of one network with one seed, an *arm* what all jobs of a kind have in
common, such as ``grown`` or ``seed``.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ramify.commands.grow_settings import CUT, size_of
from ramify.data import Metric

Event = Mapping[str, Any]

ARMS: dict[str, str] = {
    "seed": "The network the run began with, trained for just as many steps, never grown.",
    "grown": "Began as the seed network; the method split or pruned its channels as it trained.",
    "scratch": "The grown network's final shape with fresh weights, trained for as many steps.",
    "wide": "The seed network scaled by the same factor everywhere, to about the grown network's "
    "parameters, trained for as many steps.",
    "baseline": "The full network, as it was trained or given.",
    "scored": "The full network after the search in which its channels were scored.",
    "pruned": "The cut network after its tuning.",
    "retrained": "The final network of the run with fresh weights, trained by ramify retrain.",
}
"""The arms of a run in the order of the table, each explained in plain words."""

MAIN = ("grown", "pruned")
"""The arms that runs are about; they stand out."""


def explained(arm: str) -> str:
    """What an arm is, in plain words; nothing where it is not known."""
    size = size_of(arm)
    if size is None:
        return ARMS.get(arm, "")
    if arm.startswith(CUT):
        return (
            f"Cut to {size:,} parameters from the network of the size above, and tuned, distilled "
            "from the grown network."
        )
    return (
        f"The seed network scaled by the same factor everywhere, to {size:,} parameters, trained "
        "for as many steps as the grown network."
    )


def metric_of(events: Iterable[Event]) -> Metric:
    """What networks of a run are tested by: accuracy, where no event says otherwise."""
    return Metric.of(next((event for event in events if "metric" in event), {}))


def value_of(event: Event) -> Any:
    """How good a network was on the test samples; None where an event does not say so."""
    return event.get(f"test_{Metric.of(event).key}")


def unsized(events: Iterable[Event]) -> list[Event]:
    """The events of networks that are not of a size asked for beside that of the grown one."""
    return [event for event in events if size_of(str(event.get("arm", ""))) is None]


def of_kind(events: Iterable[Event], kind: str) -> list[Event]:
    """The events of one kind, in order."""
    return [event for event in events if event["event"] == kind]


def by_job(events: Iterable[Event]) -> dict[str, list[Event]]:
    """The events of each job, jobs in order of appearance."""
    jobs: dict[str, list[Event]] = {}
    for event in events:
        jobs.setdefault(event["job"], []).append(event)
    return jobs


def arms_of(events: Iterable[Event]) -> list[str]:
    """The arms that appear, in the order of the table."""
    seen = dict.fromkeys(event["arm"] for event in events if "arm" in event)
    return [arm for arm in ARMS if arm in seen] + [arm for arm in seen if arm not in ARMS]


def noun(edits: Iterable[Event]) -> str:
    """What to call an edit: a split or a prune where all are of one kind."""
    chosen = [p for edit in edits for p in edit["proposals"] if p["selected"]]
    pruned = {proposal["copies"] == 0 for proposal in chosen}
    return {(True,): "prune", (False,): "split"}.get(tuple(pruned), "edit" if pruned else "split")


def channels_changed(edits: Iterable[Event]) -> dict[str, int]:
    """How many channels were split and how many pruned, by these two words."""
    copies = [p["copies"] for edit in edits for p in edit["proposals"] if p["selected"]]
    return {"split": len(copies) - copies.count(0), "pruned": copies.count(0)}


def named_at_last(edits: Sequence[Event]) -> list[Event]:
    """Edits by the names that layers have after the last of them.

    Layers behind a block that was put in get other names, and those of a copy have the history of
    what they were copied from.

    Args:
        edits: The edits of one job, in order.

    Returns:
        The same with other names.
    """
    if not any("came_from" in edit for edit in edits):
        return list(edits)
    names = {name: name for name in edits[-1]["widths_after"]}  # at last -> at this time
    found = list[Event]()
    for edit in reversed(edits):
        after, origin = edit["widths_after"], edit["origin"]
        renamed = {
            "widths_after": {last: after[now] for last, now in names.items() if now in after}
        }
        renamed["origin"] = {last: origin[now] for last, now in names.items() if now in origin}
        came_from = edit.get("came_from", {})
        names = {last: came_from.get(now, now) for last, now in names.items()}
        before = edit["widths_before"]
        renamed["widths_before"] = {
            last: before[now] for last, now in names.items() if now in before
        }
        first: dict[str, str] = {}
        for last, now in names.items():
            first.setdefault(now, last)
        proposals = [p | {"group": first.get(p["group"], p["group"])} for p in edit["proposals"]]
        found.append({**edit, **renamed, "proposals": proposals})
    return found[::-1]


def measured_gain(edit: Event) -> float | None:
    """By how much an edit lowered the loss; None where prediction or measurement is missing."""
    if None in (edit["predicted_gain"], edit["loss_before"], edit["loss_after"]):
        return None
    return float(edit["loss_before"]) - float(edit["loss_after"])


def ranking_field(proposals: Sequence[Event]) -> str:
    """What to rank proposals by: index or score where the method gives one to each, else gain."""
    fields = ("index", "score")
    return next((f for f in fields if all(p[f] is not None for p in proposals)), "gain")
