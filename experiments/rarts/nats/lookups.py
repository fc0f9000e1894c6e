"""Look-ups in the published tables of the cells of a search: at its end, and after every epoch.

Shape letters: `E` edges of the cell, `O` operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from experiments.rarts.nats.study import RANDOM
from ramify.cells import NATS, Genotype, NatsTables
from ramify.cells.derive import strongest

Row = dict[str, Any]


def final(row: Row, tables: NatsTables) -> list[Row]:
    """The cell of one search for each way to choose operations, looked up in the tables.

    Args:
        row: of one search.
        tables: the published ones.

    Returns:
        One row for each way.
    """
    if not row["history"]:
        found = {"never none" if row["method"] == RANDOM[1] else "cell": row["cell"]}
    else:
        found = derived(row["history"][-1]) | {"perturbed": row["perturbed"]}
    return [_judged(row, choice, cell, tables) for choice, cell in found.items()]


def over_steps(row: Row, tables: NatsTables, steps: int) -> list[Row]:
    """The cells that a search would derive from its mixing weights after each of its epochs.

    Args:
        row: of one search.
        tables: the published ones.
        steps: per epoch.

    Returns:
        One row for each epoch and way to choose operations, with its "steps";
        random search has none.
    """
    return [
        _judged(row, choice, cell, tables) | {"seed": row["seed"], "steps": steps * epoch}
        for epoch, mixing in enumerate(row["history"], 1)
        for choice, cell in derived(mixing).items()
    ]


def derived(mixing: Sequence[Sequence[float]]) -> dict[str, str]:
    """The cell from mixing weights (E, O) by the published rule, and by the rule without `none`."""
    spaces = {"cell": NATS, "never none": NATS(never=("none",))}
    return {
        choice: Genotype("NATS", 1, (("cell", strongest(space, torch.tensor(mixing))),)).text
        for choice, space in spaces.items()
    }


def _judged(row: Row, choice: str, cell: str, tables: NatsTables) -> Row:
    """A cell in the published tables: errors, percentile and skip connections in %."""
    return {
        "method": RANDOM[0] if row["method"] in RANDOM else row["method"],
        "choice": choice,
        "cifar10": 100 - tables.accuracy(cell),
        "cifar100": 100 - tables.accuracy(cell, "cifar100"),
        "percentile": tables.percentile(cell),
        "skips": 100 * NATS.parse(cell).share("skip_connect"),
        "seconds": row["seconds"],
    }
