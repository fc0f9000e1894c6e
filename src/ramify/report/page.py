"""One self-contained page about a run: numbers, tables, figures, settings."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure

from ramify.report.figures import (
    arms_figure,
    by_job,
    gains_figure,
    kinds,
    measured_gain,
    progress_figure,
)
from ramify.report.headline import (
    counted,
    flatten,
    made_prunes,
    made_splits,
    state,
    tiles,
    title,
)
from ramify.report.lineage import lineages
from ramify.report.reader import Event, RunRecord, read_run
from ramify.report.shapes import (
    channels_figure,
    lineage_figure,
    proposals_figure,
    ranking_field,
    widths_figure,
)
from ramify.report.svg import inline_svg
from ramify.report.tables import ARMS, cells, results_table, write_text
from ramify.report.theme import DARK, LIGHT
from ramify.run.display import stop_line
from ramify.run.folder import command_of


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

    Args:
        run: the run folder.

    Returns:
        The path of the page, written to a temporary name and put in place at once.

    Raises:
        RamifyError: the folder is not a run folder, or one of its files is damaged.
    """
    return write_text(Path(run) / "report.html", render(read_run(Path(run))))


def render(record: RunRecord) -> str:
    """The page of a run as text.

    Args:
        record: what the run folder holds.

    Returns:
        HTML that refers to nothing outside itself.
    """
    events = record.events
    rows = results_table(events)
    edits = by_job(kinds(events, "edit"))
    stops = {stop["job"]: stop_line(stop) for stop in kinds(events, "stop")}
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = files("ramify.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    text = environment.from_string(source).render(
        record=record,
        title=title(record),
        command=command_of(record.config),
        state=None if record.finished else state(record),
        tiles=tiles(events, rows),
        rows=[(row["arm"], ARMS.get(row["arm"], ""), row["n"], cells(row)) for row in rows],
        arms=_arms(events),
        progress=_progress(events),
        gains=_gains(events),
        growths=[_growth(job, own, stops.get(job)) for job, own in edits.items()],
        config=flatten(record.config),
        versions=flatten(record.versions),
        palettes=(LIGHT, DARK),
    )
    return text + "\n"


def _arms(events: Sequence[Event]) -> Markup | None:
    if len(kinds(events, "result")) < 2:  # nothing to compare
        return None
    label = "Test accuracy of each finished network"
    return Markup(inline_svg(arms_figure(events), "arms", label))


def _progress(events: Sequence[Event]) -> Markup | None:
    if not kinds(events, "epoch"):
        return None
    label = "Test accuracy and parameters over training steps"
    return Markup(inline_svg(progress_figure(events), "progress", label))


def _gains(events: Sequence[Event]) -> Markup | None:
    if all(measured_gain(edit) is None for edit in kinds(events, "edit")):
        return None
    label = "Predicted and measured decrease of the loss at each edit"
    return Markup(inline_svg(gains_figure(events), "gains", label))


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
        figure(lineage_figure, "Family trees of the channels") if changed else None,
    )
