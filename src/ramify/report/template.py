"""Templates of pages, and what every page is filled with."""

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from ramify.commands.folder import command_of
from ramify.report.figures import arms_figure, kinds, progress_figure
from ramify.report.headline import flatten, state, title
from ramify.report.reader import Event, RunRecord
from ramify.report.svg import inline_svg
from ramify.report.tables import ARMS, cells, results_table
from ramify.report.theme import DARK, LIGHT, MAIN


def template(name: str) -> jinja2.Template:
    """A template of this room; names that it is not given raise."""
    room = files("ramify.report")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda part: room.joinpath(part).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def frame(record: RunRecord) -> dict[str, Any]:
    """What stands around the contents of any page."""
    return {
        "record": record,
        "title": title(record),
        "command": command_of(record.config),
        "state": None if record.finished else state(record),
        "config": flatten(record.config),
        "versions": flatten(record.versions),
        "palettes": (LIGHT, DARK),
    }


def trained(events: Sequence[Event]) -> dict[str, Any]:
    """What is said of networks that were trained and tested.

    Args:
        events: theirs.

    Returns:
        The rows of the comparison, and its figures where there is something to draw.
    """
    rows = [
        (row["arm"], ARMS.get(row["arm"], ""), row["n"], cells(row))
        for row in results_table(events)
    ]
    return {"rows": rows, "arms": _arms(events), "progress": _progress(events), "main": MAIN}


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
