"""The statistics over all seeds, and the results page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean, median, stdev
from typing import Any

from scipy.stats import wilcoxon

from experiments.s2d.rbf.arms import ARMS, NEURONS, Settings
from experiments.s2d.rbf.law import BLIND, FINE
from experiments.s2d.rbf.pool import Result

LINEAR = 0.99  # an r from here on counts as linear


def summary(results: Sequence[Result]) -> dict[str, Any]:
    """Mean, sd and median of each arm, paired comparisons with S2D, and the checks of the theory.

    Args:
        results: of every seed, at least two.

    Returns:
        `arms`; `r` and `slope` of every seed; `angle_zero` (seeds whose decrease is largest at
        angle 0); `stable` (S2D splits whose index was positive, of how many); `blind` and
        `other_sign`; `both_signs` (seeds in which an arm ends with weights of both signs).
    """
    final = {arm: [r["arms"][arm]["mse"] for r in results] for arm in ARMS}
    laws = [r["eigenvalues"] for r in results]
    indices = [index for r in results for index in r["arms"]["s2d"]["indices"]]
    return {
        "arms": {arm: compared(arm, final) for arm in ARMS},
        "r": {key: [law["r"][key] for law in laws] for key in ("fine", "coarse", "trained")},
        "slope": {key: [law["slope"][key] for law in laws] for key in ("fine", "coarse")},
        "angle_zero": {
            key: sum(_largest_at_zero(r["angles"], key) for r in results)
            for key in ("fine", "coarse")
        },
        "stable": [sum(index > 0 for index in indices), len(indices)],
        "blind": [r["blind"] for r in results],
        "other_sign": [r["other_sign"] for r in results],
        "both_signs": {arm: sum(r["arms"][arm]["both_signs"] for r in results) for arm in ARMS},
    }


def _largest_at_zero(angles: Result, key: str) -> bool:
    decrease = angles["decrease"][key]
    return bool(decrease[angles["degrees"].index(0)] == max(decrease))


def compared(arm: str, final: dict[str, list[float]]) -> dict[str, Any]:
    """Statistics of an arm's final MSEs, alone and paired with those of S2D.

    Args:
        arm: a key of `final`.
        final: the MSE of every seed, for each arm including `s2d`.

    Returns:
        `mean`, `sd`, `median`, `best` (seeds where no arm is lower); except for S2D `s2d_lower`
        (seeds), `ratio` (geometric mean of the MSE over S2D's) and `p` (Wilcoxon, log MSE).
    """
    values, ours = final[arm], final["s2d"]
    best = [min(column) for column in zip(*final.values(), strict=True)]
    out: dict[str, Any] = {
        "mean": mean(values),
        "sd": stdev(values),
        "median": median(values),
        "best": sum(v == b for v, b in zip(values, best, strict=True)),
    }
    if arm != "s2d":
        ratios = [math.log(v / o) for v, o in zip(values, ours, strict=True)]
        out["s2d_lower"] = sum(ratio > 0 for ratio in ratios)
        out["ratio"] = math.exp(mean(ratios))
        out["p"] = float(wilcoxon(ratios).pvalue)
    return out


def page(results: Sequence[Result], settings: Settings, seconds: float) -> str:
    """results.md.

    Args:
        results: of every seed.
        settings: of the command.
        seconds: the run time.

    Returns:
        Markdown.
    """
    numbers = summary(results)
    lines = [
        "# Toy RBF network: results",
        "",
        f"{len(results)} seeds (true functions), {settings.iterations} iterations a phase, "
        f"{NEURONS} phases, ε = {settings.step:g}, {setting(settings)}; "
        f"{seconds / 60:.1f} minutes. Written by the command, all numbers measured.",
        "",
        f"## Final MSE at m = {NEURONS}",
        "",
        *_arm_table(numbers, len(results)),
        "",
        *_findings(numbers, settings, len(results)),
        "",
        "## Every seed",
        "",
        *_seed_table(results),
        "",
    ]
    return "\n".join(lines)


def setting(settings: Settings) -> str:
    """The target and the initialization, in words."""
    return (
        f"{settings.target} outgoing weights of the target, x in [-{settings.reach:g}, "
        f"{settings.reach:g}], first neuron from N(0, {settings.start:g}²)"
    )


def _arm_table(numbers: dict[str, Any], seeds: int) -> list[str]:
    rows = [
        "| arm | mean ± sd | median | best in | S2D lower in | MSE over S2D's, geometric mean "
        "| p (Wilcoxon, paired, log MSE) | weights of both signs in |",
        "|" + "---|" * 8,
    ]
    for arm, label in ARMS.items():
        a = numbers["arms"][arm]
        paired = (
            f"{a['s2d_lower']} of {seeds} | {a['ratio']:.2g} | {a['p']:.2g}"
            if "ratio" in a
            else "– | – | –"
        )
        rows.append(
            f"| {label} | {a['mean']:.3g} ± {a['sd']:.3g} | {a['median']:.2g} "
            f"| {a['best']} of {seeds} | {paired} | {numbers['both_signs'][arm]} of {seeds} |"
        )
    return rows


def _findings(numbers: dict[str, Any], settings: Settings, seeds: int) -> list[str]:
    (stable, splits), zero, blind = numbers["stable"], numbers["angle_zero"], numbers["blind"]
    lowest = {k: min(ARMS, key=lambda arm: numbers["arms"][arm][k]) for k in ("mean", "median")}
    linear = sum(r >= LINEAR for r in numbers["r"]["coarse"])
    r, slope = numbers["r"], numbers["slope"]
    return [
        f"- Lowest mean: {ARMS[lowest['mean']]}; lowest median: {ARMS[lowest['median']]}.",
        f"- Eigenvalue against loss decrease, 7 → 8 neurons, five smallest λ_min of each seed, "
        f"right after the split, ε = {FINE:g}: r {_range(r['fine'], '.8f')}; fitted slope over "
        f"the theorem's ε²/2 {_range(slope['fine'], '.4f')}.",
        f"- The same with the ε of the growing, {settings.step:g}: r {_range(r['coarse'], '.3f')}, "
        f"at least {LINEAR} in {linear} of {seeds} seeds; slope {_range(slope['coarse'], '.2f')}.",
        f"- The same after a phase of training from each of these splits: r "
        f"{_range(r['trained'], '.3f')}.",
        f"- Decrease largest at angle 0 to the minimum eigenvector: {zero['fine']} of {seeds} "
        f"seeds with ε = {FINE:g}, {zero['coarse']} of {seeds} with ε = {settings.step:g}.",
        f"- S2D split a neuron of positive index (splitting stable) {stable} of {splits} times.",
        f"- Share of S2D's final squared error at points that no neuron sees (all |z| > "
        f"{BLIND:g}): {_range(blind, '.0%')}.",
        f"- Share of it at points where the target has the sign of no outgoing weight: "
        f"{_range(numbers['other_sign'], '.0%')}.",
    ]


def _range(values: Sequence[float], form: str) -> str:
    return f"from {min(values):{form}} to {max(values):{form}}, median {median(values):{form}}"


def _seed_table(results: Sequence[Result]) -> list[str]:
    rows = [
        "| seed | variance of y | "
        + " | ".join(ARMS.values())
        + " | r, fine | r, coarse | r, trained | unseen | other sign |",
        "|" + "---|" * (len(ARMS) + 7),
    ]
    for r in results:
        values = " | ".join(f"{r['arms'][arm]['mse']:.2g}" for arm in ARMS)
        law = r["eigenvalues"]["r"]
        rows.append(
            f"| {r['seed']} | {r['variance']:.2g} | {values} | {law['fine']:.6f} "
            f"| {law['coarse']:.3f} | {law['trained']:.3f} | {r['blind']:.0%} "
            f"| {r['other_sign']:.0%} |"
        )
    return rows
