"""The whole loop: train, propose, select, edit, train again (Algorithm 1 of S2D for any method)."""

import time
from collections.abc import Callable, Iterable, Mapping, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from ramify.cost import graph_cost
from ramify.edit import apply
from ramify.errors import RamifyError
from ramify.methods import Method, Proposal
from ramify.probe import Loss
from ramify.run.checkpoint import read_checkpoint, restore, write_checkpoint
from ramify.run.training import Training, make_optimizer, mean_loss, rate, train_epoch
from ramify.select import Rule
from ramify.trace import ChannelGraph, trace

Event = dict[str, Any]
Data = Iterable[Any] | Callable[[int], Iterable[Any]]


@dataclass(frozen=True)
class Grown:
    """What :func:`grow` returns.

    Attributes:
        graph: The channel graph of the grown model; the model itself is ``graph.model``.
        optimizer: The optimizer, with its state for the grown model.
        history: The events of the whole run, also those before an interruption.
    """

    graph: ChannelGraph
    optimizer: Optimizer
    history: list[Event]


def grow(  # noqa: PLR0913  (one call for the whole loop)
    model: nn.Module,
    inputs: Any,
    loss: Loss,
    data: Data,
    *,
    method: Method,
    rule: Rule,
    training: Training,
    rounds: int,
    probe: Iterable[Any] | None = None,
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None = None,
    log: Callable[[Event], None] | None = None,
    checkpoint: str | Path | None = None,
    tags: Mapping[str, Any] | None = None,
) -> Grown:
    """Train a network and let it grow, in place.

    It trains for ``training.epochs``; then, ``rounds`` times, ``method`` proposes edits, ``rule``
    selects some, they are applied while the optimizer keeps its state, and it trains again. It ends
    early where nothing is selected.

    Args:
        model: Any network that :func:`ramify.trace` takes.
        inputs: One example of its inputs, to trace it.
        loss: ``loss(model, batch)``, one loss a sample, shape (S,).
        data: The training batches: a list, a ``DataLoader``, or a function of the epoch's number.
        method: What proposes edits and says what they gain.
        rule: What selects among the proposals.
        training: How to train in each round.
        rounds: How often to edit.
        probe: The batches on which edits are judged; by default those of ``data``.
        evaluate: Measures of the model to add to the event of each epoch.
        log: Called with each event: a dictionary, ``"event"`` is ``"epoch"`` or ``"edit"``.
        checkpoint: A file written after each epoch and each edit. Where it exists, the run goes on
            from it, to the same result as without the interruption.
        tags: Entries to put in front of each event.

    Returns:
        The grown model's graph, the optimizer and the history.

    Raises:
        RamifyError: The loss is not one a sample, something is no longer finite, or the checkpoint
            is damaged or of another model.

    Example:
        >>> import torch, ramify
        >>> from torch import nn
        >>> generator = torch.manual_seed(0)
        >>> x = torch.randn(64, 2)
        >>> y = (x[:, 0] * x[:, 1] > 0).long()
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.Softplus(), nn.Linear(2, 2))
        >>> def loss(model, batch):
        ...     return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")
        >>> grown = ramify.grow(net, x[:1], loss, [(x, y)], method=ramify.SplittingDescent(),
        ...     rule=ramify.TopFraction(0.5), training=ramify.Training(epochs=2), rounds=1)
        >>> net[0].out_features
        3

    Source: Splitting Steepest Descent, Algorithm 1.
    """
    optimizer = make_optimizer(model, training)
    file = None if checkpoint is None else Path(checkpoint)
    run = _Run(model, loss, data, training, optimizer, evaluate, log, tags or {}, file, rounds > 0)
    run.start(inputs)
    for number in range(run.round, rounds + 1):
        if number > run.round and not run.edit(method, rule, probe):
            break
        while run.epoch < training.epochs:
            run.train()
    return Grown(run.graph, optimizer, run.history)


