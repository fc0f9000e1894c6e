"""Depth against width in a round of growth: blocks are put in where they gain more for their cost.

The gains of methods have one unit, but not one horizon: that of a split is had at once, that of a
new neuron after one step of its outgoing weights, and one step of a new block reaches no more than
what ends it. So both are measured in one way. The widths that the rule selected, and blocks that
cost as much, are made on the network for a moment; it makes a few steps with either, on the same
batches, and what its loss is then below that of the network which made them without a change is
divided by what the change costs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from typing import Any

from ramify import distributed
from ramify.cost import RESOURCES, graph_cost
from ramify.edit import BlockEdit, Drop, Edit, Insert, Prune
from ramify.edit.depth import blocks_edited
from ramify.errors import RamifyError
from ramify.latency import measure
from ramify.methods import Proposal
from ramify.methods.trial import edited
from ramify.refit.by_insert import insert_gains
from ramify.refit.outcome import borrowed
from ramify.select import Rule
from ramify.select.width_bounds import WidthBounds
from ramify.tracing import ChannelGraph
from ramify.tracing.recorder import untouched
from ramify.train.edit_trials import TOLERANCE, EditTrials
from ramify.train.epoch import Training, make_optimizer, train_epoch
from ramify.train.rounds import multiple_of

STEPS = 16
"""So many steps show what a change is worth."""
RATE = 0.1
"""Of the learning rate: what all of the network learns meanwhile is the same with either change."""


@dataclass(frozen=True)
class Worth:
    """What a round found of blocks and widths.

    Attributes:
        behind: The blocks behind which a copy was tried, best first.
        gain: By how much more the loss falls in a few steps with these copies.
        cost: What they cost: the share of the budget that they take (the largest where there are
            several); parameters without a budget.
        widths_gain: The same of the widths that the rule selected; None where there were none.
        widths_cost: What those cost.
        inserted: Whether the blocks were put in, and not the widths.
    """

    behind: tuple[str, ...]
    gain: float
    cost: float
    widths_gain: float | None
    widths_cost: float | None
    inserted: bool

    @property
    def edits(self) -> list[Insert]:
        """What puts the copies in."""
        return [Insert(block) for block in self.behind]

    def plain(self) -> dict[str, Any]:
        """It as plain values, for the history."""
        return asdict(self) | {"behind": list(self.behind)}


def check_depth(
    graph: ChannelGraph, bounds: WidthBounds, rule: Rule, trial: bool, rounds: int
) -> None:
    """Raise where blocks cannot be put in as a network grows.

    Args:
        graph: Of the network.
        bounds: How narrow and how wide groups may become.
        rule: What selects the channels.
        trial: Whether selections are tried.
        rounds: How often the network is edited at most.

    Raises:
        RamifyError: No block takes a copy, or what is asked for beside depth does not go with it.
    """
    if not trial:
        raise RamifyError(
            "depth=True weighs blocks against widths by trials: leave trial=True, or depth out."
        )
    asked: tuple[Any, ...] = (bounds.keep, bounds.ceiling, multiple_of(rule))
    if any(isinstance(bound, Mapping) for bound in asked):
        raise RamifyError(
            "with depth=True keep, ceiling and multiple_of are one number for all layers, since "
            "the names of layers behind a new block change: give numbers, or leave depth out."
        )
    if rounds > 0 and not any(block.can_insert for block in graph.blocks):
        named = "; ".join(f"'{block.name}': {block.why}" for block in graph.blocks[:3])
        raise RamifyError(
            "depth=True puts copies of blocks in, and no block of this "
            f"{type(graph.model).__name__} takes one ({named or 'it has no blocks'}): leave depth "
            "out; graph.blocks and `ramify show` list the blocks of a network."
        )


def weigh(
    trials: EditTrials,
    proposals: Sequence[Proposal],
    widths: Sequence[Edit | BlockEdit],
    budget: Mapping[str, float] | None,
    training: Training,
) -> Worth | None:
    """Whether blocks gain more for what they cost than the widths that a rule selected.

    The blocks behind which a copy is tried are those that learn fastest for their cost
    (:func:`ramify.insert_gains`), as many as cost no more than the widths, and one at least.

    Args:
        trials: Of the network as it is.
        proposals: All of the method.
        widths: What is left of them once they were selected and tried.
        budget: The most that the network may cost.
        training: How it trains.

    Returns:
        What was found, the same on every rank; None where no block can be put in within the budget,
        or the widths cost nothing.

    Raises:
        RamifyError: The method proposes prunes alone.
    """
    if proposals and all(isinstance(one.edit, Prune) for one in proposals):
        raise RamifyError(
            "depth=True weighs new blocks against wider layers, and this method proposes prunes "
            "alone: give a method that grows, or leave depth out."
        )
    graph = trials.graph
    price = _Price(graph, budget)
    most = price.of(widths) if widths else None
    if most is not None and most <= 0:
        return None
    inserts = _blocks_for(trials, price, most, training)
    if not inserts:
        return None
    start = _after_steps(trials, (), training)
    gain = start - _after_steps(trials, inserts, training)
    cost, other = price.of(inserts), None
    better = gain > 0
    if most is not None:
        other = start - _after_steps(trials, widths, training)
        better = better and gain / cost > other / most
    blocks = tuple(str(insert.after) for insert in inserts)
    found: Worth = distributed.broadcast(Worth(blocks, gain, cost, other, most, better))
    return found


def _blocks_for(
    trials: EditTrials, price: _Price, most: float | None, training: Training
) -> list[Insert]:
    """Behind which blocks copies are tried."""
    graph = trials.graph
    rows = insert_gains(graph, trials.loss, trials.held, lr=training.lr)
    fast = sorted(rows, key=lambda row: -row.gain / price.of([row.edit]))
    found: list[Insert] = []
    for row in fast:
        more = [*found, row.edit]
        small = not found or (most is not None and price.of(more) <= most)
        if row.gain > 0 and small and price.allows(more) and _changes_nothing(trials, more):
            found = more
    kept: list[Insert] = distributed.broadcast(found)
    return kept


class _Price:
    """What changes of a network cost: the largest share of a budget, or parameters."""

    def __init__(self, graph: ChannelGraph, budget: Mapping[str, float] | None) -> None:
        self.graph = graph
        self.budget = dict(budget or {})
        self._now = self._spent()

    def of(self, edits: Sequence[Edit | BlockEdit]) -> float:
        """What edits, of channels or of blocks, cost."""
        after = self._spent(edits)
        if not self.budget:
            return after["params"] - self._now["params"]
        return max((after[name] - self._now[name]) / most for name, most in self.budget.items())

    def allows(self, edits: Sequence[Edit | BlockEdit]) -> bool:
        """Whether the edited network is within the budget."""
        after = self._spent(edits)
        return all(after[name] <= most for name, most in self.budget.items())

    def _spent(self, edits: Sequence[Edit | BlockEdit] = ()) -> dict[str, float]:
        cost = graph_cost(self.graph, edits)
        spent: dict[str, float] = {name: cost.of(name) for name in RESOURCES}
        if "latency" in self.budget:
            with _done(self.graph, edits):
                mean = measure(self.graph.model, self.graph.inputs).median
            # A change that is too small to be measured costs a thousandth of what there is.
            spent["latency"] = max(mean, 1.001 * self._now["latency"]) if edits else mean
        return spent


@contextlib.contextmanager
def _done(graph: ChannelGraph, edits: Sequence[Edit | BlockEdit]) -> Iterator[None]:
    """The network with edits, of channels or of blocks, for the time of the block."""
    blocks = [edit for edit in edits if isinstance(edit, (Drop, Insert))]
    channels = [edit for edit in edits if not isinstance(edit, (Drop, Insert))]
    with edited(graph, channels), blocks_edited(graph, blocks):
        yield


def _changes_nothing(trials: EditTrials, inserts: Sequence[Insert]) -> bool:
    """Whether the loss stays with copies, norms having the statistics that they then see."""
    with borrowed(trials.graph.model), _done(trials.graph, inserts):
        return bool(trials.settle() <= trials.before + TOLERANCE * abs(trials.before))


def _after_steps(
    trials: EditTrials, edits: Sequence[Edit | BlockEdit], training: Training
) -> float:
    """The mean loss of a network that is edited and makes a few steps; it is as it was then."""
    model, loss = trials.graph.model, trials.loss
    with borrowed(model), untouched(model), _done(trials.graph, edits):
        batches = islice(cycle(trials.held), STEPS)
        optimizer = make_optimizer(model, training)
        train_epoch(model, loss, batches, optimizer, lambda _: RATE, "a trial of depth")
        return trials.settle()
