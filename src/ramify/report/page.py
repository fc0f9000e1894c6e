"""One self-contained page about a run: numbers, tables, figures, settings."""

from collections.abc import Sequence
from typing import Any

from ramify.commands.display import inserted, stop_line
from ramify.commands.grow_settings import WIDE
from ramify.commands.run_folder import command_of
from ramify.report.events import (
    MAIN,
    Event,
    by_job,
    channels_changed,
    explained,
    measured_gain,
    metric_of,
    named_at_last,
    of_kind,
    ranking_field,
    unsized,
)
from ramify.report.headline import counted, flatten, state, tiles, title
from ramify.report.job_figures import (
    channels_figure,
    lineage_figure,
    proposals_figure,
    widths_figure,
)
from ramify.report.lineage import lineages
from ramify.report.prune_page import prune_context
from ramify.report.reader import RunRecord
from ramify.report.run_figures import arms_figure, gains_figure, progress_figure, sizes_figure
from ramify.report.search_page import search_context
from ramify.report.tables import headings, results_table, row_texts
from ramify.report.templates import filled
from ramify.report.theme import picture


def render(record: RunRecord) -> str:
    """The page of a run as text.

    Args:
        record: the contents of the run folder.

    Returns:
        Self-contained HTML.

    Raises:
        RamifyError: the file of the space of a cell search is missing.
    """
    command, tested = command_of(record.config), record.events
    context = {"search": search_context, "prune": prune_context}.get(command, _run_context)
    if command == "search":
        tested = [event for event in record.events if event.get("arm") == "retrained"]
    return filled(
        "page.html.j2",
        record=record,
        title=title(record),
        command=command,
        state=None if record.finished else state(record),
        config=flatten(record.config),
        versions=flatten(record.versions),
        **_comparison(tested, command),
        **context(record),
    )


def _comparison(events: Sequence[Event], command: str) -> dict[str, Any]:
    """The part of the page about trained and tested networks."""
    rows, metric = results_table(events), metric_of(events)
    words = metric.words
    arms, progress, results = None, None, of_kind(events, "result")
    # The phases of a run that cuts have a separate figure; only several seeds need comparing.
    if len(results) > 1 and (command != "prune" or any(row["n"] > 1 for row in rows)):
        arms = picture(arms_figure(events), f"Test {words} of each finished network")
    if command != "prune" and of_kind(events, "epoch"):
        label = f"Test {words} and parameters over training steps"
        progress = picture(progress_figure(unsized(events)), label)
    texts = [(row["arm"], explained(row["arm"]), row["n"], row_texts(row)) for row in rows]
    shown: dict[str, Any] = {
        "heads": headings(rows),
        "words": words,
        "side": "below" if metric.higher else "above",
    }
    shown |= {"several": any(row["n"] > 1 for row in rows)}
    shown |= {"wide": any(row["arm"].startswith(WIDE) for row in rows)}
    return shown | {"rows": texts, "arms": arms, "progress": progress, "main": MAIN}


def _run_context(record: RunRecord) -> dict[str, Any]:
    """The part of the page about the growth of each network and its effect."""
    events = unsized(record.events)
    jobs = by_job(edits := of_kind(events, "edit"))
    stops = {e["job"]: stop_line(e) for e in of_kind(events, "stop") if e["arm"] == "grown"}
    gains = None
    if any(measured_gain(edit) is not None for edit in edits):
        label = "Predicted and measured decrease of the loss at each edit"
        gains = picture(gains_figure(events), label)
    sizes = None
    if len(events) < len(record.events) and of_kind(record.events, "result"):
        label = f"Test {metric_of(events).words} against parameters"
        sizes = picture(sizes_figure(record.events), label)
    return {
        "tiles": tiles(record.events, results_table(record.events)),
        "sizes": sizes,
        "gains": gains,
        "growths": [_growth(job, own, stops.get(job)) for job, own in jobs.items()],
    }


def _growth(job: str, edits: Sequence[Event], stop: str | None) -> dict[str, Any]:
    """How the network of one job grew: a sentence and its figures, without those that are empty."""
    edits = named_at_last(edits)
    proposals = [proposal for edit in edits for proposal in edit["proposals"]]
    lineage = None
    if channels_changed(edits)["split"]:
        lineage = picture(lineage_figure(edits), f"Family trees of the channels, {job}")
    proposed = None
    if proposals:
        proposed = picture(proposals_figure(edits), f"Proposed and chosen channels, {job}")
    return {
        "job": job,
        "sentence": _sentence(edits, stop),
        "blocks": [(edit["round"], blocks) for edit in edits if (blocks := inserted(edit))],
        "widths": picture(widths_figure(edits), f"Widths after each edit, {job}"),
        "channels": picture(channels_figure(edits), f"Channels before each edit, {job}"),
        "field": ranking_field(proposals),
        "proposals": proposed,
        "lineage": lineage,
    }


def _sentence(edits: Sequence[Event], stop: str | None) -> str:
    """A sentence on how often and where a network was edited, and with what effect."""
    changed = channels_changed(edits).items()
    done = [f"{counted(count, 'channel')} {word}" for word, count in changed if count]
    text = f"{' and '.join(done)} in {counted(len(edits), 'round')}"
    kept = len(edits[0]["widths_before"]) - len(lineages(edits))
    text += f"; {counted(kept, 'layer')} never changed." if kept else "; every layer changed."
    text += f" It {stop}." if stop else ""
    return text
