"""The whole loop: train, propose, select, edit, train again; each step is usable alone."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from ramify import distributed
from ramify.distributed import check_ranks
from ramify.edit import Follower
from ramify.edit.apply import apply
from ramify.errors import RamifyError
from ramify.methods import Method, SplittingDescent, agree
from ramify.probe.splitting_matrix import Loss
from ramify.select import Rule, TopFraction
from ramify.tracing import ChannelGraph, trace
from ramify.train.epoch import Training, make_optimizer, train_epoch
from ramify.train.history import Data, Epoch, Event, Journal, Passes, distinct, steps_of
from ramify.train.rounds import (
    agreed,
    checked_budget,
    checked_rounds,
    choose,
    costs,
    edit_event,
    measured,
)


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
    budget: Mapping[str, float] | None = None,
    followers: Iterable[Follower] = (),
    after_step: Callable[[nn.Module], None] | None = None,
    probe: Iterable[Any] | None = None,
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None = None,
    log: Callable[[Event], None] | None = None,
    checkpoint: str | Path | None = None,
    tags: Mapping[str, Any] | None = None,
) -> Grown:
    """Train a network and let it grow, in place.

    It trains for ``training.epochs``; then ``method`` proposes edits, ``rule`` selects some,
    ``budget`` cuts the selection, the rest are applied while optimizer and followers are carried
    along, and it trains again. It ends after ``rounds`` edits, where the budget is used up, or
    where no proposed morphism pays; the last event of the history says which.

    Where ``torch.distributed`` is set up, every rank calls it with the same network and inputs and
    its own share of the data: gradients, losses and what methods measure are means over all ranks,
    rank 0 writes the checkpoint and calls ``log``, buffers are those of rank 0 after each epoch,
    and the networks are compared after each edit.

    Args:
        model: Any network that :func:`ramify.trace` takes.
        inputs: One example of its inputs, to trace it.
        loss: ``loss(model, batch)``, one loss a sample, shape (S,).
        data: The training batches: a list, a ``DataLoader``, or a function of the epoch's number.
        method: What proposes edits and says what they gain.
        rule: What selects among the proposals.
        training: How to train in each round.
        rounds: How often to edit at most.
        budget: The most that the network may cost on ``inputs``: ``params``, ``macs``, ``flops``,
            ``latency`` in milliseconds. A method that prunes brings a larger network within it.
        followers: Weight averages and other models or state dictionaries with the model's names
            and shapes; they are edited alike and stored in the checkpoint.
        after_step: Called with the model after each step, to update a weight average, say.
        probe: The batches on which edits are judged. By default each pass of the method is a
            further epoch of ``data``, which is what a method that learns needs.
        evaluate: Measures of the model to add to the event of each epoch.
        log: Called with each event, a dictionary; ``"event"`` is ``"epoch"``, ``"edit"`` or
            ``"stop"``, whose ``"reason"`` is ``"rounds"``, ``"budget"`` or ``"no morphism pays"``.
        checkpoint: A file written after each event. Where it exists, the run goes on from it, to
            the same result as without the interruption.
        tags: Entries to put in front of each event.

    Returns:
        The grown model's graph, the optimizer and the history.

    Raises:
        RamifyError: The loss is not one a sample, something is no longer finite, a follower is the
            model itself, rounds or budget are out of range, the checkpoint is damaged or of
            another model, or the ranks do not hold the same network.

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
        >>> net[0].out_features, grown.history[-1]["reason"]
        (3, 'rounds')

    Source: Splitting Steepest Descent, Algorithm 1; Gauss-Newton morphisms, Algorithm 1.
    """
    with distributed.together():
        limits: Event = {"rounds": checked_rounds(rounds), "budget": checked_budget(budget)}
        optimizer = make_optimizer(model, training)
        file = None if checkpoint is None else Path(checkpoint)
        journal = Journal(model, optimizer, distinct(model, followers), file, log, tags or {})
        steps = steps_of(data)
        distributed.check_same("batches of an epoch", steps, "give every rank as many.")
        journal.resume(limits)
        graph = _traced(model, inputs, rounds)
        check_ranks(model)
        while not journal.stopped:
            now: Event = {"round": journal.round, "step": journal.step}
            batches = Epoch(data, journal.passes)
            if journal.epoch < training.epochs:
                where = f"round {journal.round}, epoch {journal.epoch}"
                factor = partial(_factor, training, rounds, steps, journal.round, journal.epoch)
                mean, made = train_epoch(model, loss, batches, optimizer, factor, where, after_step)
                now |= {"epoch": journal.epoch, "step": journal.step + made}
                now |= {"lr": optimizer.param_groups[0]["lr"], "train_loss": mean}
                journal.write(
                    "epoch", now | dict(evaluate(model) if evaluate else {}) | costs(graph)
                )
            elif (full := journal.full(limits["budget"])) or journal.round == rounds:
                reason = "budget" if full else "rounds"
                journal.write("stop", now | {"reason": reason} | limits)
            else:
                passes = Passes(data, journal.passes, steps)
                proposals = method.propose(graph, loss, passes if probe is None else probe)
                proposals = agree(graph, proposals)
                choice = agreed(choose(graph, proposals, rule, limits["budget"]), proposals)
                if choice.reason:
                    journal.write("stop", now | {"reason": choice.reason} | limits)
                    continue
                judged = batches if probe is None else probe
                before = measured(graph, loss, judged)
                edits = [proposal.edit for proposal in choice.selected]
                graph = apply(graph, edits, optimizer=optimizer, followers=journal.followers)
                check_ranks(model)
                after = measured(graph, loss, judged)
                now |= {"round": journal.round + 1, "passes": passes.epoch - journal.passes}
                now["budget"] = limits["budget"]
                journal.write("edit", now | edit_event(graph, proposals, choice, before, after))
        return Grown(graph, optimizer, journal.history)


def train(
    model: nn.Module, inputs: Any, loss: Loss, data: Data, *, training: Training, **others: Any
) -> Grown:
    """Train a network whose shape stays: :func:`grow` without rounds.

    Args:
        model: Any network that :func:`ramify.trace` takes.
        inputs: One example of its inputs.
        loss: ``loss(model, batch)``, one loss a sample, shape (S,).
        data: The training batches.
        training: How to train.
        **others: ``evaluate``, ``log``, ``checkpoint``, ``tags``, ``followers`` and ``after_step``,
            as :func:`grow` takes them.

    Returns:
        As :func:`grow`.

    Raises:
        RamifyError: As :func:`grow`.
    """
    still: dict[str, Any] = {"method": SplittingDescent(), "rule": TopFraction(1.0), "rounds": 0}
    return grow(model, inputs, loss, data, training=training, **still, **others)


def _factor(
    training: Training, rounds: int, steps: int, round_: int, epoch: int, step: int
) -> float:
    """The learning rate of a step of an epoch, over the first one."""
    first, epochs = (0, 1) if training.span == "round" else (round_, rounds + 1)
    done = (first * training.epochs + epoch) * steps + step
    return training.factor(done, epochs * training.epochs * steps)


def _traced(model: nn.Module, inputs: Any, rounds: int) -> ChannelGraph:
    """The model's graph; an error where it is to change its shape and no channel can."""
    graph = trace(model, inputs)
    if rounds > 0 and not any(group.can_split or group.can_prune for group in graph.groups):
        reasons = "; ".join(f"'{group.name}': {group.why}" for group in graph.groups[:3])
        raise RamifyError(
            f"the network has no channels that can be split or pruned ({reasons}): see every "
            "reason with print(ramify.trace(model, inputs)) or `ramify show`"
        )
    return graph
