"""The epochs of a relaxed search, with the same history and checkpoint as training."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import nn

from ramify import distributed
from ramify.arguments import arguments_checked
from ramify.relax import Gates, Pairs, Searcher
from ramify.tracing.recorder import evaluating
from ramify.train.divergence import DivergenceWatch, restored
from ramify.train.epoch import located
from ramify.train.history import SEARCH, Event, Journal
from ramify.train.logs import Log


@arguments_checked
def search(
    searcher: Searcher,
    pairs: Pairs,
    *,
    epochs: int,
    log: Log | None = None,
    checkpoint: str | Path | None = None,
    evaluate: Callable[[nn.Module], Mapping[str, Any]] | None = None,
    after_epoch: Callable[[Event], bool] | None = None,
    tags: Mapping[str, Any] | None = None,
) -> list[Event]:
    """Search for some epochs, with the model in training mode.

    With ``torch.distributed``, every rank calls this function with the same searcher and its own
    share of both halves: gradients and losses are averaged over all ranks, rank 0 writes the
    checkpoint and calls ``log``, and buffers are those of rank 0 after each epoch.

    Args:
        searcher: Takes the steps.
        pairs: The batches of both halves, epoch by epoch.
        epochs: Number of epochs, including those before an interruption.
        log: An object with ``log(dict)``, which gets the numbers of each epoch, or a function that
            is called with its event: ``epoch`` from 0, ``step``, the mean ``loss_a``
            and ``loss_p``, the last ``penalty``, ``seconds``, ``t`` since the beginning, and
            ``alpha``: the smallest, mean and largest of all architecture parameters, and the share
            of zeros.
        checkpoint: A file written after each epoch. If it exists, the search resumes from it, with
            the same numbers as without the interruption.
        evaluate: Returns measures of the model to add to each event, as plain values; called in
            evaluation mode, without gradients.
        after_epoch: Called with the event of each epoch, and on resuming with the last event;
            returns whether to end the search. Called only on rank 0.
        tags: Entries to put at the front of each event.

    Returns:
        All events.

    Raises:
        RamifyError: The loss or α is no longer finite, or all gates of a layer are zero (the
            checkpoint is then that of the last good epoch); the checkpoint is damaged or of
            another search; or the ranks do not hold the same network.

    Example:
        >>> import torch, ramify
        >>> from functools import partial
        >>> from torch import nn
        >>> net, x = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 1)), torch.ones(8, 2)
        >>> gates = ramify.gate(ramify.trace(net, x))
        >>> sgd = partial(torch.optim.SGD, lr=0.01)
        >>> searcher = ramify.relax.RARTS(net, arch=gates, weight_optimizer=sgd, arch_optimizer=sgd,
        ...     loss=lambda model, batch: (model(batch) - 1).square().squeeze(1))
        >>> history = ramify.search(searcher, ramify.relax.Pairs([x[:4]], [x[4:]]), epochs=2)
        >>> [(event["epoch"], event["step"]) for event in history]
        [(0, 1), (1, 2)]
    """
    with distributed.together():
        distributed.check_same(
            "pairs of batches of an epoch", len(pairs), "give every rank as many."
        )
        file = None if checkpoint is None else Path(checkpoint)
        journal = Journal(SEARCH, searcher, file, log, tags or {})
        journal.resume({})
        distributed.check_ranks(searcher.model)
        watch = DivergenceWatch(searcher.model)
        while len(journal.history) < epochs and not _ended(after_epoch, journal.history):
            with restored(searcher):
                now = _epoch(searcher, pairs, len(journal.history), watch)
            with evaluating(searcher.model):
                measures = dict(evaluate(searcher.model) if evaluate else {})
            journal.write("epoch", now | measures)
        return journal.history


def _epoch(searcher: Searcher, pairs: Pairs, epoch: int, watch: DivergenceWatch) -> Event:
    """Take the steps of an epoch, and return its event."""
    start, seen = time.monotonic(), []
    searcher.model.train()
    for step, (batch_a, batch_p) in enumerate(pairs(epoch)):
        with located(f"search, epoch {epoch}, step {step}"):
            seen.append(searcher.step(batch_a, batch_p))
    searcher.share_buffers()
    with located(f"search, after epoch {epoch}"):
        watch.weights()
        for module in searcher.model.modules():
            if isinstance(module, Gates):
                module.check()
    return {
        "epoch": epoch,
        "step": searcher.steps,
        "loss_a": fmean(step.loss_a for step in seen),
        "loss_p": fmean(step.loss_p for step in seen),
        "penalty": seen[-1].penalty,
        "seconds": time.monotonic() - start,
        "alpha": _summary(searcher),
    }


def _summary(searcher: Searcher) -> dict[str, float]:
    entries = torch.cat([alpha.detach().flatten().float() for alpha in searcher.arch])
    return {
        "least": entries.min().item(),
        "mean": entries.mean().item(),
        "largest": entries.max().item(),
        "zeros": (entries == 0).float().mean().item(),
    }


def _ended(after_epoch: Callable[[Event], bool] | None, history: list[Event]) -> bool:
    """Whether the search is to end early, as decided on rank 0."""
    if after_epoch is None or not history:
        return False
    return bool(
        distributed.broadcast(after_epoch(history[-1]) if distributed.is_rank_zero() else None)
    )
