"""Depth against width in a round of growth: insert blocks where they gain more per cost.

The gains that methods predict share a unit but not a horizon: a split gains at once, a new neuron
after one step of its outgoing weights, and one step of a new block moves only the layer at its end.
So widths and blocks are measured in the same way. Either the selected widths or a copy of a block
is applied to the network temporarily, and the network trains for some steps on the same batches.
Its loss is then compared with that of the unchanged network after the same steps, and the
difference is divided by what the change costs.
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
from ramify.tracing.untouched import untouched
from ramify.train.edit_trials import TOLERANCE, EditTrials
from ramify.train.epoch import Training, make_optimizer, train_epoch
from ramify.train.rounds import multiple_of

STEPS = 64
"""Training steps per trial; after only 16, learning in the rest of the network hides the change."""
RATE = 0.1
"""Factor of the learning rate in trials; at a low rate the rest of the network changes little."""


@dataclass(frozen=True)
class TriedBlock:
    """A copy of a block that was tried.

    Attributes:
        behind: The block after which it was inserted.
        gain: How much more the loss falls in some steps with it.
        cost: The share of the budget that it takes (the largest if the budget has several entries);
            its parameters if there is no budget.
        inserted: Whether it is inserted.
    """

    behind: str
    gain: float
    cost: float
    inserted: bool


@dataclass(frozen=True)
class Weighed:
    """The trials of blocks and widths in one round.

    Attributes:
        blocks: The copies that were tried.
        gain: How much more the loss falls with the widths that the rule selected; None if it
            selected none.
        cost: The cost of those widths.
        both: Whether the budget has room for these widths in addition to the inserted blocks.
    """

    blocks: Sequence[TriedBlock]
    gain: float | None
    cost: float | None
    both: bool

    @property
    def inserts(self) -> list[Insert]:
        """The edits that insert the blocks that gain more."""
        return [Insert(one.behind) for one in self.blocks if one.inserted]

    def plain(self) -> dict[str, Any]:
        """These fields as plain values, for the history."""
        return {
            "tried": [asdict(one) for one in self.blocks],
            "widths_gain": self.gain,
            "widths_cost": self.cost,
        }


def check_depth(
    graph: ChannelGraph, bounds: WidthBounds, rule: Rule, trial: bool, rounds: int
) -> None:
    """Check that blocks can be inserted while a network grows.

    Args:
        graph: The graph of the network.
        bounds: How narrow and how wide groups may become, and which of them may change.
        rule: Selects the channels.
        trial: Whether selections are tried.
        rounds: The most edits of the network.

    Raises:
        RamifyError: No block can be copied, or depth cannot be combined with another setting.
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
    if bounds.groups is not None:
        raise RamifyError(
            "with depth all groups may change, since layers behind a new block get other names: "
            "leave groups out, or leave depth out."
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
    """Find the blocks that gain more per cost than the widths that a rule selected.

    Copies are tried one after another, starting after the blocks that would learn fastest for their
    cost (:func:`ramify.insert_gains`), until one gains less. Each list of blocks gets at most one
    copy per round.

    Args:
        trials: The trials on the present network.
        proposals: All proposals of the method.
        widths: The edits that remain after selection and trial.
        budget: The most that the network may cost.
        training: How the network trains.

    Returns:
        The result, the same on every rank; None if no block can be inserted within the budget, or
        the widths cost nothing.

    Raises:
        RamifyError: The method proposes only prunes.
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
    """The copies that the budget allows, sorted by how fast they learn per cost."""
    rows = insert_gains(trials.graph, trials.loss, trials.held, lr=training.lr)
    paying: list[InsertGain] = distributed.broadcast([row for row in rows if row.gain > 0])
    found = []
    for row in paying:
        cost = price.of([row.edit])
        if cost > 0 and price.allows([row.edit]) and _changes_nothing(trials, row.edit):
            found.append((row.gain / cost, row.edit))
    return [edit for _, edit in sorted(found, key=lambda pair: -pair[0])]


class _Price:
    """The cost of edits: the largest share of a budget, or parameters; the same on every rank."""

    def __init__(self, graph: ChannelGraph, budget: Mapping[str, float] | None) -> None:
        self.graph = graph
        self.budget = dict(budget or {})
        self._known: list[tuple[list[Edit | BlockEdit], dict[str, float]]] = []
        self._now = self._spent()

    def of(self, edits: Sequence[Edit | BlockEdit]) -> float:
        """The cost of edits of channels or blocks."""
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
        """The cost of the edited network, measured once."""
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
            # A change too small to be measured counts as a thousandth of the present latency.
            spent["latency"] = max(now, 1.001 * self._now["latency"]) if edits else now
        return spent


@contextlib.contextmanager
def _done(graph: ChannelGraph, edits: Sequence[Edit | BlockEdit]) -> Iterator[None]:
    """Apply edits of channels or blocks to the network within a ``with`` block."""
    blocks = [edit for edit in edits if isinstance(edit, (Drop, Insert))]
    channels = [edit for edit in edits if not isinstance(edit, (Drop, Insert))]
    with edited(graph, channels), blocks_edited(graph, blocks):
        yield


def _changes_nothing(trials: EditTrials, insert: Insert) -> bool:
    """Whether a copy leaves the loss unchanged, after norm statistics are recomputed."""
    with borrowed(trials.graph.model), _done(trials.graph, [insert]):
        return bool(trials.settle() <= trials.before + TOLERANCE * abs(trials.before))


def _after_steps(
    trials: EditTrials, edits: Sequence[Edit | BlockEdit], training: Training
) -> float:
    """The mean loss after edits and a few training steps, all of which are undone."""
    model, loss = trials.graph.model, trials.loss
    with borrowed(model), untouched(model), _done(trials.graph, edits):
        batches = islice(cycle(trials.held), STEPS)
        optimizer = make_optimizer(model, training)
        try:
            train_epoch(model, loss, batches, optimizer, lambda _: RATE, "a trial of depth")
        except Diverged:
            if distributed.world_size() > 1:  # the other ranks are in the middle of a step
                raise
            return math.inf
        return trials.settle(strict=False)
