"""Each way of cutting a trained network: its accuracy right after the cut, and fine-tuned."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import nn

from benchmarks.cut.arms import cost, pruned
from benchmarks.cut.torch_pruning import PEER
from benchmarks.cut.tuning import Recipe, Remembered, tuned
from benchmarks.cut_networks.networks import Network
from benchmarks.cut_networks.task import accuracy_and_loss, loss
from benchmarks.rows import add_rows, read_rows
from ramify.train.norm_statistics import recompute_statistics

Row = dict[str, Any]


class Comparison:
    """A trained network, and the finished rows.

    Args:
        network: the network with its data.
        weights: a safetensors file of its weights.
        out: the file of rows, one per line, from which an interrupted run resumes.
    """

    def __init__(self, network: Network, weights: Path, out: Path) -> None:
        self._network, self._out = network, out
        self._task = network.task()
        self._weights = load_file(weights)
        self._teacher = Remembered(self._full())
        self._example = self._task.test[0][0][:1]
        self._before = cost(self._full(), self._example)
        self.rows: list[Row] = read_rows(out)

    def run(
        self, arm: str, share: float, seed: int, recipes: Sequence[Recipe | None]
    ) -> Iterator[Row]:
        """Cut the network, and fine-tune copies of it by each recipe; finished rows are skipped.

        Args:
            arm: one of `benchmarks.cut.arms.ARMS`; "full" is the uncut network.
            share: the share of the MACs to keep.
            seed: seed of the calibration sample and of fine-tuning.
            recipes: the recipes; None means right after the cut.

        Yields:
            The rows.
        """
        wanted = [recipe for recipe in recipes if not self._done(arm, share, seed, recipe)]
        if not wanted:
            return
        began, model = time.process_time(), self._full()
        sample = self._task.calibration(seed)
        try:
            if arm != "full":
                settings = self._network.peer
                model = pruned(arm, model, self._example, loss, sample, share, settings)
        except Exception as error:  # any error of a peer is recorded as its result
            if not arm.startswith(PEER):
                raise
            why = f"{type(error).__name__}: {error}"[:200]
            yield self._kept({"arm": arm, "share": share, "seed": seed, "recipe": None, "why": why})
            return
        seconds = time.process_time() - began
        for recipe in wanted:
            began, own = time.process_time(), copy.deepcopy(model)
            if recipe is not None:
                tuned(own, loss, partial(self._task.some, seed), recipe, self._teacher)
                seconds = time.process_time() - began
            named = {"arm": arm, "share": share, "seed": seed, "recipe": recipe and asdict(recipe)}
            as_it_is = recipe is None and not arm.startswith(PEER)
            found = self._measured(own, as_it_is, recipe is not None)
            yield self._kept(named | found | {"seconds": seconds})

    def _measured(self, model: nn.Module, as_it_is: bool, held: bool) -> Row:
        """Test with recomputed norm statistics; optionally also without, and on validation data."""
        found: Row = {}
        if as_it_is:
            found["as_it_is"], _ = accuracy_and_loss(model, self._task.test)
        recompute_statistics(model, loss, self._task.settling)
        if held:
            found["held"], _ = accuracy_and_loss(model, self._task.validation)
        accuracy, entropy = accuracy_and_loss(model, self._task.test)
        left = cost(model, self._example)
        return found | {
            "accuracy": accuracy,
            "loss": entropy,
            "macs": left.macs / self._before.macs,
            "params": left.params / self._before.params,
        }

    def _kept(self, row: Row) -> Row:
        self.rows.append(row)
        add_rows(self._out, [row])
        return row

    def _done(self, arm: str, share: float, seed: int, recipe: Recipe | None) -> bool:
        wanted = (arm, share, seed, recipe and asdict(recipe))
        return any(_key(row) == wanted for row in self.rows)

    def _full(self) -> nn.Module:
        return self._task.trained(self._weights)


def _key(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("arm", "share", "seed", "recipe"))


def table(rows: Iterable[Row]) -> str:
    """Means and spreads over seeds as Markdown.

    If an arm has several learning rates at a share, each seed uses the one that is best on the
    validation samples.

    Args:
        rows: the rows of one network.

    Returns:
        A line for each share and arm.
    """
    lines = [
        "| MACs | arm | parameters | right after the cut | loss | fine-tuned | loss "
        "| rates | seeds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    cells: dict[tuple[float, str], list[Row]] = {}
    for row in rows:
        cells.setdefault((row["share"], row["arm"]), []).append(row)
    for (share, arm), own in sorted(cells.items(), key=lambda cell: -cell[0][0]):
        why = [row["why"] for row in own if "why" in row]
        if why:
            lines.append(f"| {100 * share:.0f} % | {arm} | {why[0]} | | | | | | |")
            continue
        right = [row for row in own if row["recipe"] is None]
        best: dict[int, Row] = {}
        for row in own:
            if row["recipe"] and row["held"] > best.get(row["seed"], {"held": -1.0})["held"]:
                best[row["seed"]] = row
        chosen = list(best.values())
        rates = ", ".join(sorted({f"{row['recipe']['lr']:g}" for row in chosen}))
        macs, params = (_mean(own, name, 100, "") for name in ("macs", "params"))
        cells_of = [
            _mean(some, name, 1, way)
            for some in (right, chosen)
            for name, way in (("accuracy", "±"), ("loss", ".3f"))
        ]
        seeds = f"{len(right)}, {len(chosen)}"
        lines.append(
            f"| {macs} % | {arm} | {params} % | {' | '.join(cells_of)} | {rates} | {seeds} |"
        )
    return "\n".join(lines)


def _mean(rows: Sequence[Row], name: str, times: float, way: str) -> str:
    values = [times * row[name] for row in rows]
    if not values:
        return ""
    mean = statistics.fmean(values)
    if way == ".3f":
        return f"{mean:.3f}"
    spread = f" ± {statistics.stdev(values):.1f}" if way and len(values) > 1 else ""
    return f"{mean:.1f}{spread}"
