"""The learning rate of fine-tuning: the largest that does no harm in a short trial."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any

import torch
from torch import nn

from ramify.errors import Diverged
from ramify.probe.loss import Loss, mean_loss, shaped_loss
from ramify.refit.at_chance import constant_loss
from ramify.refit.outcome import put_state, state_of
from ramify.tracing.untouched import untouched
from ramify.train.epoch import Training, check_trains, descend, make_optimizer
from ramify.train.norm_statistics import recompute_statistics
from ramify.train.passes import Data, Epoch

FACTORS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""The learning rates that may be tried, relative to that of the settings."""
SHARE, LEAST, MOST = 0.1, 10, 100
"""The steps of a trial: their share of the fine-tuning, and the fewest and the most."""
HARM = 0.07
"""The share of what the network has learned that it may lose in a harmless trial."""


@dataclass(frozen=True)
class RateTrial:
    """A short training of the cut network, which is undone.

    Attributes:
        lr: The learning rate.
        loss: The mean loss after it, on the samples that judge; infinity if it diverged.
    """

    lr: float
    loss: float


@dataclass(frozen=True)
class TuningRate:
    """The learning rate that was found.

    Attributes:
        lr: The largest rate of a harmless trial, or the smallest that was tried.
        loss: The mean loss before training, on the samples that judge.
        steps: The steps of each trial.
        trials: The trials in order.
    """

    lr: float
    loss: float
    steps: int
    trials: Sequence[RateTrial]

    def event(self) -> dict[str, Any]:
        """Plain values for the history; None for a loss that is not finite."""
        trials = [[one.lr, one.loss if math.isfinite(one.loss) else None] for one in self.trials]
        return {"lr": self.lr, "loss": self.loss, "trial_steps": self.steps, "trials": trials}


def tuning_rate(  # noqa: PLR0913  (what a fine-tuning is made of)
    model: nn.Module,
    loss: Loss,
    taught: Loss,
    data: Data,
    *,
    epoch: int,
    steps: int,
    training: Training,
    sample: Sequence[Any],
    held: Sequence[Any],
) -> TuningRate:
    """Find a learning rate for fine-tuning a network that was just cut; it is left unchanged.

    A rate that is too high destroys within a few steps what the cut has kept, and one that is too
    low recovers less. Each trial takes a tenth of the steps, under the whole schedule in short. It
    is harmless if it loses at most 7 % of what the network had learned, in the best trial before or
    without any: of the difference between that loss and the loss at chance. The search begins at
    the rate of ``training`` and goes up while trials are harmless, or down until one is.

    Args:
        model: The cut network.
        loss: ``loss(model, batch)``, one loss a sample, shape (S,), by which trials are judged.
        taught: The loss that is trained on.
        data: The training batches.
        epoch: The number of the epoch from which a trial takes its first batches.
        steps: The steps of the whole fine-tuning.
        training: How the network is to be trained; its rate comes first.
        sample: The batches on which statistics of norms are recomputed after a trial.
        held: The batches that judge a trial.

    Returns:
        The rate, and the trials.
    """
    few = min(max(LEAST, round(SHARE * steps)), MOST)
    before = mean_loss(model, loss, held)
    chance, best, trials = constant_loss(model, loss, held), before, list[RateTrial]()
    rates = [float(f"{training.lr * factor:.6g}") for factor in FACTORS]

    def harmless(place: int) -> bool:
        nonlocal best
        # An epoch may hold fewer batches than a trial takes.
        epochs = (Epoch(data, number) for number in range(epoch, epoch + few))
        batches = islice(chain.from_iterable(epochs), few)
        after = _after(
            model, loss, taught, batches, few, replace(training, lr=rates[place]), sample, held
        )
        trials.append(RateTrial(rates[place], after))
        # Where it is not known how much was learned, as for a generator, take the loss itself.
        learned = max(chance - best, 0.0) if math.isfinite(chance) else abs(best)
        allowed, best = best + HARM * learned, min(best, after)
        return after <= allowed

    place = FACTORS.index(1.0)
    if harmless(place):
        while place + 1 < len(FACTORS) and harmless(place + 1):
            place += 1
    else:
        while place > 0:
            place -= 1
            if harmless(place):
                break
    return TuningRate(rates[place], before, few, trials)


def _after(
    model: nn.Module,
    loss: Loss,
    taught: Loss,
    batches: Iterable[Any],
    steps: int,
    training: Training,
    sample: Sequence[Any],
    held: Sequence[Any],
) -> float:
    """The loss after a short training, which is undone; infinity if it is not finite."""
    kept = state_of(model)
    try:
        with untouched(model):
            optimizer = make_optimizer(model, training)
            model.train()
            # Every rank takes all steps: averaged gradients that are not finite reach all of them.
            for step, batch in enumerate(batches):
                for group in optimizer.param_groups:
                    group["lr"] = group["initial_lr"] * training.factor(step, steps)
                losses = shaped_loss(taught, model, batch)
                check_trains(losses)
                descend(model, losses, optimizer)
            if not all(bool(torch.isfinite(one).all()) for one in model.parameters()):
                return math.inf
            mean_loss(model, loss, sample)  # a loss that is not finite ends all ranks here
            recompute_statistics(model, loss, sample)
            return mean_loss(model, loss, held)
    except Diverged:
        return math.inf
    finally:
        put_state(model, kept)
        model.zero_grad(set_to_none=True)
