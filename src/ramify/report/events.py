"""Queries on the events of a run, for tables, figures and texts.

A *job* is the training of one network with one seed; an *arm* is the name that all jobs of one kind
share, such as ``grown`` or ``seed``.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ramify.commands.grow_settings import CUT, size_of
from ramify.data import Metric

Event = Mapping[str, Any]

ARMS: dict[str, str] = {
    "seed": "The initial network of the run, trained for as many steps without growing.",
    "grown": "Started as the seed network; the method split or pruned channels during training.",
    "scratch": "The grown network's final shape, trained from scratch for as many steps.",
    "wide": "The seed network scaled by the same factor everywhere, to about the grown network's "
    "parameters, trained for as many steps.",
    "baseline": "The full network, as trained or given.",
    "scored": "The full network after the search that scored its channels.",
    "pruned": "The cut network after fine-tuning.",
    "retrained": "The final shape of the run, trained from scratch by ramify retrain.",
}
"""The arms of a run in the order of the table, each explained in plain words."""

MAIN = ("grown", "pruned")
"""The main arms of runs, which are highlighted."""


def explained(arm: str) -> str:
    """An explanation of an arm in plain words; empty if it is not known."""
    size = size_of(arm)
    if size is None:
        return ARMS.get(arm, "")
    if arm.startswith(CUT):
        return (
            f"Cut to {size:,} parameters from the next larger network and fine-tuned with "
            "distillation from the grown network."
        )
    return (
        f"The seed network scaled by the same factor everywhere, to {size:,} parameters, trained "
        "for as many steps as the grown network."
    )


def metric_of(events: Iterable[Event]) -> Metric:
    """The metric of a run's networks: accuracy, unless an event names another."""
    return Metric.of(next((event for event in events if "metric" in event), {}))


def value_of(event: Event) -> Any:
    """The metric of a network on the test samples; None if the event has none."""
    return event.get(f"test_{Metric.of(event).key}")


def unsized(events: Iterable[Event]) -> list[Event]:
    """The events, without those of networks that were cut to one of the requested sizes."""
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
    """The word for an edit: split or prune if all are of one kind."""
    chosen = [p for edit in edits for p in edit["proposals"] if p["selected"]]
    pruned = {proposal["copies"] == 0 for proposal in chosen}
    return {(True,): "prune", (False,): "split"}.get(tuple(pruned), "edit" if pruned else "split")


def channels_changed(edits: Iterable[Event]) -> dict[str, int]:
    """How many channels were split and how many pruned, with these two words as keys."""
    copies = [p["copies"] for edit in edits for p in edit["proposals"] if p["selected"]]
    return {"split": len(copies) - copies.count(0), "pruned": copies.count(0)}


def named_at_last(edits: Sequence[Event]) -> list[Event]:
    """Edits with layers renamed to their names after the last edit.

    Layers after an inserted block get new names, and layers of a copied block share the history of
    the layers that they were copied from.

    Args:
        edits: The edits of one job, in order.

    Returns:
        The same edits with the new names.
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
    """How much an edit lowered the loss; None if prediction or measurement is missing."""
    if None in (edit["predicted_gain"], edit["loss_before"], edit["loss_after"]):
        return None
    return float(edit["loss_before"]) - float(edit["loss_after"])


def ranking_field(proposals: Sequence[Event]) -> str:
    """The field that ranks proposals: index or score if each has one, otherwise gain."""
    fields = ("index", "score")
    return next((f for f in fields if all(p[f] is not None for p in proposals)), "gain")
