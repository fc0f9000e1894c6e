"""One epoch of plain training, with its settings and its optimizer; and evaluation.

``S`` is the number of samples in a batch.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from ramify import distributed
from ramify.arguments import check_settings
from ramify.data.task import CLASSIFICATION, Task
from ramify.errors import RamifyError, derivatives, did_you_mean
from ramify.probe.loss import Loss, check_weights, checked_loss
from ramify.tracing.recorder import evaluating
from ramify.train.divergence import DivergenceWatch

OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("cosine", "steps", "constant")
SPANS = ("round", "run")
IMPROVEMENT = 0.01
"""The relative fall of the training loss below which it has reached a plateau."""


@dataclass(frozen=True)
class Training:
    """How a network trains between two changes of its shape.

    Attributes:
        epochs: The most passes over the data in each round; 0 for no training.
        optimizer: ``"sgd"``, ``"adam"`` or ``"adamw"``.
        lr: Learning rate at the start of each round.
        momentum: Momentum of SGD.
        nesterov: Whether to use Nesterov momentum.
        weight_decay: Applied to every parameter, as in the papers.
        schedule: ``"cosine"`` falls to 0, ``"steps"`` divides by 10 at each milestone,
            ``"constant"`` stays.
        milestones: Where ``"steps"`` divides, as shares of the schedule.
        warmup: Share of the schedule over which the learning rate rises from 0 to its full value.
        span: The length of the schedule: ``"round"`` restarts it after each edit (S2D, S3D),
            ``"run"`` stretches it over the training epochs of all rounds (Gauss-Newton), so that
            the learning rate does not jump at an edit.
        patience: A round before a possible edit ends early if the mean training loss fell by no
            more than 1 % over this many epochs (S2D, Algorithm 1, step 1); None for rounds of equal
            length. The last round trains for all its epochs and, if the schedule spans the run,
            also for those that earlier rounds saved.
        total_epochs: Epochs of the whole run, if the schedule spans the run; after its last edit
            the network trains until they are complete. None means ``epochs`` for each round and
            before the first.

    Raises:
        RamifyError: A setting is unknown or out of range.

    Example:
        >>> training = Training(epochs=20, lr=0.05, schedule="steps", milestones=(0.5, 0.75))
        >>> [training.factor(step, total=100) for step in (0, 50, 75)]
        [1.0, 0.1, 0.01]
    """

    epochs: int = 10
    optimizer: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    schedule: str = "cosine"
    milestones: tuple[float, ...] = (0.5, 0.75)
    span: str = "round"
    warmup: float = 0.0
    patience: int | None = None
    total_epochs: int | None = None

    def __post_init__(self) -> None:
        check_settings(self)
        for name, value, known in (
            ("optimizer", self.optimizer, OPTIMIZERS),
            ("schedule", self.schedule, SCHEDULES),
            ("span", self.span, SPANS),
        ):
            if value not in known:
                near = did_you_mean(str(value), known)
                raise RamifyError(
                    f"unknown {name} {value!r}{near}; choose one of {', '.join(known)}."
                )
        if self.epochs < 0:
            raise RamifyError(f"epochs is {self.epochs}; it must not be negative.")
        if not 0 <= self.warmup < 1:
            raise RamifyError(f"warmup is {self.warmup}; it must be at least 0 and below 1.")
        if self.patience is not None and self.patience < 1:
            raise RamifyError(
                f"patience is {self.patience}; it must be a number of epochs, 1 or more."
            )
        if self.total_epochs is not None and (self.span != "run" or self.total_epochs < 1):
            raise RamifyError(
                f"total_epochs is {self.total_epochs} with span={self.span!r}; it must be 1 "
                'or more, and needs span="run".'
            )
        if not 0 < self.lr < math.inf:
            raise RamifyError(f"the learning rate is {self.lr}; it must be above 0 and finite.")
        if not 0 <= self.momentum < 1:
            raise RamifyError(f"momentum is {self.momentum}; it must be at least 0 and below 1.")
        if not 0 <= self.weight_decay < math.inf:
            raise RamifyError(f"weight_decay is {self.weight_decay}; it must not be negative.")
        if self.nesterov and not self.momentum > 0:
            raise RamifyError("nesterov needs momentum; give a momentum above 0.")
        marks = (0.0, *self.milestones, 1.0)
        if not all(one < two for one, two in itertools.pairwise(marks)):
            raise RamifyError(
                f"milestones are {', '.join(map(str, self.milestones))}; give rising shares "
                "between 0 and 1, such as 0.5, 0.75."
            )

    def factor(self, step: int, total: int) -> float:
        """The learning rate of a step as a factor of ``lr``.

        Args:
            step: Steps of the schedule already made.
            total: Steps of the whole schedule.

        Returns:
            A factor in [0, 1].

        Example:
            >>> Training().factor(2, 4), Training(schedule="steps").factor(3, 4)
            (0.5, 0.01)
            >>> [Training(schedule="constant", warmup=0.5).factor(step, 4) for step in range(3)]
            [0.5, 1.0, 1.0]
        """
        rising = self.warmup * total
        if step + 1 < rising:
            return (step + 1) / rising * self._falling(step / total)
        return self._falling(step / total)

    def flat(self, losses: Sequence[float]) -> bool:
        """Whether the loss has reached a plateau: the last epochs brought no new minimum.

        Args:
            losses: The mean training loss of each epoch of a round so far.

        Returns:
            Whether the round may end early, before an edit.

        Example:
            >>> training = Training(patience=2)
            >>> training.flat([1.0, 0.5, 0.4]), training.flat([1.0, 0.5, 0.498, 0.6])
            (False, True)
        """
        if self.patience is None or len(losses) <= self.patience:
            return False
        before = min(losses[: -self.patience])
        return min(losses[-self.patience :]) >= before - IMPROVEMENT * abs(before)

    def _falling(self, done: float) -> float:
        """The schedule after the warm-up; ``done`` is the share that has passed."""
        if self.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * done))
        if self.schedule == "steps":
            return 1 / 10 ** sum(done >= milestone for milestone in self.milestones)
        return 1.0


def make_optimizer(model: nn.Module, training: Training) -> Optimizer:
    """The optimizer that ``training`` names, over all parameters, for use in ``train_epoch``."""
    return optimizer_over(model.parameters(), training)


def optimizer_over(parameters: Iterable[Tensor], training: Training) -> Optimizer:
    """The optimizer that ``training`` names, over these parameters."""
    lr, decay = training.lr, training.weight_decay
    groups = [{"params": list(parameters), "initial_lr": lr}]
    if training.optimizer == "sgd":
        return SGD(
            groups,
            lr=lr,
            momentum=training.momentum,
            nesterov=training.nesterov,
            weight_decay=decay,
        )
    kind = Adam if training.optimizer == "adam" else AdamW
    return kind(groups, lr=lr, weight_decay=decay)


def train_epoch(
    model: nn.Module,
    loss: Loss,
    batches: Iterable[Any],
    optimizer: Optimizer,
    factor: Callable[[int], float],
    where: str = "training",
    after_step: Callable[[nn.Module], None] | None = None,
    watch: DivergenceWatch | None = None,
) -> tuple[float, int]:
    """One pass of ordinary training.

    Args:
        model: The network; it is left in training mode.
        loss: ``loss(model, batch)``, one loss a sample, shape (S,).
        batches: The batches of this epoch.
        optimizer: Its groups' ``initial_lr`` is what ``factor`` multiplies.
        factor: Step of this epoch -> factor of the learning rate.
        where: The name of this epoch in errors.
        after_step: Called with the model after each step, for example to update a weight average.
        watch: The state at the start of the run; by default that at the start of this epoch.

    Returns:
        The mean training loss, and the number of steps.

    Raises:
        RamifyError: The loss is not one a sample or depends on no parameter, the training
            diverged (the loss, a weight or a buffer is not finite or exceeds its bound), or
            there are no batches.
    """
    model.train()
    watch = DivergenceWatch(model) if watch is None else watch
    total, samples, steps = 0.0, 0, 0
    for batch in batches:
        # The learning rate is a function of the step, so that resuming needs no scheduler.
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor(steps)
        with located(f"{where}, step {steps}"):
            losses = checked_loss(loss, model, batch)
            check_trains(losses)
            total += (here := float(losses.detach().sum()))
            watch.loss(here / len(losses))
        descend(model, losses, optimizer)
        if after_step is not None:
            after_step(model)
        samples += len(losses)
        steps += 1
    if steps == 0:
        raise RamifyError(
            f"the data gave no batch at {where}; give a list, a DataLoader or a function of the "
            "epoch, not an iterator that ends after one pass."
        )
    with located(f"after {where}"):
        check_weights(model)
        watch.weights()
    if distributed.world_size() > 1:
        distributed.share_buffers(model)
    return _over_ranks(total / samples, samples), steps


def check_trainable(model: nn.Module, training: Training) -> None:
    """Raise a RamifyError if a model is to be trained and all of its parameters are frozen."""
    if training.epochs and not any(each.requires_grad for each in model.parameters()):
        raise RamifyError(
            "no parameter of the network takes gradients, so that none can be trained: unfreeze "
            "some, or give training=ramify.Training(epochs=0)"
        )


def check_trains(losses: Tensor) -> None:
    """Raise a RamifyError if the losses depend on no parameter that takes gradients."""
    if not losses.requires_grad:
        raise RamifyError(
            "the loss depends on no parameter that takes gradients; unfreeze some, and train "
            "outside of torch.no_grad"
        )


def descend(model: nn.Module, losses: Tensor, optimizer: Optimizer) -> None:
    """One step of an optimizer on the mean loss over the samples of all ranks.

    Args:
        model: The network.
        losses: Those of this rank's samples, shape (S,), after :func:`check_trains`.
        optimizer: The optimizer of the network's parameters.
    """
    # First the mean of this process, then the gradients averaged over all processes.
    optimizer.zero_grad(set_to_none=True)
    with derivatives():
        losses.mean().backward()
    distributed.average_gradients(model.parameters(), len(losses))
    optimizer.step()


def _over_ranks(mean: float, samples: int) -> float:
    [value] = distributed.all_mean([torch.tensor(mean, dtype=torch.float64)], samples)
    return float(value)


@contextmanager
def located(where: str) -> Iterator[None]:
    """Prefix a RamifyError with the place where it happened."""
    try:
        yield
    except RamifyError as error:
        raise type(error)(f"{where}: {error}") from None


def cross_entropy(
    model: nn.Module, batch: tuple[Tensor, Tensor], label_smoothing: float = 0.0
) -> Tensor:
    r"""The cross-entropy of ``(x, y)``, one a sample, with label smoothing.

    .. math:: -(1 - \alpha) \log p_y - \frac{\alpha}{K} \sum_{k=1}^K \log p_k

    Args:
        model: A classifier that returns one score for each of K classes.
        batch: Inputs and labels.
        label_smoothing: α, the share of each label that is spread evenly over all classes; S3D
            trains on ImageNet with 0.1.

    Returns:
        The losses, shape (S,).

    Example:
        >>> from functools import partial
        >>> batch = torch.zeros(2, 3), torch.tensor([0, 1])
        >>> smoothed = partial(cross_entropy, label_smoothing=0.1)  # a loss for ramify.grow
        >>> smoothed(nn.Linear(3, 4), batch).shape
        torch.Size([2])

    Source: C. Szegedy and others, "Rethinking the Inception architecture for computer vision",
    section 7.
    """
    return CLASSIFICATION.loss(model, batch, label_smoothing)


def evaluate(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], task: Task = CLASSIFICATION
) -> tuple[float, float]:
    """Mean loss and metric of a network, in evaluation mode.

    Args:
        model: The network.
        batches: Samples and labels; must be a list if the metric is the user's own.
        task: The task of the network; by default classification.

    Returns:
        The mean loss over samples and the metric; for classification these are cross-entropy and
        accuracy in [0, 1].
    """
    with evaluating(model):
        return task.measured(model, batches)
