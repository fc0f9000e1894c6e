"""One self-contained page about a run: numbers, tables, figures, settings."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup
from matplotlib.figure import Figure

from ramify.commands.display import stop_line
from ramify.commands.folder import command_of
from ramify.report.figures import (
    by_job,
    gains_figure,
    kinds,
    measured_gain,
)
from ramify.report.headline import (
    counted,
    made_prunes,
    made_splits,
    tiles,
)
from ramify.report.lineage import lineages
from ramify.report.reader import Event, RunRecord, read_run
from ramify.report.search_page import render_search, write_drawings
from ramify.report.shapes import (
    channels_figure,
    lineage_figure,
    proposals_figure,
    ranking_field,
    remaining_figure,
    widths_figure,
)
from ramify.report.svg import inline_svg
from ramify.report.tables import results_table, write_text
from ramify.report.template import frame, template, trained


@dataclass(frozen=True)
class Growth:
    """How the network of one job grew: a sentence and its figures."""

    job: str
    sentence: str
    widths: Markup
    channels: Markup
    field: str
    proposals: Markup | None
    lineage: Markup | None


def write_report(run: Path) -> Path:
    """Write ``report.html`` into a run folder, whether or not the run is finished.

    Cells that a search found are also drawn into files: ``cell-KIND.svg`` and ``.png``.

    Args:
        run: the run folder.

    Returns:
        The path of the page, written to a temporary name and put in place at once.

    Raises:
        RamifyError: the folder is not a run folder, or one of its files is damaged.
    """
    record = read_run(Path(run))
    write_drawings(Path(run), record)
    return write_text(Path(run) / "report.html", render(record))


def render(record: RunRecord) -> str:
    """The page of a run as text.

    Args:
        record: what the run folder holds.

    Returns:
        HTML that refers to nothing outside itself.
    """
    if command_of(record.config) == "search":
        return render_search(record)
    events = record.events
    edits = by_job(kinds(events, "edit"))
    stops = {e["job"]: stop_line(e) for e in kinds(events, "stop") if e["arm"] == "grown"}
    text = template("page.html.j2").render(
        **frame(record),
        **trained(events),
        tiles=tiles(events, results_table(events)),
        gains=_gains(events),
        remaining=_remaining(list(edits.values())),
        growths=[_growth(job, own, stops.get(job)) for job, own in edits.items()],
    )
    return text + "\n"


def _gains(events: Sequence[Event]) -> Markup | None:
    if all(measured_gain(edit) is None for edit in kinds(events, "edit")):
        return None
    label = "Predicted and measured decrease of the loss at each edit"
    return Markup(inline_svg(gains_figure(events), "gains", label))


def _remaining(jobs: Sequence[Sequence[Event]]) -> Markup | None:
    """What single cuts have left; none where a network was edited again or grew."""
    cuts = [edits[0] for edits in jobs if len(edits) == 1 and not made_splits(edits[0])]
    if not cuts or len(cuts) < len(jobs):
        return None
    label = "Share of the channels that the cut has left in each layer"
    return Markup(inline_svg(remaining_figure(cuts), "remaining", label))


def _growth(job: str, edits: Sequence[Event], stop: str | None) -> Growth:
    """The figures of one grown network; each is left out where it would be empty."""
    proposals = [proposal for edit in edits for proposal in edit["proposals"]]
    changed = lineages(edits)
    kept = len(edits[0]["widths_before"]) - len(changed)
    done = []
    for word, made in (("split", made_splits), ("pruned", made_prunes)):
        count = sum(made(edit) for edit in edits)
        done += [f"{counted(count, 'channel')} {word}"] if count else []
    sentence = f"{' and '.join(done)} in {counted(len(edits), 'round')}"
    sentence += f"; {counted(kept, 'layer')} never changed." if kept else "; every layer changed."
    sentence += f" It {stop}." if stop else ""
    if "test_accuracy_after" in edits[-1]:
        before, after = (100 * edits[-1][f"test_accuracy_{when}"] for when in ("before", "after"))
        sentence += f" Test accuracy {before:.2f} % before, {after:.2f} % right after."

    def figure(draw: Callable[[Sequence[Event]], Figure], label: str) -> Markup:
        name = re.sub(r"\W", "-", f"{job}-{label}").lower()
        return Markup(inline_svg(draw(edits), name, f"{label}, {job}"))

    return Growth(
        job,
        sentence,
        figure(widths_figure, "Widths after each edit"),
        figure(channels_figure, "Channels before each edit"),
        ranking_field(proposals),
        figure(proposals_figure, "Proposed and chosen channels") if proposals else None,
        figure(lineage_figure, "Family trees of the channels")
        if any(made_splits(edit) for edit in edits)
        else None,
    )
