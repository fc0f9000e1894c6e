"""The page of a search for cells: what was found, drawn, and how the search went."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure

from ramify.cells import Genotype
from ramify.errors import RamifyError
from ramify.report.cells import Wire, cell_figure, losses_figure, mixing_figure
from ramify.report.figures import by_job, kinds
from ramify.report.headline import Tile, counted
from ramify.report.reader import Event, RunRecord
from ramify.report.svg import inline_svg, standalone_svg
from ramify.report.tables import duration, percent, results_table, short, statistic, write_text
from ramify.report.template import frame, template, trained
from ramify.report.theme import LIGHT
from ramify.store.files import write_with
from ramify.train.history import is_found

DPI = 200
LOWERED = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


@dataclass(frozen=True)
class Found:
    """What one seed found, or would by now: its text and figures."""

    job: str
    genotype: str
    drawings: list[tuple[str, Markup]]
    moved: list[tuple[str, Markup]]


def render_search(record: RunRecord) -> str:
    """The page of a search as text.

    Args:
        record: what the run folder holds, and that of what was retrained.

    Returns:
        HTML that refers to nothing outside itself.

    Raises:
        RamifyError: space.json is missing.
    """
    searched = [event for event in record.events if event.get("arm") == "searched"]
    if searched and not record.space:
        raise RamifyError(
            f"'{record.name}' has no space.json, without which its cells cannot be drawn; restore "
            "it from a copy, or search again."
        )
    tested = [e for e in record.events if e.get("arm") == "retrained"]
    results = [event for event in searched if is_found(event)]
    context = {
        "tiles": _tiles(results, tested),
        "found": [_found(record, job, events) for job, events in by_job(searched).items()],
        **_table(results),
        "losses": _losses(searched),
        "candidates": _candidates(record.events),
    }
    page = template("search.html.j2").render(**frame(record), **trained(tested), **context)
    return page + "\n"


def write_drawings(run: Path, record: RunRecord) -> None:
    """Draw the cells of every finished search into the run folder, as SVG and PNG.

    Args:
        run: the run folder.
        record: what it holds.
    """
    for event in filter(is_found, record.events if record.space else ()):
        seed = event["seed"] - int(record.config["seed"])
        for kind, figure in _cells(record.space, event["genotype"]):
            name = "cell" if kind == "cell" else f"cell-{kind}"
            name += f"-{event['seed']}" if seed else ""
            write_text(
                run / f"{name}.svg", standalone_svg(figure, f"{_said(kind)}, {event['job']}")
            )
            picture = partial(figure.savefig, format="png", dpi=DPI, facecolor=LIGHT["card"])
            write_with(run / f"{name}.png", picture)


def _found(record: RunRecord, job: str, events: Sequence[Event]) -> Found:
    """The cells of one seed, as of its last event."""
    last = events[-1]
    genotype = _genotype(record.space, last["genotype"])
    drawings = [
        (kind, _svg(figure, f"{job}-{kind}", f"{_said(kind)}, {job}"))
        for kind, figure in _cells(record.space, last["genotype"])
    ]
    names = _states(record.space)
    edges = [(names[source], names[target]) for source, target in record.space["edges"]]
    moved = []
    epochs = kinds(events, "epoch")
    for kind, states in genotype.cells if epochs else ():
        chosen = {
            (names[source], names[target]): operation
            for target, reads in enumerate(states, start=genotype.inputs)
            for operation, source in reads
        }
        weights = [epoch["mixing"][kind] for epoch in epochs]
        figure = mixing_figure(edges, record.space["operations"], weights, chosen)
        label = f"Mixing weights of the {_said(kind)} over the epochs, {job}"
        moved.append((kind, _svg(figure, f"{job}-{kind}-moved", label)))
    return Found(job, last["genotype"], drawings, moved)


def _said(kind: str) -> str:
    """What to call a kind of cell."""
    return kind if kind == "cell" else f"{kind} cell"


def _svg(figure: Figure, name: str, label: str) -> Markup:
    return Markup(inline_svg(figure, re.sub(r"\W", "-", name).lower(), label))


def _genotype(space: Mapping[str, Any], text: str) -> Genotype:
    """The architecture of a text, its cells by the space's names for them."""
    cells = Genotype.parse(text).cells
    kinds_named = zip(space["kinds"], cells, strict=True)
    return Genotype(
        space["name"], space["inputs"], tuple((kind, states) for kind, (_, states) in kinds_named)
    )


