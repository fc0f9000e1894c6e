"""The same model in Torch-Pruning: half of its channels at random, by its own grouping."""

from __future__ import annotations

import importlib
import time
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.zoo.comparing import run, tensors
from benchmarks.zoo.entries import Entry
from benchmarks.zoo.examine import Report, Row, prepare


def prune(entry: Entry, report: Report) -> Row:
    """Prune with `torch_pruning`, without hints but the layers that make the outputs.

    Args:
        entry: the model.
        report: called once the model is built.

    Returns:
        `status`, one of `pass` (forward and backward run, outputs keep their shapes), `no-op` and
        `fail`, with `why`; `seconds`, and `left`, the share of the parameters that is left.
    """
    tp = importlib.import_module("torch_pruning")
    warnings.filterwarnings("ignore")
    model, inputs = prepare(entry, torch.float32)
    before = sum(p.numel() for p in model.parameters())
    shapes = [tuple(t.shape) for t in run(model, inputs)]
    kept = last_layers(model, inputs)
    report({"stage": "pruning"})
    start = time.process_time()
    try:
        pruner = tp.pruner.BasePruner(
            model,
            dict(inputs) if isinstance(inputs, Mapping) else inputs,
            importance=tp.importance.RandomImportance(),
            pruning_ratio=0.5,
            ignored_layers=kept,
            output_transform=lambda found: sum(t.sum() for t in tensors(found)),
        )
        pruner.step()
        seconds = time.process_time() - start
        found = run(model, inputs)
        if [tuple(t.shape) for t in found] != shapes:
            return {"status": "fail", "why": "the outputs have other shapes", "seconds": seconds}
        sum((t.square().mean() for t in found), torch.zeros(())).backward()
    except Exception as error:  # whatever it raises is the finding
        why = f"{type(error).__name__}: {error}"[:200]
        return {"status": "fail", "why": why, "seconds": time.process_time() - start}
    left = sum(p.numel() for p in model.parameters()) / max(before, 1)
    return {"status": "pass" if left < 1 else "no-op", "seconds": seconds, "left": left}


def last_layers(model: nn.Module, inputs: Any) -> list[nn.Module]:
    """The layers that make the model's outputs themselves, or else the last one that runs."""
    made: list[tuple[nn.Module, Tensor]] = []
    layers = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.modules.conv._ConvNd))]
    handles = [
        layer.register_forward_hook(lambda module, _, out: made.append((module, out)))
        for layer in layers
    ]
    try:
        with torch.no_grad():
            found = run(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    memory = {tensor.data_ptr() for tensor in found}
    kept = [module for module, out in made if out.data_ptr() in memory]
    return kept or [module for module, _ in made[-1:]]
