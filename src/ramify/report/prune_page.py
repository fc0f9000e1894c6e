"""The contents of the page of a run of ``ramify prune``."""

from collections.abc import Sequence
from typing import Any

from ramify.report.cut_events import (
    by_seed,
    in_loss,
    layers_of,
    phases,
    refitted_layers,
    sensitivities,
)
from ramify.report.cut_figures import (
    layers_figure,
    phases_figure,
    refit_figure,
    sensitivity_figure,
)
from ramify.report.cut_words import (
    cut_tiles,
    distinct_warnings,
    layer_table,
    layers_sentence,
    outcome,
    outcome_table,
    refit_sentence,
)
from ramify.report.events import Event, metric_of, of_kind
from ramify.report.job_figures import channels_figure, proposals_figure, remaining_figure
from ramify.report.reader import RunRecord
from ramify.report.theme import picture

_WIDEST = 256  # channels that can be told apart side by side


def prune_context(record: RunRecord) -> dict[str, Any]:
    """The contents of the page of a run that cuts.

    Args:
        record: the contents of the run folder.

    Returns:
        Values by their names in the template.
    """
    seeds = by_seed(record.events)
    by_network = {seed: of_kind(events, "edit") for seed, events in seeds.items()}
    by_network = {seed: cuts for seed, cuts in by_network.items() if cuts}
    fresh = bool(record.config.get("from_scratch"))
    tuning_lr = None if fresh else record.config.get("tuning_lr")
    course, remaining = None, None
    if phases(seeds)[0]:
        label = f"Test {metric_of(record.events).words} and size over the phases of the run"
        course = picture(phases_figure(record.events), label)
    if len(by_network) > 1:
        label = "Share of its channels that each layer kept"
        whole = [_together(cuts) for cuts in by_network.values()]
        remaining = picture(remaining_figure(whole), label)
    every = [cut for cuts in by_network.values() for cut in cuts]
    return {
        "tiles": cut_tiles(seeds, fresh),
        "warnings": distinct_warnings(seeds, tuning_lr),
        "fresh": fresh,
        "course": course,
        "floors": any("floors" in cut for cut in every),
        "in_loss": in_loss(every),
        "several_cuts": len(every) > len(by_network),
        "outcome": outcome(every),
        "outcome_table": outcome_table(seeds, tuning_lr),
        "found": bool(of_kind(record.events, "rate")),
        "remaining": remaining,
        "networks": [_network(cuts) for cuts in by_network.values()],
        "sensitivities": _sensitivities(seeds, record.events),
    }


def _together(cuts: Sequence[Event]) -> Event:
    """The cuts of one network, combined into one."""
    return {**cuts[0], "widths_after": cuts[-1]["widths_after"]}


def _network(cuts: Sequence[Event]) -> dict[str, Any]:
    """The effect of one network's cuts: sentences, figures and a table."""
    job, layers = cuts[0]["job"], layers_of(cuts)
    refit, channels, proposals = None, None, None
    if any(refitted_layers(cut) for cut in cuts):
        refit = picture(
            refit_figure(cuts), f"Error of each layer before and after the refit, {job}"
        )
    kept = picture(layers_figure(cuts), f"What each layer kept and why, {job}") if layers else None
    if any(cut["proposals"] for cut in cuts):
        if max(cuts[0]["widths_before"].values()) <= _WIDEST:
            channels = picture(channels_figure(cuts), f"Channels before each cut, {job}")
        proposals = picture(proposals_figure(cuts), f"Channels by cost, {job}")
    return {
        "job": job,
        "sentence": layers_sentence(cuts, layers),
        "layers": kept,
        "layer_table": layer_table(layers),
        "refit_sentence": refit_sentence(cuts),
        "refit": refit,
        "channels": channels,
        "proposals": proposals,
    }


def _sensitivities(seeds: dict[int, list[Event]], events: Sequence[Event]) -> list[dict[str, Any]]:
    """A figure for each network whose sensitivity was measured."""
    found = []
    for event in sensitivities(events):
        number = str(event["job"]).rpartition("-")[2]
        own = seeds.get(int(number), []) if number.isdecimal() else []
        cuts = of_kind(own, "edit")
        figure = sensitivity_figure(event, layers_of(cuts) if cuts else ())
        label = f"Loss against the share of one layer that is removed, {event['job']}"
        found.append({"job": event["job"], "figure": picture(figure, label)})
    return found
