"""The same model in Torch-Pruning: half of its channels at random, by its own grouping.

Its values are compared too, where they should be those of the model before, with the columns that
read the pruned channels at zero: of the groups in which only convolutions of one group, linear
layers, batch norms and operations without weights stand. A norm over channels changes with them.
"""

from __future__ import annotations

import copy
import importlib
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.zoo.comparing import (
    MASKED,
    Wrong,
    outputs,
    rounding_of,
    run,
    same,
    tensors,
)
from benchmarks.zoo.entries import Entry
from benchmarks.zoo.examine import Report, Row, prepare

OF_ONE_CHANNEL = (nn.Linear, nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm, nn.PReLU)
"""Layers in which no channel changes what becomes of another."""


def prune(entry: Entry, report: Report) -> Row:
    """Prune with `torch_pruning`, without hints but the layers that make the outputs.

    Args:
        entry: the model.
        report: called once the model is built.

    Returns:
        `status`, one of `pass` (forward and backward run, outputs keep their shapes), `no-op` and
        `fail`, with `why`; `seconds`, and `left`, the share of the parameters that is left;
        `values`, of what passes: see :func:`compare`.
    """
    warnings.filterwarnings("ignore")
    model, inputs = prepare(entry, torch.float32)
    before = sum(p.numel() for p in model.parameters())
    whole = copy.deepcopy(model)
    shapes = [tuple(t.shape) for t in run(model, inputs)]
    report({"stage": "pruning"})
    start = time.process_time()
    try:
        pruner_of(model, inputs).step()
        seconds = time.process_time() - start
        found = run(model, inputs)
        if [tuple(t.shape) for t in found] != shapes:
            return {"status": "fail", "why": "the outputs have other shapes", "seconds": seconds}
        sum((t.square().mean() for t in found), torch.zeros(())).backward()
    except Exception as error:  # whatever it raises is the finding
        why = f"{type(error).__name__}: {error}"[:200]
        return {"status": "fail", "why": why, "seconds": time.process_time() - start}
    left = sum(p.numel() for p in model.parameters()) / max(before, 1)
    row: Row = {"status": "pass" if left < 1 else "no-op", "seconds": seconds, "left": left}
    if left < 1:
        report(row | {"stage": "comparing its values"})
        row["values"] = compare(whole, inputs)
    return row


def pruner_of(model: nn.Module, inputs: Any) -> Any:
    """Torch-Pruning's pruner of half of a model."""
    tp = importlib.import_module("torch_pruning")
    return tp.pruner.BasePruner(
        model,
        dict(inputs) if isinstance(inputs, Mapping) else inputs,
        importance=tp.importance.RandomImportance(),
        pruning_ratio=0.5,
        ignored_layers=last_layers(model, inputs),
        output_transform=lambda found: sum(t.sum() for t in tensors(found)),
    )


def compare(model: nn.Module, inputs: Any) -> str:
    """Whether the pruned model gives what the model before gives, once what is pruned reads as 0.

    Args:
        model: unpruned.
        inputs: what it is called with.

    Returns:
        `as masked`; `differ`, with by how much; empty where no group can be compared.
    """
    masked, slack = copy.deepcopy(model), max(MASKED[torch.float32], rounding_of(model, inputs))
    names = {module: name for name, module in model.named_modules()}
    left: dict[str, list[int]] = {}
    try:
        pruner = pruner_of(model, inputs)
        for group in pruner.step(interactive=True):
            if not all(_of_one_channel(dep.target.module) for dep, _ in group):
                continue
            for dep, channels in group:
                module = dep.target.module
                if module in names and pruner.DG.is_in_channel_pruning_fn(dep.handler):
                    _mask(masked.get_submodule(names[module]), names[module], channels, left)
            group.prune()
        if not left:
            return ""
        same("values", outputs(masked, inputs), outputs(model, inputs), slack)
    except Wrong as error:
        return f"differ: {error}"
    except Exception as error:
        return f"fail: {type(error).__name__}: {error}"[:200]
    return "as masked"


def _of_one_channel(module: Any) -> bool:
    """Whether a layer treats every channel alone, or is an operation that Torch-Pruning notes."""
    if isinstance(module, nn.modules.conv._ConvNd):
        return module.groups in (1, module.out_channels)
    noted = type(module).__module__.startswith("torch_pruning")
    return noted or isinstance(module, (*OF_ONE_CHANNEL, nn.Parameter))


def _mask(layer: nn.Module, name: str, channels: Sequence[int], left: dict[str, list[int]]) -> None:
    """Put the columns to zero that read some channels, counted among those that are left."""
    if not isinstance(layer, (nn.Linear, nn.modules.conv._ConvNd)):
        return
    if getattr(layer, "groups", 1) > 1:  # a channel of its own each: what reads them is masked
        return
    axis = 0 if getattr(layer, "transposed", False) else 1
    own = left.setdefault(name, [*range(layer.weight.shape[axis])])
    gone = [own[channel] for channel in channels]
    with torch.no_grad():
        layer.weight.index_fill_(axis, torch.tensor(gone), 0.0)
    left[name] = [channel for channel in own if channel not in set(gone)]


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