@dataclass
class _Run:
    """The state of a loop; where it stands follows from its history."""

    model: nn.Module
    loss: Loss
    data: Data
    training: Training
    optimizer: Optimizer
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None
    log: Callable[[Event], None] | None
    tags: Mapping[str, Any]
    checkpoint: Path | None
    growing: bool
    history: list[Event] = field(default_factory=list)

    @property
    def round(self) -> int:
        """The round that trains now."""
        return self.history[-1]["round"] if self.history else 0

    @property
    def epoch(self) -> int:
        """Epochs that this round has trained."""
        return self.history[-1].get("epoch", -1) + 1 if self.history else 0

    @property
    def step(self) -> int:
        """Optimizer steps made since the beginning."""
        return self.history[-1]["step"] if self.history else 0

    def start(self, inputs: Any) -> None:
        """Count the steps, go back to the checkpoint where there is one, and trace the model."""
        data = self.data
        self.steps = len(data) if isinstance(data, Sized) else sum(1 for _ in self.batches())
        for group in self.optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        if self.checkpoint is not None and self.checkpoint.exists():
            stored = read_checkpoint(self.checkpoint)
            restore(stored, self.model, self.optimizer)
            self.history = stored.state["history"]
        self.graph = trace(self.model, inputs)
        if self.growing and not any(group.can_split for group in self.graph.groups):
            reasons = "; ".join(f"'{g.name}': {g.why}" for g in self.graph.groups[:3])
            raise RamifyError(
                f"the network has no channels that can be split ({reasons}): see every reason with "
                "print(ramify.trace(model, inputs)) or `ramify show`"
            )
        self.began = time.monotonic() - (self.history[-1]["t"] if self.history else 0.0)

    def batches(self) -> Iterable[Any]:
        """The batches of the next epoch."""
        done = sum(event["event"] == "epoch" for event in self.history)
        return self.data(done) if callable(self.data) else self.data

    def edit(self, method: Method, rule: Rule, probe: Iterable[Any] | None) -> bool:
        """Make the selected edits; False where nothing is selected."""
        judged = list(self.batches()) if probe is None else probe
        proposals = method.propose(self.graph, self.loss, judged)
        selected = rule.select(proposals)
        if not selected:
            return False
        before = _measure(self.graph, self.loss, judged)
        self.graph = apply(self.graph, [p.edit for p in selected], optimizer=self.optimizer)
        after = _measure(self.graph, self.loss, judged)
        event = {"event": "edit", "round": self.round + 1, "step": self.step}
        for key in before:
            event |= {f"{key}_before": before[key], f"{key}_after": after[key]}
        event |= {
            "predicted_gain": sum(p.gain for p in selected),
            "proposals": _table(self.graph, proposals, selected),
            "origin": self.graph.origin,
        }
        self.write(event)
        return True

    def train(self) -> None:
        """Train one epoch."""
        first, total = self.epoch * self.steps, self.training.epochs * self.steps
        mean, made = train_epoch(
            self.model,
            self.loss,
            self.batches(),
            self.optimizer,
            lambda step: rate(self.training.schedule, first + step, total),
            where=f"round {self.round}, epoch {self.epoch}",
        )
        place = {"round": self.round, "epoch": self.epoch, "step": self.step + made}
        measures = {"lr": self.optimizer.param_groups[0]["lr"], "train_loss": mean}
        measures |= self.evaluate(self.model) if self.evaluate else {}
        self.write({"event": "epoch"} | place | measures | _cost(self.graph))

    def write(self, event: Event) -> None:
        """Add an event to the history, write the checkpoint, then tell ``log``."""
        head = {"event": event["event"], **self.tags, "t": time.monotonic() - self.began}
        self.history.append(head | event)
        if self.checkpoint is not None:
            state = {"history": self.history}
            write_checkpoint(self.checkpoint, self.model, self.optimizer, state)
        if self.log is not None:
            self.log(self.history[-1])


def _measure(graph: ChannelGraph, loss: Loss, batches: Iterable[Any]) -> dict[str, Any]:
    """What an edit changes: widths, cost, and the loss on the batches that judged it."""
    widths = {group.name: group.width for group in graph.groups}
    return {"widths": widths, "loss": mean_loss(graph.model, loss, batches)} | _cost(graph)


def _cost(graph: ChannelGraph) -> dict[str, int]:
    cost = graph_cost(graph)
    return {"params": cost.params, "macs": cost.macs}


def _table(
    graph: ChannelGraph, proposals: list[Proposal], selected: list[Proposal]
) -> list[dict[str, Any]]:
    """Every proposal as plain values."""
    taken = {id(proposal) for proposal in selected}
    return [
        {
            "group": graph[proposal.edit.group].name,
            "channel": proposal.edit.channel,
            "index": proposal.index,
            "gain": proposal.gain,
            "selected": id(proposal) in taken,
        }
        for proposal in proposals
    ]
