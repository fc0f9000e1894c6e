"""The running statistics of batch norms, found anew at the end of a training."""

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
"""So many batches are enough for means and variances of channels."""


def recompute_statistics(model: nn.Module, loss: Loss, batches: Iterable[Any]) -> bool:
    """Give every batch norm the mean of the statistics that batches have now.

    In training a running statistic is an average over the weights of many steps; with a small
    momentum and few epochs it is that of another network. Only the norms are in training mode
    meanwhile, so that dropout rests. The batches have to be mixed as in training: of batches that
    hold one class each, the mean variance is too small.

    Args:
        model: The network; everything but the statistics stays as it is.
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
                norm.momentum = None  # torch's word for the mean over all batches
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
