"""The rows of a study in the form of Tables 4.1 and 4.2 of the thesis."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from experiments.numbers import spread
from experiments.rarts.width.study import LEARNED, MACS, METHODS, OUTPUTS, RELATIVE

NAMES = {
    "rarts": "RARTS",
    "darts1": "DARTS-1",
    "darts2": "DARTS-2",
    "milenas": "MiLeNAS",
    "joint": "Joint (NetSlim)",
    "l1": "L1",
    "random": "random",
    "cut": "`ramify.cut`",
}
Row = dict[str, Any]


def page(rows: Sequence[Row]) -> str:
    """All rows of one setting as Markdown.

    Args:
        rows: of any number of seeds, including those of the baselines.

    Returns:
        One line for the full network, and one for each ratio and method.
    """
    full = [row for row in rows if row["method"] == "baseline"]
    lines = [
        f"{len({row['seed'] for row in rows})} seeds; errors in %, mean ± standard deviation.",
        "",
        "| pruned | method | after the search | after the cut | fine-tuned | fine-tuned with KD "
        "| parameters | MACs, M |",
        "|---|---|---|---|---|---|---|---|",
        f"| – | the full network | {errors(full, 'searched')} | – | {errors(full, 'tuned')} | – "
        f"| {spread((row['params'] for row in full), 0)} | {millions(full)} |",
    ]
    for goal in sorted({(r["of"], r["ratio"]) for r in rows if r["method"] != "baseline"}):
        for method in METHODS:
            own = (row for row in rows if row["method"] == method)
            mine = [row for row in own if (row["of"], row["ratio"]) == goal]
            lines += [_line(mine, *goal)] if mine else []
    return "\n".join(lines)


def _line(rows: Sequence[Row], of: str, ratio: float) -> str:
    plain = [row for row in rows if not row["distilled"]]
    distilled = [row for row in rows if row["distilled"]]
    share = f"{ratio:.0%}"
    if ratio == LEARNED or of == MACS:
        share = f"{spread(100 * row['pruned'] for row in plain)} %"
    if of == MACS:
        share = f"to {ratio:.0%} of the MACs: {share}"
    cells = [share, _name(plain[0]["method"])]
    cells += [errors(plain, key) for key in ("searched", "cut", "tuned")]
    cells += [
        errors(distilled, "tuned"),
        spread((row["params"] for row in plain), 0),
        millions(plain),
    ]
    return f"| {' | '.join(cells)} |"


def _name(method: str) -> str:
    kind = method.removesuffix(RELATIVE).removesuffix(OUTPUTS)
    notes = {RELATIVE: ", gates over their layer's mean", OUTPUTS: ", gates before the norm"}
    return NAMES[kind] + notes.get(method.removeprefix(kind), "")


def errors(rows: Iterable[Row], key: str) -> str:
    """Test errors in per cent."""
    return spread(100 * (1 - row[key]) for row in rows)


def millions(rows: Iterable[Row]) -> str:
    """MACs per image, in millions."""
    return spread(row["macs"] / 1e6 for row in rows)