def _cells(space: Mapping[str, Any], text: str) -> Iterator[tuple[str, Figure]]:
    """A drawing of each kind of cell."""
    names = _states(space)
    for kind, states in _genotype(space, text).cells:
        wires = [
            Wire(names[source], names[target], operation)
            for target, reads in enumerate(states, start=space["inputs"])
            for operation, source in reads
        ]
        nodes = list(names)
        if space["concat"]:
            wires += [Wire(name, "cₖ", None) for name in names[space["inputs"] :]]
            nodes.append("cₖ")
        yield kind, cell_figure(nodes, wires)


def _states(space: Mapping[str, Any]) -> list[str]:
    """What the states of a cell are called: as in DARTS where several cells are read."""
    inputs, states = space["inputs"], space["states"]
    if inputs == 1:
        named = ["input", *(str(number) for number in range(1, 1 + states))]
    else:
        named = [f"cₖ₋{str(inputs - i).translate(LOWERED)}" for i in range(inputs)]
        named += [str(number) for number in range(states)]
    return named if space["concat"] else [*named[:-1], "output"]


def _table(results: Sequence[Event]) -> dict[str, Any]:
    """What is known of each network that was found."""
    names = {"params": "parameters", "macs": "MACs", "skips": "skip ratio", "latency": "latency"}
    heads = ["search", *names.values(), "steps", "time"]
    rows = [
        [
            event["job"],
            short(event["params"]),
            short(event["macs"]),
            f"{100 * event['skips']:.1f} %",
            f"{event['latency']:.3g} ms",
            f"{event['steps']:,}",
            duration(statistic([event["seconds"]])),
        ]
        for event in results
    ]
    known = [key for event in results for key in event.get("benchmark", {})]
    for key in dict.fromkeys(known):
        heads.append(key)
        for row, event in zip(rows, results, strict=True):
            row.append(f"{event['benchmark'][key]:.4g}" if key in event["benchmark"] else "")
    return {"heads_found": heads, "rows_found": rows}


def _tiles(results: Sequence[Event], tested: Sequence[Event]) -> list[Tile]:
    """Means over what was found."""
    tiles = [
        Tile(percent(row["test_accuracy"]), "test accuracy, retrained", counted(row["n"], "seed"))
        for row in results_table(tested)
    ]
    if results:
        over = counted(len(results), "search").replace("searchs", "searches")
        means = {
            key: statistic([event[key] for event in results])["mean"]
            for key in ("params", "skips", "latency")
        }
        total = statistic([sum(event["seconds"] for event in results)])
        known = [event["benchmark"] for event in results if "benchmark" in event]
        for key in known[0] if known else ():
            tiles.append(Tile(f"{statistic([one[key] for one in known])['mean']:.4g}", key, over))
        tiles += [
            Tile(short(means["params"]), "parameters", f"of what was found, {over}"),
            Tile(
                f"{100 * means['skips']:.1f} %", "skip ratio", "edges that hand on what they read"
            ),
            Tile(f"{means['latency']:.3g} ms", "latency", "of one image, measured"),
            Tile(duration(total), "search time", over),
        ]
    return tiles[:5]


def _losses(searched: Sequence[Event]) -> Markup | None:
    epochs = kinds(searched, "epoch")
    if not epochs:
        return None
    return _svg(losses_figure(by_job(epochs)), "losses", "Losses of the supernet over the epochs")


def _candidates(events: Sequence[Event]) -> list[tuple[str, str, str]]:
    """What random search trained, the best first."""
    trained_ones = [e for e in kinds(events, "result") if e["arm"].startswith("candidate")]
    trained_ones.sort(key=lambda event: -event["valid_accuracy"])
    return [
        (e["genotype"], f"{100 * e['valid_accuracy']:.2f} %", f"{e['params']:,}")
        for e in trained_ones
    ]
