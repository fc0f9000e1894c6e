"""The statistics over all seeds, and the results page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.continuity.networks import NETWORKS, OPTIMIZERS
from experiments.continuity.study import ARMS


def cases(results: Sequence[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """(network, optimizer, edit) of all runs, in the order of tables and figures."""
    seen = {(r["network"], r["optimizer"], kind) for r in results for kind in r["edits"]}
    order = [(n, o, k) for n in NETWORKS for o in OPTIMIZERS for k in ("split", "prune")]
    return [case for case in order if case in seen]


def of_case(results: Sequence[dict[str, Any]], case: tuple[str, str, str]) -> list[dict[str, Any]]:
    """The results of one network and optimizer."""
    return [r for r in results if (r["network"], r["optimizer"]) == case[:2]]


def losses(curve: Sequence[Sequence[float]], column: int) -> dict[int, float]:
    """Step -> loss: column 1 in evaluation mode, 2 with batch statistics."""
    return {int(row[0]): row[column] for row in curve}


def excess(result: dict[str, Any], kind: str, arm: str, column: int = 2) -> NDArray[np.float64]:
    r"""The excess of an arm's loss over the effects of the edit and of ordinary training.

    .. math:: [L_{arm}(k) - L_{none}(k)] - [L_{arm}(0) - L_{none}(0)], \quad k = 1, \dots, 50

    Both train on the same batches, so the effect of ordinary training cancels.

    Args:
        result: of one seed.
        kind: `split` or `prune`.
        arm: one of `ARMS`.
        column: 2 for losses by batch statistics, 1 in evaluation mode.

    Returns:
        Shape (window,), from step 1 on, linearly interpolated between measured steps.
    """
    mine = losses(result["edits"][kind]["arms"][arm], column)
    none = losses(result["none"], column)
    own = mine[0] - none[0]
    known = sorted(mine)
    steps = np.arange(1, result["settings"]["window"] + 1)
    return np.interp(steps, known, [mine[k] - none[k] - own for k in known])


def page(results: Sequence[dict[str, Any]]) -> str:
    """The tables as Markdown.

    Args:
        results: of every seed.

    Returns:
        Tables of the immediate effect of each edit, and of the later effect in each arm.
    """
    lines = [
        "| network | optimizer | edit | channels | parameters | loss before | predicted change "
        "| measured change |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [_edit_row(results, case) for case in cases(results)]
    lines += [
        "",
        "| network | optimizer | edit | arm | excess after 1 step | mean over 50 steps "
        "| highest of 50 steps | the same, evaluation mode | loss at the end |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for case in cases(results):
        mine = of_case(results, case)
        lines += [_arm_row(mine, case, arm) for arm in mine[0]["edits"][case[2]]["arms"]]
        ends = [result["none"][-1][2] for result in mine]
        lines.append(f"| {_title(case)} | no edit | – | – | – | – | {_spread(ends)} |")
    return "\n".join(lines) + "\n"


def _title(case: tuple[str, str, str]) -> str:
    return f"{NETWORKS[case[0]].title} | {OPTIMIZERS[case[1]]} | {case[2]}"


def _edit_row(results: Sequence[dict[str, Any]], case: tuple[str, str, str]) -> str:
    mine = of_case(results, case)
    edits = [result["edits"][case[2]] for result in mine]
    before = [result["none"][0][1] for result in mine]
    after = [edit["arms"]["carried"][0][1] for edit in edits]
    change = [a - b for a, b in zip(after, before, strict=True)]
    params = f"{np.mean([r['params'] for r in mine]):,.0f} → "
    params += f"{np.mean([e['params'] for e in edits]):,.0f}"
    return (
        f"| {_title(case)} | {np.mean([e['channels'] for e in edits]):.0f} | {params} "
        f"| {_spread(before)} | {_spread([e['predicted'] for e in edits])} | {_spread(change)} |"
    )


def _arm_row(mine: Sequence[dict[str, Any]], case: tuple[str, str, str], arm: str) -> str:
    batch = [excess(result, case[2], arm) for result in mine]
    held = [excess(result, case[2], arm, 1) for result in mine]
    ends = [result["edits"][case[2]]["arms"][arm][-1][2] for result in mine]
    return (
        f"| {_title(case)} | {ARMS[arm]} | {_spread([e[0] for e in batch])} "
        f"| {_spread([e.mean() for e in batch])} | {_spread([e.max() for e in batch])} "
        f"| {_spread([e.max() for e in held])} | {_spread(ends)} |"
    )


def _spread(values: Sequence[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.4f}"
    return f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}"
