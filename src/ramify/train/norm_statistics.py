"""Recompute the running statistics of batch norms at the end of training."""

import copy
from collections.abc import Iterable
from itertools import chain, islice
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ramify import distributed
from ramify.errors import RamifyError
from ramify.probe.loss import Loss, checked_loss
from ramify.tracing.recorder import modes_kept

BATCHES = 100
"""Enough batches for means and variances of channels."""


def recompute_statistics(model: nn.Module, loss: Loss, batches: Iterable[Any]) -> bool:
    """Set the statistics of every batch norm to their mean over batches at the present weights.

    During training a running statistic averages over the weights of many steps; with a small
    momentum and few epochs it lags behind the present network. Only the norms are put into training
    mode, so dropout stays off. Norms that the model's own ``train`` leaves in evaluation mode are
    frozen and keep their statistics, and so do norms that no batch reaches. The batches must be
    shuffled as in training: if each held a single class, the mean variance would be too small.

    Args:
        model: The network; only its norm statistics change.
        loss: ``loss(model, batch)``, which runs the network.
        batches: Training batches, of which the first 100 are used.

    Returns:
        Whether the network has such norms.

    Raises:
        RamifyError: There is no batch.
    """
    norms = norms_in_training(model)
    if not norms:
        return False
    passing = iter(batches)
    if (first := next(passing, None)) is None:
        raise RamifyError("there is no batch to find the statistics of batch norms on")
    held = [(norm.momentum, copy.deepcopy(norm.state_dict())) for norm in norms]
    count = 0
    try:
        with modes_kept(model), torch.no_grad():
            model.eval()
            for norm in norms:
                norm.train()
                norm.reset_running_stats()
            for count, batch in enumerate(islice(chain([first], passing), BATCHES), 1):
                for norm in norms:  # the statistics are the mean over all batches
                    norm.momentum = None if _is_of_torch(norm) else 1 / count
                checked_loss(loss, model, batch)
    except BaseException:
        for norm, (_, state) in zip(norms, held, strict=True):
            norm.load_state_dict(state)
        raise
    finally:
        for norm, (momentum, _) in zip(norms, held, strict=True):
            norm.momentum = momentum
    _average(norms, [state for _, state in held], count)
    return True


def _average(norms: list[_BatchNorm], held: list[dict[str, Any]], count: int) -> None:
    """Average the statistics over ranks, and restore those of norms that no batch reached.

    Args:
        norms: The norms.
        held: The state of each before.
        count: The number of this rank's batches.
    """
    counts = [count * _was_reached(norm) for norm in norms]
    [totals] = distributed.all_sum([torch.tensor(counts, dtype=torch.float64)])
    for norm, state, own, total in zip(norms, held, counts, totals.tolist(), strict=True):
        if not total:
            norm.load_state_dict(state)
            continue
        for tensor in (norm.running_mean, norm.running_var):
            if tensor is not None:
                [mean] = distributed.all_mean([tensor], own)
                tensor.copy_(mean)


def norms_in_training(model: nn.Module) -> list[_BatchNorm]:
    """The batch norms whose statistics change in training; a model may keep some frozen."""
    with modes_kept(model):
        model.train()
        return [
            one
            for one in model.modules()
            if isinstance(one, _BatchNorm) and one.running_mean is not None and one.training
        ]


def _is_of_torch(norm: _BatchNorm) -> bool:
    """Whether the momentum may be None; a subclass with its own forward may multiply by it."""
    return type(norm).forward.__module__.startswith("torch.nn.")


def _was_reached(norm: _BatchNorm) -> bool:
    """Whether a batch has changed the statistics since they were reset."""
    mean, variance = norm.running_mean, norm.running_var
    return (mean is not None and bool(mean.any())) or (
        variance is not None and bool((variance != 1).any())
    )
