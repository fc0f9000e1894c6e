"""The same model in Torch-Pruning: half of its channels at random, with its own grouping.

Outputs are compared too, with those of the original model in which the columns that read pruned
channels are zeroed. They must agree for groups that contain only convolutions with one group,
linear layers, batch norms and operations without weights; a norm over channels would change.
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
"""Layers in which no channel affects another."""


def prune(entry: Entry, report: Report) -> Row:
    """Prune with `torch_pruning`, which is told only the layers that produce the outputs.

    Args:
        entry: the model.
        report: called after the model is built.

    Returns:
        `status`, one of `pass` (forward and backward run, outputs keep their shapes), `no-op` and
        `fail`, with `why`; `seconds`; `left`, the remaining share of the parameters; and `values`
        if it passes, see :func:`compare`.
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
    except Exception as error:  # any error is the finding
        why = f"{type(error).__name__}: {error}"[:200]
        return {"status": "fail", "why": why, "seconds": time.process_time() - start}
    left = sum(p.numel() for p in model.parameters()) / max(before, 1)
    row: Row = {"status": "pass" if left < 1 else "no-op", "seconds": seconds, "left": left}
    if left < 1:
        report(row | {"stage": "comparing its values"})
        row["values"] = compare(whole, inputs)
    return row


def pruner_of(model: nn.Module, inputs: Any) -> Any:
    """A pruner of Torch-Pruning that removes half of a model."""
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
    """Whether the pruned model's outputs equal those of the original with pruned channels zeroed.

    Args:
        model: the unpruned model.
        inputs: its inputs.

    Returns:
        `as masked`; `differ`, with the difference; empty if no group can be compared.
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
    """Whether a layer treats channels separately, or is an operation node of Torch-Pruning."""
    if isinstance(module, nn.modules.conv._ConvNd):
        return module.groups in (1, module.out_channels)
    noted = type(module).__module__.startswith("torch_pruning")
    return noted or isinstance(module, (*OF_ONE_CHANNEL, nn.Parameter))


def _mask(layer: nn.Module, name: str, channels: Sequence[int], left: dict[str, list[int]]) -> None:
    """Zero the columns that read some channels, which are numbered among the remaining ones."""
    if not isinstance(layer, (nn.Linear, nn.modules.conv._ConvNd)):
        return
    if getattr(layer, "groups", 1) > 1:  # depthwise: the layers that read it are masked
        return
    axis = 0 if getattr(layer, "transposed", False) else 1
    own = left.setdefault(name, [*range(layer.weight.shape[axis])])
    gone = [own[channel] for channel in channels]
    with torch.no_grad():
        layer.weight.index_fill_(axis, torch.tensor(gone), 0.0)
    left[name] = [channel for channel in own if channel not in set(gone)]


def last_layers(model: nn.Module, inputs: Any) -> list[nn.Module]:
    """The layers that directly produce the model's outputs, or else the last one that runs."""
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
