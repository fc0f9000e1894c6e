"""Swin-T pruned as in SiDT: sizes beside the thesis' Tables 4.3 to 4.5, and a small one trained.

python -m experiments.sidt.structure            # sizes, and the run on CIFAR-100
python -m experiments.sidt.structure --seeds 0  # sizes alone: seconds, no data
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from statistics import mean

import torch
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import Progress
from transformers import SwinConfig, SwinForImageClassification

import ramify
from experiments.files import write
from experiments.sidt.swin import SHARES, Config, goals, prunes, table_cost
from experiments.sidt.training import Arm, Settings, study
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
    """Really prune a classifier, by one share after the other, and count.

    Args:
        config: of a Swin; its size of images is used.
        labels: classes.

    Returns:
        A row for no prune and for each of `SHARES`.
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
    """The ρ that would give what a table prints, by its parameters and by its FLOPS.

    Args:
        config: of Swin-T.
        table: "4.4" or "4.5".
        share: row of the table.

    Returns:
        Two numbers, the same if every layer kept the same share.
    """
    printed = PRINTED[table][share]
    full, none = (table_cost(config, CLASSES[table], gone) for gone in (0.0, 1.0))
    params = (printed[0] * 1e6 - none.params) / (full.params - none.params)
    return params, (printed[1] * 1e9 - plain(none)) / (plain(full) - plain(none))


def size_table(config: Config, rows: Sequence[Row]) -> str:
    """Sizes beside the thesis', as Markdown."""
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


def training_table(arms: Sequence[Arm]) -> str:
    """Accuracies, means over seeds, as Markdown."""
    lines = [
        "| pruned | parameters | before | after the prune | after tuning | each seed |",
        "|---|---|---|---|---|---|",
    ]
    for share in (0.0, *SHARES):
        mine = [arm for arm in arms if arm.share == share]
        means = (mean(getattr(arm, key) for arm in mine) for key in ("before", "after", "tuned"))
        each = ", ".join(f"{arm.tuned:.1%}" for arm in mine)
        numbers = " | ".join(f"{value:.1%}" for value in means)
        lines.append(f"| {share:.0%} | {mine[0].params:,} | {numbers} | {each} |")
    return "\n".join(lines)


def options() -> argparse.ArgumentParser:
    """What the command takes; every setting of the run is an option of its name."""
    parser = argparse.ArgumentParser(prog="python -m experiments.sidt.structure")
    usual = asdict(Settings())
    for field in fields(Settings):
        value = usual[field.name]
        parser.add_argument(f"--{field.name}", type=type(value), default=value)
    parser.add_argument("--seeds", type=int, default=1, help="0: count only")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--out", type=Path, default=Path("runs/sidt-structure"))
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Count, train, and write results.json and results.md."""
    chosen = vars(options().parse_args(arguments))
    out, seeds, threads = (chosen.pop(name) for name in ("out", "seeds", "threads"))
    torch.set_num_threads(threads)
    settings, console, started = Settings(**chosen), Console(), time.monotonic()
    config: Config = SwinConfig()
    tables = [size_table(config, sizes(config, CLASSES["4.4"]))]
    console.print(Markdown(tables[0]))
    arms: list[Arm] = []
    with Progress(console=console) as progress:
        epochs = settings.epochs + (1 + len(SHARES)) * settings.tune
        bar = progress.add_task("training", total=seeds * epochs)
        for seed in range(seeds):
            arms += study(seed, settings, lambda: progress.advance(bar))
    if arms:
        tables.append(training_table(arms))
        console.print(Markdown(tables[1]))
    tables.append(f"{time.monotonic() - started:.0f} s\n")
    out.mkdir(parents=True, exist_ok=True)
    results = {"settings": asdict(settings), "arms": [asdict(arm) for arm in arms]}
    write(out / "results.json", json.dumps(results) + "\n")
    write(out / "results.md", "\n\n".join(tables))


if __name__ == "__main__":
    main()
