"""The result and course of a search for cells, in words, tables and drawings."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure

from ramify.cells import Genotype
from ramify.errors import RamifyError, first_line, in_digits
from ramify.report.cell_figures import CellEdge, cell_figure, losses_figure, mixing_figure
from ramify.report.events import Event, by_job, of_kind
from ramify.report.headline import search_tiles
from ramify.report.reader import RunRecord
from ramify.report.tables import duration, short, statistic
from ramify.report.theme import LIGHT, picture, svg
from ramify.store.files import write_bytes, write_with
from ramify.train.history import is_found

DPI = 200
LOWERED = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def search_context(record: RunRecord) -> dict[str, Any]:
    """The contents of the page of a search.

    Args:
        record: the contents of the run folder and of the folder of retrained networks.

    Returns:
        Values by their names in the template.

    Raises:
        RamifyError: space.json is missing or damaged.
    """
    searched = [event for event in record.events if event.get("arm") == "searched"]
    if searched and not record.space:
        raise RamifyError(
            f"'{record.name}' has no space.json, without which its cells cannot be drawn; restore "
            "it from a copy, or search again."
        )
    results, losses = [event for event in searched if is_found(event)], None
    if epochs := of_kind(searched, "epoch"):
        label = "Losses of the supernet over the epochs"
        losses = picture(losses_figure(by_job(epochs)), label)
    heads, rows = _table(results)
    with _agreeing(record.name):
        found = [_found(record.space, job, own) for job, own in by_job(searched).items()]
    return {
        "tiles": search_tiles(results, [e for e in record.events if e.get("arm") == "retrained"]),
        "found": found,
        "heads_found": heads,
        "rows_found": rows,
        "losses": losses,
        "candidates": _candidates(record.events),
    }


@contextmanager
def _agreeing(name: str) -> Iterator[None]:
    """Raise a clear error if the space of a run does not fit its events."""
    try:
        yield
    except (LookupError, TypeError, ValueError) as error:
        if isinstance(error, RamifyError):
            raise
        raise RamifyError(
            f"'{name}' has a space.json that is damaged or not that of its metrics.jsonl "
            f"({first_line(error)}): restore both from a copy, or search again."
        ) from error


def write_drawings(run: Path, record: RunRecord) -> None:
    """Draw the cells of every finished search into the run folder, as SVG and PNG."""
    for event in filter(is_found, record.events if record.space else ()):
        seed = event["seed"] - int(record.config["seed"])
        with _agreeing(record.name):
            drawings = list(_cells(record.space, event["genotype"]))
        for kind, figure in drawings:
            name = "cell" if kind == "cell" else f"cell-{kind}"
            name += f"-{event['seed']}" if seed else ""
            drawn = svg(figure, f"{_said(kind)}, {event['job']}")
            write_bytes(run / f"{name}.svg", drawn.encode())
            as_png = partial(figure.savefig, format="png", dpi=DPI, facecolor=LIGHT["card"])
            write_with(run / f"{name}.png", as_png)


def _found(space: Mapping[str, Any], job: str, events: Sequence[Event]) -> dict[str, Any]:
    """The (present) result of one seed: its text, its cells, and their weights over time."""
    text, names = events[-1]["genotype"], _states(space)
    drawings = [
        (kind, picture(figure, f"{_said(kind)}, {job}")) for kind, figure in _cells(space, text)
    ]
    edges = [(names[source], names[target]) for source, target in space["edges"]]
    moved: list[tuple[str, Markup]] = []
    epochs = of_kind(events, "epoch")
    for kind, kept in _edges(space, text) if epochs else ():
        weights = [epoch["mixing"][kind] for epoch in epochs]
        chosen = {(edge.source, edge.target): edge.operation or "" for edge in kept}
        figure = mixing_figure(edges, space["operations"], weights, chosen)
        label = f"Mixing weights of the {_said(kind)} over the epochs, {job}"
        moved.append((kind, picture(figure, label)))
    return {"job": job, "genotype": text, "drawings": drawings, "moved": moved}


def _said(kind: str) -> str:
    """The readable name of a kind of cell."""
    return kind if kind == "cell" else f"{kind} cell"


def _edges(space: Mapping[str, Any], text: str) -> Iterator[tuple[str, list[CellEdge]]]:
    """The edges with an operation, for each kind of cell."""
    names = _states(space)
    for kind, (_, states) in zip(space["kinds"], Genotype.parse(text).cells, strict=True):
        edges = [
            CellEdge(names[source], names[target], operation)
            for target, reads in enumerate(states, start=space["inputs"])
            for operation, source in reads
        ]
        yield kind, edges


def _cells(space: Mapping[str, Any], text: str) -> Iterator[tuple[str, Figure]]:
    """A drawing of each kind of cell; if its output concatenates states, edges show this."""
    names = _states(space)
    for kind, edges in _edges(space, text):
        output = ["cₖ"] if space["concat"] else []
        joins = [CellEdge(name, end, None) for end in output for name in names[space["inputs"] :]]
        yield kind, cell_figure(names + output, edges + joins)


def _states(space: Mapping[str, Any]) -> list[str]:
    """The names of a cell's states, as in DARTS if it has several inputs."""
    inputs, states = space["inputs"], space["states"]
    if inputs == 1:
        named = ["input", *(str(number) for number in range(1, 1 + states))]
    else:
        named = [f"cₖ₋{str(inputs - i).translate(LOWERED)}" for i in range(inputs)]
        named += [str(number) for number in range(states)]
    return named if space["concat"] else [*named[:-1], "output"]


def _table(results: Sequence[Event]) -> tuple[list[str], list[list[str]]]:
    """The table of found networks: column heads, and one row per search."""
    heads = ["search", "parameters", "MACs", "skip ratio", "latency", "steps", "time"]
    known = list(dict.fromkeys(key for event in results for key in event.get("benchmark", {})))
    rows = []
    for event in results:
        measured = event.get("benchmark", {})
        row = [event["job"], short(event["params"]), short(event["macs"])]
        row += [f"{100 * event['skips']:.1f} %", f"{in_digits(event['latency'])} ms"]
        row += [f"{event['steps']:,}", duration(statistic([event["seconds"]]))]
        rows.append(row + [f"{measured[key]:.4g}" if key in measured else "" for key in known])
    return heads + known, rows


def _candidates(events: Sequence[Event]) -> list[tuple[str, str, str]]:
    """The candidates of random search, the best first: genotype, accuracy, parameters."""
    trained = [e for e in of_kind(events, "result") if e["arm"].startswith("candidate")]
    trained.sort(key=lambda event: -event["valid_accuracy"])
    return [
        (e["genotype"], f"{100 * e['valid_accuracy']:.2f} %", f"{e['params']:,}") for e in trained
    ]
