"""Depth against width in a round of growth: blocks are put in where they gain more for their cost.

The gains of methods have one unit, but not one horizon: that of a split is had at once, that of a
new neuron after one step of its outgoing weights, and one step of a new block reaches no more than
what ends it. So both are measured in one way: the widths that the rule selected, or a copy of a
block, are made on the network for a moment; it makes some steps with either, on the same batches,
and what its loss is then below that of the network which made them without a change is divided by
what the change costs.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from typing import Any

from ramify import distributed
from ramify.cost import RESOURCES, graph_cost
from ramify.edit import BlockEdit, Drop, Edit, Insert, Prune
from ramify.edit.depth import blocks_edited
from ramify.errors import Diverged, RamifyError
from ramify.latency import measure
from ramify.methods import Proposal
from ramify.methods.trial import edited
from ramify.refit.by_insert import InsertGain, insert_gains
from ramify.refit.outcome import borrowed
from ramify.select import Rule
from ramify.select.width_bounds import WidthBounds
from ramify.tracing import ChannelGraph
from ramify.tracing.blocks import find_block
from ramify.tracing.recorder import untouched
from ramify.train.edit_trials import TOLERANCE, EditTrials
from ramify.train.epoch import Training, make_optimizer, train_epoch
from ramify.train.rounds import multiple_of

STEPS = 64
"""So many steps show what a change is worth; after 16 the rest of the network still hides it."""
RATE = 0.1
"""Of the learning rate, so that what the whole network learns hides little of the change."""


@dataclass(frozen=True)
class TriedBlock:
    """A copy of a block that was tried.

    Attributes:
        behind: The block behind which it stood.
        gain: By how much more the loss falls in some steps with it.
        cost: The share of the budget that it takes (the largest where there are several);
            parameters without a budget.
        inserted: Whether it is put in.
    """

    behind: str
    gain: float
    cost: float
    inserted: bool


@dataclass(frozen=True)
class Weighed:
    """What a round found of blocks and widths.

    Attributes:
        blocks: The copies that were tried.
        gain: By how much more the loss falls with the widths that the rule selected; None where
            there were none.
        cost: What those cost.
        both: Whether there is room for these widths beside the blocks that are put in.
    """

    blocks: Sequence[TriedBlock]
    gain: float | None
    cost: float | None
    both: bool

    @property
    def inserts(self) -> list[Insert]:
        """What puts in those blocks that gain more."""
        return [Insert(one.behind) for one in self.blocks if one.inserted]

    def plain(self) -> dict[str, Any]:
        """It as plain values, for the history."""
        return {
            "tried": [asdict(one) for one in self.blocks],
            "widths_gain": self.gain,
            "widths_cost": self.cost,
        }


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
            "depth weighs blocks against widths by trials: have selections tried, or leave depth "
            "out."
        )
    asked: tuple[Any, ...] = (bounds.keep, bounds.ceiling, multiple_of(rule))
    if any(isinstance(bound, Mapping) for bound in asked):
        raise RamifyError(
            "with depth keep, ceiling and multiple_of are one number for all layers, since layers "
            "behind a new block get other names: give numbers, or leave depth out."
        )
    if rounds > 0 and not any(block.can_insert for block in graph.blocks):
        named = "; ".join(f"'{block.name}': {block.why}" for block in graph.blocks[:3])
        raise RamifyError(
            "depth puts copies of blocks in, and no block of this "
            f"{type(graph.model).__name__} takes one ({named or 'it has no blocks'}): leave depth "
            "out; graph.blocks and `ramify show` list the blocks of a network."
        )


def weigh(
    trials: EditTrials,
    proposals: Sequence[Proposal],
    widths: Sequence[Edit | BlockEdit],
    budget: Mapping[str, float] | None,
    training: Training,
) -> Weighed | None:
    """Which blocks gain more for what they cost than the widths that a rule selected.

    Copies are tried one after the other, first behind the blocks that would learn fastest for their
    cost (:func:`ramify.insert_gains`), until one gains less; a list of blocks takes one in a round.

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
            "depth weighs new blocks against wider layers, and this method proposes prunes alone: "
            "give a method that grows, or leave depth out."
        )
    price = _Price(trials.graph, budget)
    cost = price.of(widths) if widths else None
    inserts = [] if cost is not None and cost <= 0 else _candidates(trials, price, training)
    if not inserts:
        return None
    start = _after_steps(trials, (), training)
    gain, least = None, 0.0
    if cost is not None:
        gain = start - _after_steps(trials, widths, training)
        least = max(0.0, gain / cost)
    tried, taken, lists = list[TriedBlock](), list[Insert](), set[str | None]()
    for insert in inserts:
        container = find_block(trials.graph.blocks, insert.after).container
        if container in lists or not price.allows([*taken, insert]):
            continue
        lists.add(container)
        more, spent = start - _after_steps(trials, [insert], training), price.of([insert])
        better = distributed.broadcast(more / spent > least)
        tried.append(TriedBlock(str(insert.after), more, spent, better))
        if not better:
            break
        taken.append(insert)
    both = bool(taken) and price.allows([*widths, *taken])
    found: Weighed = distributed.broadcast(Weighed(tried, gain, cost, both))
    return found


