"""The statistics over all seeds, and the results page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from experiments.s2d.rbf.arms import Settings
from experiments.s2d.rbf.pool import Result
from experiments.s2d.rbf.table import compared, setting
from experiments.s3d.rbf.arms import ARMS, NEURONS


def summary(results: Sequence[Result]) -> dict[str, Any]:
    """Each arm's final MSE, compared with S2D, and properties of its splits.

    Args:
        results: of every seed, at least two.

    Returns:
        By arm: the output of `compared`; `lower`, seeds in which it ends below S2D; and in how many
        `splits` the neuron `differs` from S2D's, a weight is `negative`, the loss was `rising`;
        `both_signs`, seeds in which it ends with outgoing weights of both signs.
    """
    final = {arm: [r["arms"][arm]["mse"] for r in results] for arm in ARMS}
    found = {}
    for arm in ARMS:
        held = [r["arms"][arm] for r in results]
        kinds = {key: sum(sum(h[key]) for h in held) for key in ("differs", "negative", "rising")}
        lower = sum(v < o for v, o in zip(final[arm], final["s2d"], strict=True))
        splits = sum(len(h["differs"]) for h in held)
        both = sum(h["both_signs"] for h in held)
        counts = {"lower": lower, "splits": splits, "both_signs": both}
        found[arm] = {**compared(arm, final), **kinds, **counts}
    return found


def page(results: Sequence[Result], settings: Settings, seconds: float) -> str:
    """results.md.

    Args:
        results: of every seed.
        settings: of the command.
        seconds: the run time.

    Returns:
        Markdown.
    """
    arms, seeds = summary(results), len(results)
    rows = [
        "| arm | mean ± sd | median | below S2D in | MSE over S2D's, geometric mean "
        "| p (Wilcoxon, paired, log MSE) | splits with a negative weight | of another neuron than "
        "S2D's | that raise the loss | weights of both signs in |",
        "|" + "---|" * 10,
    ]
    for name, arm in ARMS.items():
        a = arms[name]
        paired = (
            f"{a['lower']} of {seeds} | {a['ratio']:.2g} | {a['p']:.2g}"
            if "ratio" in a
            else "– | – | –"
        )
        kinds = " | ".join(
            f"{a[key]} of {a['splits']}" for key in ("negative", "differs", "rising")
        )
        rows.append(
            f"| {arm.label} | {a['mean']:.3g} ± {a['sd']:.3g} | {a['median']:.2g} | {paired} "
            f"| {kinds} | {a['both_signs']} of {seeds} |"
        )
    lines = [
        "# Signed splitting of the toy RBF network: results",
        "",
        f"{seeds} seeds (true functions), {settings.iterations} iterations for each neuron more, "
        f"ε = {settings.step:g}, {setting(settings)}; "
        f"{seconds / 60:.1f} minutes. Written by the command, all numbers measured.",
        "",
        f"## Final MSE at {NEURONS} neurons",
        "",
        *rows,
        "",
        "## Every seed",
        "",
        *_seed_table(results),
        "",
    ]
    return "\n".join(lines)


def _seed_table(results: Sequence[Result]) -> list[str]:
    rows = [
        "| seed | variance of y | " + " | ".join(arm.label for arm in ARMS.values()) + " |",
        "|" + "---|" * (len(ARMS) + 2),
    ]
    for r in results:
        values = " | ".join(f"{r['arms'][arm]['mse']:.2g}" for arm in ARMS)
        rows.append(f"| {r['seed']} | {r['variance']:.2g} | {values} |")
    return rows
