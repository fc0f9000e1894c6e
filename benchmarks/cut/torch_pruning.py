"""Torch-Pruning's arms: L1, Taylor and Hessian, layer by layer and over all layers, at equal MACs.

    pip install --no-deps torch-pruning==1.6.1

Its Hessian importance uses only the squared gradient of the last sample (`accumulate_grad` looks up
a name among tensors); here it gets the mean over all samples, as its documentation describes.
"""

from __future__ import annotations

import copy
import importlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

import ramify
from benchmarks.zoo.peer import last_layers
from ramify.cost import graph_cost
from ramify.probe.loss import Loss

PEER = "TP "
"""Prefix of Torch-Pruning's arms; their norm statistics are wrong until recomputed."""

ARMS = tuple(
    f"{PEER}{score} {scope}"
    for score in ("L1", "Taylor", "Hessian")
    for scope in ("layer", "global")
)
"""Score and scope."""

Settings = Callable[[nn.Module], Mapping[str, Any]]
"""Network-specific arguments of its pruner: `num_heads`, `ignored_layers`."""

WITHIN = 0.01
"""The tolerance of the share of the MACs."""
TRIALS = 16
"""The most ratios that are tried."""


def pruned(
    arm: str,
    model: nn.Module,
    example: Any,
    loss: Loss,
    calibration: Sequence[Any],
    share: float,
    settings: Settings | None = None,
) -> nn.Module:
    """Prune copies of a network until one has the requested share of the MACs.

    Args:
        arm: one of `ARMS`.
        model: the network, which is not changed.
        example: one input of it.
        loss: `loss(model, batch)` -> (S,).
        calibration: batches for Taylor and Hessian.
        share: the share of the MACs to keep, as `ramify.cost` counts them.
        settings: further arguments of the pruner; by default the layers that produce the outputs
            are ignored.

    Returns:
        The copy whose MACs are closest.
    """
    _, score, scope = arm.split()
    gradients = {} if score == "L1" else _gradients(model, loss, calibration, score == "Hessian")
    now, low, high = _macs(model, example), 0.0, 1.0
    best, distance = model, float("inf")
    for _ in range(TRIALS):
        ratio = (low + high) / 2
        tried = copy.deepcopy(model)
        for name, parameter in tried.named_parameters():
            parameter.grad = gradients[name].clone() if name in gradients else None
        _prune(tried, example, score, scope == "global", ratio, settings)
        left = _macs(tried, example) / now
        if abs(left - share) < distance:
            best, distance = tried, abs(left - share)
        if distance <= WITHIN * share:
            break
        low, high = (ratio, high) if left > share else (low, ratio)
    best.zero_grad(set_to_none=True)
    return best.eval()


def _prune(
    model: nn.Module,
    example: Any,
    score: str,
    over_all: bool,
    ratio: float,
    settings: Settings | None,
) -> None:
    tp = importlib.import_module("torch_pruning")
    importance = {
        "L1": lambda: tp.importance.MagnitudeImportance(p=1),
        "Taylor": tp.importance.TaylorImportance,
        "Hessian": tp.importance.HessianImportance,
    }[score]()
    asked = {"ignored_layers": last_layers(model, example)} if settings is None else settings(model)
    own = {"in_channel_groups": {}, "out_channel_groups": {}, "num_heads": {}} | dict(asked)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pruner = tp.pruner.BasePruner(
            model,
            example,
            importance=importance,
            global_pruning=over_all,
            pruning_ratio=ratio,
            **own,
        )
        pruner.step()


def _gradients(
    model: nn.Module, loss: Loss, batches: Sequence[Any], squared: bool
) -> dict[str, Tensor]:
    """The mean gradient of each parameter, or the mean of its square over single samples."""
    sums: dict[str, Tensor] = {}
    count = 0
    for batch in _singles(batches) if squared else batches:
        model.zero_grad(set_to_none=True)
        losses = loss(model, batch)
        losses.sum().backward()
        count += len(losses)
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                own = parameter.grad.square() if squared else parameter.grad
                sums[name] = sums[name] + own if name in sums else own.clone()
    model.zero_grad(set_to_none=True)
    return {name: total / count for name, total in sums.items()}


def _singles(batches: Sequence[Any]) -> Iterator[Any]:
    """Batches of one sample."""
    for batch in batches:
        tensors: list[Tensor] = []
        tree_map_only(Tensor, tensors.append, batch)
        for n in range(len(tensors[0])):
            yield tree_map_only(Tensor, partial(_row, n), batch)


def _row(n: int, tensor: Tensor) -> Tensor:
    return tensor[n : n + 1]


def _macs(model: nn.Module, example: Any) -> int:
    return graph_cost(ramify.trace(model, example)).macs
