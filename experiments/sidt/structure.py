"""Swin-T pruned as in SiDT: sizes beside the thesis' Tables 4.3 to 4.5; seconds, no data.

python -m experiments.sidt.structure
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import SwinConfig, SwinForImageClassification

import ramify
from experiments.files import show
from experiments.sidt.swin import SHARES, Config, goals, prunes, table_cost
from ramify.cost import Cost, graph_cost

# share pruned -> (parameters in millions, "FLOPS" in thousand millions), as printed
CIFAR = {0.0: (27.60, 4.49), 0.2: (23.28, 3.53), 0.4: (17.89, 2.60), 0.6: (11.92, 1.73),
         0.8: (7.17, 0.92)}  # fmt: skip
IMAGENET = {0.0: (27.53, 4.49), 0.2: (20.34, 3.65), 0.4: (14.61, 2.82), 0.6: (10.06, 1.93),
            0.8: (5.93, 1.09)}  # fmt: skip
CLASSES = {"4.4": 100, "4.5": 20}
PRINTED = {"4.4": CIFAR, "4.5": IMAGENET}
Row = tuple[float, Cost, Cost]  # share pruned, cost of the pruned network, cost by the formulas


def sizes(config: Config, labels: int) -> list[Row]:
    """Prune a classifier by each share, and count.

    Args:
        config: of a Swin; its image size is used.
        labels: number of classes.

    Returns:
        One row for the unpruned network and one for each of `SHARES`.
    """
    config.num_labels = labels
    model = SwinForImageClassification(config).eval()
    shape = (1, config.num_channels, config.image_size, config.image_size)
    graph = ramify.trace(model, torch.zeros(shape))
    rows = [(0.0, graph_cost(graph), table_cost(config, labels))]
    targets = {share: goals(graph, share) for share in SHARES}
    for share, widths in targets.items():
        graph = ramify.apply(graph, prunes(graph, widths))
        rows.append((share, graph_cost(graph), table_cost(config, labels, share)))
    return rows


def plain(cost: Cost) -> int:
    """MACs without those of norms, which the thesis leaves out."""
    return cost.macs - cost.by_kind.get("norm", 0)


def remaining(config: Config, table: str, share: float) -> tuple[float, float]:
    """The values of ρ that would give a table's parameters and FLOPS.

    Args:
        config: of Swin-T.
        table: "4.4" or "4.5".
        share: row of the table.

    Returns:
        Two values, which are equal if every layer kept the same share.
    """
    printed = PRINTED[table][share]
    full, none = (table_cost(config, CLASSES[table], gone) for gone in (0.0, 1.0))
    params = (printed[0] * 1e6 - none.params) / (full.params - none.params)
    return params, (printed[1] * 1e9 - plain(none)) / (plain(full) - plain(none))


def size_table(config: Config, rows: Sequence[Row]) -> str:
    """Sizes next to those of the thesis, as Markdown."""
    lines = [
        "| pruned | parameters, M | MACs, G | off the formula | Table 4.4 | its ρ | Table 4.5 "
        "| its ρ |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for share, cost, formula in rows:
        off = f"{cost.params - formula.params} / {cost.macs - formula.macs}"
        cells = [f"{share:.0%}", f"{cost.params / 1e6:.2f}", f"{plain(cost) / 1e9:.2f}", off]
        for table, printed in PRINTED.items():
            cells.append(" / ".join(f"{number:.2f}" for number in printed[share]))
            cells.append(" / ".join(f"{rho:.2f}" for rho in remaining(config, table, share)))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Count, and write results.md."""
    parser = argparse.ArgumentParser(prog="python -m experiments.sidt.structure")
    parser.add_argument("--out", type=Path, default=Path("runs/sidt-structure"))
    out, config = parser.parse_args(arguments).out, SwinConfig()
    text = size_table(config, sizes(config, CLASSES["4.4"]))
    show(out, text)


if __name__ == "__main__":
    main()
