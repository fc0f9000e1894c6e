"""The table of a study: every arm, averaged over its seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from experiments.gauss_newton.cifar10.study import ARMS


def rows(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each arm's mean and standard deviation, best first."""
    found = []
    for arm, title in ARMS.items():
        mine = [result for result in results if result["arm"] == arm]
        if not mine:
            continue
        accuracies = [100 * result["accuracy"] for result in mine]
        found.append(
            {
                "arm": arm,
                "title": title,
                "accuracies": accuracies,
                "mean": statistics.mean(accuracies),
                "sd": statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0,
                "params": statistics.mean(result["params"] for result in mine),
                "macs": statistics.mean(result["macs"] for result in mine),
                "training": statistics.mean(r["seconds"]["training"] for r in mine),
                "editing": statistics.mean(r["seconds"]["editing"] for r in mine),
            }
        )
    return sorted(found, key=lambda row: -row["mean"])


def page(results: Sequence[dict[str, Any]]) -> str:
    """The results as Markdown.

    Args:
        results: of the study.

    Returns:
        A description of the setting, and a table of the arms.
    """
    held = results[0]["settings"]
    steps = (held["rounds"] + 1) * held["epochs"]
    lines = [
        f"{held['model']} from {held['width']} channels a layer to at most {held['params']:,} "
        f"parameters; {held['samples']:,} training images, {steps} epochs in all at batch "
        f"{held['batch']}, {held['rounds']} edits; {held['tests']:,} test images; seeds "
        f"{sorted({result['seed'] for result in results})}.",
        "",
        "| way | test accuracy, % | each seed | parameters | MACs, M | training, s | choosing, s |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['title']} | {row['mean']:.2f} ± {row['sd']:.2f} "
        f"| {', '.join(f'{a:.2f}' for a in row['accuracies'])} | {row['params']:,.0f} "
        f"| {row['macs'] / 1e6:.1f} | {row['training']:.0f} | {row['editing']:.0f} |"
        for row in rows(results)
    ]
    return "\n".join(lines) + "\n"
