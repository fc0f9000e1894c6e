"""Plain training over epochs, with a history and a checkpoint from which it can resume."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from ramify import distributed
from ramify.arguments import check_called, check_kind
from ramify.edit import Follower
from ramify.errors import RamifyError
from ramify.probe.loss import Loss
from ramify.store.state import NetworkInTraining
from ramify.tracing import ChannelGraph, trace
from ramify.tracing.recorder import evaluating
from ramify.train.divergence import DivergenceWatch, restored
from ramify.train.epoch import Training, make_optimizer, train_epoch
from ramify.train.followers import distinct
from ramify.train.history import TRAINING, Event, Journal
from ramify.train.kernel_lengths import kernel_lengths
from ramify.train.logs import Log
from ramify.train.passes import Data, Epoch, steps_of
from ramify.train.rounds import costs

LENGTHS = "kernel_lengths"  # of the initial network, stored in the first event of a run
Evaluate = Callable[[nn.Module], Mapping[str, float]]


@dataclass(frozen=True)
class Grown:
    """The result of :func:`grow`, :func:`shrink` and :func:`train`.

    Attributes:
        graph: The channel graph of the resulting model; the model itself is ``graph.model``.
        optimizer: The optimizer, with its state for that model.
        history: The events of the whole run, including those before an interruption.

    Example:
        >>> import torch, ramify
        >>> from torch import nn
        >>> net, data = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 1)), [torch.ones(8, 2)]
        >>> loss = lambda model, batch: model(batch).square().squeeze(1)
        >>> done = train(net, data[0], loss, data, training=ramify.Training(epochs=2, lr=0.01))
        >>> [event["event"] for event in done.history], done.graph["0"].width
        (['epoch', 'epoch', 'stop'], 4)
    """

    graph: ChannelGraph
    optimizer: Optimizer
    history: list[Event]

    def __repr__(self) -> str:
        """The network and its history in one line."""
        said = " ".join(f"{event['event']}" for event in self.history[-1:])
        ended = f", the last one '{said}'" if said else ""
        return f"<Grown {self.graph!r}, {len(self.history)} events{ended}>"


@dataclass(frozen=True)
class Loop:
    """A network in training, round after round.

    Attributes:
        loss: ``loss(model, batch)``, one loss a sample, shape (S,).
        data: The training batches.
        steps: Batches per epoch.
        training: How to train in each round.
        rounds: The most edits of the network, for a schedule over the whole run.
        subject: The network, its optimizer and its followers.
        journal: The events so far.
        evaluate: Returns measures of the model to add to the event of each epoch; called in
            evaluation mode, without gradients.
        after_step: Called with the model after each step.
    """

    loss: Loss
    data: Data
    steps: int
    training: Training
    rounds: int
    subject: NetworkInTraining
    journal: Journal
    evaluate: Evaluate | None
    after_step: Callable[[nn.Module], None] | None

    def remember_lengths(self, graph: ChannelGraph) -> None:
        """Store the norms of kernels before a batch norm with the first event."""
        if not self.journal.history:
            self.journal.begun_with = {LENGTHS: kernel_lengths(graph)}

    def train_round(self, graph: ChannelGraph, ended: Event | None = None) -> None:
        """Train to the end of the round, from the epoch that the journal has reached.

        Args:
            graph: The graph of the present network, whose cost is recorded with each epoch.
            ended: The reason why editing has ended, and the limits; recorded with each epoch. This
                round then trains for all remaining planned epochs.

        Raises:
            RamifyError: From :func:`ramify.train.epoch.train_epoch`.
        """
        # All changing state is in the journal and its checkpoint, so that resuming is exact.
        journal, model, optimizer = self.journal, self.subject.model, self.subject.optimizer
        first = next((e["train_loss"] for e in journal.history if "train_loss" in e), None)
        watch = DivergenceWatch(model, first)
        while not self.through(last=ended is not None):
            now: Event = {"round": journal.round, "step": journal.step}
            where = f"round {journal.round}, epoch {journal.epoch}"
            batches = Epoch(self.data, journal.passes)
            factor = partial(self._factor, self._done())
            with restored(self.subject):
                mean, made = train_epoch(
                    model, self.loss, batches, optimizer, factor, where, self.after_step, watch
                )
            now |= {"epoch": journal.epoch, "step": journal.step + made}
            now |= {"lr": optimizer.param_groups[0]["lr"], "train_loss": mean}
            measures = self.measures(model)
            now |= {} if ended is None else {"ended": ended}
            journal.write("epoch", now | measures | costs(graph))

    def measures(self, model: nn.Module) -> dict[str, Any]:
        """The result of the user's ``evaluate``.

        Args:
            model: The network.

        Returns:
            Numbers by name; empty without ``evaluate``.

        Raises:
            RamifyError: ``evaluate`` does not return a dictionary.
        """
        if self.evaluate is None:
            return {}
        with evaluating(model):
            found = self.evaluate(model)
        if not isinstance(found, Mapping):
            raise RamifyError(
                "evaluate(model) must return measures by name, such as {'accuracy': 0.9}, but it "
                f"returned {found!r}."
            )
        return dict(found)

    def through(self, *, last: bool = False) -> bool:
        """Whether the training of the round is complete.

        Args:
            last: Whether editing has ended although rounds are left.

        Returns:
            The answer; a round without an edit after it does not end at a plateau.
        """
        journal, epochs = self.journal, self.training.epochs
        last = last or journal.round >= self.rounds
        if last and self.training.span == "run":
            # All planned epochs, without those of earlier rounds.
            epochs = self._planned() - (self._done() - journal.epoch)
        if journal.epoch >= epochs:
            return True
        losses = journal.losses
        return not last and distributed.broadcast(self.training.flat(losses))

    def end(self, graph: ChannelGraph, reason: str, limits: Event) -> None:
        """Train to the end of the schedule (of the run or of a shortened round), then stop.

        Args:
            graph: The graph of the final network.
            reason: Why editing has ended.
            limits: The limits that may end the run.
        """
        self.train_round(graph, {"reason": reason} | limits)
        self.stop(reason, limits)

    def stop(self, reason: str, limits: Event) -> None:
        """Record the end of the run, its reason, and the limits."""
        now: Event = {"round": self.journal.round, "step": self.journal.step}
        self.journal.write("stop", now | {"reason": reason} | limits)

    def _planned(self) -> int:
        """Epochs of the whole schedule."""
        if self.training.total_epochs is not None:
            return self.training.total_epochs
        return self.training.epochs * (1 if self.training.span == "round" else self.rounds + 1)

    def _done(self) -> int:
        """Epochs of the schedule so far; earlier rounds count at most as planned."""
        if self.training.span == "round":
            return self.journal.epoch
        *before, now = self.journal.epochs_by_round
        return sum(min(made, self.training.epochs) for made in before) + now

    def _factor(self, done: int, step: int) -> float:
        """The factor of the learning rate at a step, after ``done`` epochs of the schedule."""
        return self.training.factor(done * self.steps + step, self._planned() * self.steps)


def begin(  # noqa: PLR0913  (what a loop is made of)
    model: nn.Module,
    loss: Loss,
    data: Data,
    *,
    training: Training,
    limits: Event,
    followers: Iterable[Follower] = (),
    after_step: Callable[[nn.Module], None] | None = None,
    evaluate: Evaluate | None = None,
    log: Log | None = None,
    checkpoint: str | Path | None = None,
    tags: Mapping[str, Any] | None = None,
) -> Loop:
    """A new loop, or one restored from its checkpoint; arguments as in `ramify.grow`."""
    for name, value, kind in (("model", model, nn.Module), ("training", training, Training)):
        if not isinstance(value, kind):
            raise RamifyError(
                f"`{name}` must be a {kind.__name__}, but got "
                f"{'a class' if isinstance(value, type) else 'a ' + type(value).__name__}"
            )
    check_called(after_step, "after_step", "the model")
    check_called(evaluate, "evaluate", "the model")
    check_kind(checkpoint, "checkpoint", str, Path)
    check_kind(tags, "tags", Mapping)
    subject = NetworkInTraining(model, make_optimizer(model, training), distinct(model, followers))
    file = None if checkpoint is None else Path(checkpoint)
    journal = Journal(TRAINING, subject, file, log, tags or {})
    steps = steps_of(data)
    distributed.check_same("batches of an epoch", steps, "give every rank as many.")
    journal.resume(limits)
    rounds = limits["rounds"]
    return Loop(loss, data, steps, training, rounds, subject, journal, evaluate, after_step)


def train(
    model: nn.Module, inputs: Any, loss: Loss, data: Data, *, training: Training, **others: Any
) -> Grown:
    """Train a network in place, without changing its shape.

    Args:
        model: Any network that :func:`ramify.trace` accepts.
        inputs: One example of its inputs, for which its cost is counted.
        loss: ``loss(model, batch)``, one loss a sample, shape (S,).
        data: The training batches.
        training: How to train.
        **others: ``evaluate``, ``log``, ``checkpoint``, ``tags``, ``followers`` and ``after_step``,
            as in :func:`ramify.grow`.

    Returns:
        The network's graph, the optimizer and the history.

    Raises:
        RamifyError: The loss is not one a sample, a value is no longer finite, the checkpoint is
            damaged or of another model, or the ranks do not hold the same network.
    """
    with distributed.together():
        limits: Event = {"rounds": 0, "budget": None}
        loop = begin(model, loss, data, training=training, limits=limits, **others)
        graph = trace(model, inputs)
        distributed.check_ranks(model)
        loop.remember_lengths(graph)
        if not loop.journal.stopped:
            loop.train_round(graph)
            measures: Event = {}
            if loop.evaluate and not training.epochs:  # no epoch has measured the network
                measures = loop.measures(model) | costs(graph)
            loop.stop("rounds", limits | measures)
        return Grown(graph, loop.subject.optimizer, loop.journal.history)
