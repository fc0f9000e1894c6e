"""Recompute the running statistics of batch norms at the end of training."""

import copy
from collections.abc import Iterable
from itertools import chain, islice
from typing import Any

import torch
from torch import nn

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
    mode, so dropout stays off. The batches must be shuffled as in training: if each held a single
    class, the mean variance would be too small.

    Args:
        model: The network; only its norm statistics change.
        loss: ``loss(model, batch)``, which runs the network.
        batches: Training batches, of which the first 100 are used.

    Returns:
        Whether the network has such norms.

    Raises:
        RamifyError: There is no batch.
    """
    norms = [
        one
        for one in model.modules()
        if isinstance(one, nn.modules.batchnorm._BatchNorm) and one.running_mean is not None
    ]
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
                norm.momentum = None  # PyTorch then takes the mean over all batches
            for batch in islice(chain([first], passing), BATCHES):
                checked_loss(loss, model, batch)
                count += 1
    except BaseException:
        for norm, (_, state) in zip(norms, held, strict=True):
            norm.load_state_dict(state)
        raise
    finally:
        for norm, (momentum, _) in zip(norms, held, strict=True):
            norm.momentum = momentum
    for norm in norms:
        for tensor in (norm.running_mean, norm.running_var):
            if tensor is not None:
                [mean] = distributed.all_mean([tensor], count)
                tensor.copy_(mean)
    return True