def _candidates(trials: EditTrials, price: _Price, training: Training) -> list[Insert]:
    """The copies that the budget allows, those first that learn fastest for their cost."""
    rows = insert_gains(trials.graph, trials.loss, trials.held, lr=training.lr)
    paying: list[InsertGain] = distributed.broadcast([row for row in rows if row.gain > 0])
    found = []
    for row in paying:
        cost = price.of([row.edit])
        if cost > 0 and price.allows([row.edit]) and _changes_nothing(trials, row.edit):
            found.append((row.gain / cost, row.edit))
    return [edit for _, edit in sorted(found, key=lambda pair: -pair[0])]


class _Price:
    """What changes cost, the largest share of a budget or parameters; the same on every rank."""

    def __init__(self, graph: ChannelGraph, budget: Mapping[str, float] | None) -> None:
        self.graph = graph
        self.budget = dict(budget or {})
        self._known: list[tuple[list[Edit | BlockEdit], dict[str, float]]] = []
        self._now = self._spent()

    def of(self, edits: Sequence[Edit | BlockEdit]) -> float:
        """What edits, of channels or of blocks, cost."""
        after = self._spent(edits)
        whole = self.budget or {"params": 1.0}
        shares = [(after[name] - self._now[name]) / most for name, most in whole.items()]
        return float(distributed.broadcast(max(shares)))

    def allows(self, edits: Sequence[Edit | BlockEdit]) -> bool:
        """Whether the edited network is within the budget."""
        after = self._spent(edits)
        within = all(after[name] <= most for name, most in self.budget.items())
        return bool(distributed.broadcast(within))

    def _spent(self, edits: Sequence[Edit | BlockEdit] = ()) -> dict[str, float]:
        """What the edited network costs, measured once."""
        for known, spent in self._known:
            if list(map(id, known)) == list(map(id, edits)):
                return spent
        self._known.append((list(edits), self._counted(edits)))
        return self._known[-1][1]

    def _counted(self, edits: Sequence[Edit | BlockEdit]) -> dict[str, float]:
        cost = graph_cost(self.graph, edits)
        spent: dict[str, float] = {name: cost.of(name) for name in RESOURCES}
        if "latency" in self.budget:
            with _done(self.graph, edits):
                now = measure(self.graph.model, self.graph.inputs).median
            # A change that is too small to be measured costs a thousandth of what there is.
            spent["latency"] = max(now, 1.001 * self._now["latency"]) if edits else now
        return spent


@contextlib.contextmanager
def _done(graph: ChannelGraph, edits: Sequence[Edit | BlockEdit]) -> Iterator[None]:
    """The network with edits, of channels or of blocks, for the time of the block."""
    blocks = [edit for edit in edits if isinstance(edit, (Drop, Insert))]
    channels = [edit for edit in edits if not isinstance(edit, (Drop, Insert))]
    with edited(graph, channels), blocks_edited(graph, blocks):
        yield


def _changes_nothing(trials: EditTrials, insert: Insert) -> bool:
    """Whether the loss stays with a copy, norms having the statistics that they then see."""
    with borrowed(trials.graph.model), _done(trials.graph, [insert]):
        return bool(trials.settle() <= trials.before + TOLERANCE * abs(trials.before))


def _after_steps(
    trials: EditTrials, edits: Sequence[Edit | BlockEdit], training: Training
) -> float:
    """The mean loss of a network that is edited and makes a few steps; it is as it was then."""
    model, loss = trials.graph.model, trials.loss
    with borrowed(model), untouched(model), _done(trials.graph, edits):
        batches = islice(cycle(trials.held), STEPS)
        optimizer = make_optimizer(model, training)
        try:
            train_epoch(model, loss, batches, optimizer, lambda _: RATE, "a trial of depth")
        except Diverged:
            if distributed.world_size() > 1:  # the others are in the middle of a step
                raise
            return math.inf
        return trials.settle(strict=False)
