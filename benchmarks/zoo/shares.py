"""A table of the prunable and splittable share of the parameters of models."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import torch

import ramify
from benchmarks.zoo.entries import Entry
from benchmarks.zoo.examine import prepare, share


def print_shares(entries: Iterable[Entry]) -> None:
    """Trace every model, and print the row of each as soon as it is known.

    Args:
        entries: the models.
    """
    warnings.filterwarnings("ignore")
    print("|model|parameters|groups|prunable|splittable|\n|---|---|---|---|---|", flush=True)
    for entry in entries:
        model, inputs = prepare(entry, torch.float32)
        graph = ramify.trace(model, inputs)
        prunable = [group for group in graph.groups if group.can_prune]
        splittable = [group for group in graph.groups if group.can_split]
        size = sum(parameter.numel() for parameter in model.parameters())
        print(
            f"|{entry.name}|{size:,}|{len(prunable)}/{len(graph.groups)}|"
            f"{share(graph, prunable):.0%}|{share(graph, splittable):.0%}|",
            flush=True,
        )
