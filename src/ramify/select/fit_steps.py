"""The steps in which `fit` takes a selection: an edit, or a group from multiple to multiple."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ramify.select.candidates import Candidates
from ramify.select.knapsack.value_curve import values_of_changes
from ramify.select.rounding import options_by_channel, width_change


@dataclass(frozen=True)
class FitStep:
    """Proposals to take at once, in place of those of an earlier step of the same key.

    Attributes:
        key: steps of one key replace each other: a group's name, or the number of a proposal.
        rank: the value for each channel that it adds or removes; the largest goes first.
        numbers: of the proposals.
    """

    key: Hashable
    rank: float
    numbers: list[int]


def added(candidates: Candidates, numbers: Iterable[int]) -> Counter[str]:
    """How many channels each group gets."""
    total: Counter[str] = Counter()
    for number in numbers:
        total[candidates.groups[number]] += width_change(candidates, number)
    return total


def on_multiples(candidates: Candidates, numbers: Iterable[int], asked: Mapping[str, int]) -> bool:
    """Whether every group that changes comes to its multiple."""
    return not any(
        more and (candidates.widths[name] + more) % asked.get(name, 1)
        for name, more in added(candidates, numbers).items()
    )


def prune_steps(
    candidates: Candidates, prunes: Sequence[int], asked: Mapping[str, int]
) -> list[FitStep]:
    """Steps of prunes, those that lose least a channel first; what reaches no multiple is left.

    Args:
        candidates: all proposals.
        prunes: numbers of the prunes to take, best first.
        asked: the multiple of each group.

    Returns:
        The steps, each with a key of its own.
    """
    chains = []
    for name, numbers in candidates.by_group(prunes).items():
        multiple, at, chain = asked.get(name, 1), 0, list[FitStep]()
        # The first step goes down to the next multiple, the others by a whole multiple each.
        size = candidates.widths[name] % multiple or multiple
        while at + size <= len(numbers):
            step = numbers[at : at + size]
            rank = sum(candidates.proposals[number].value for number in step) / size
            chain.append(FitStep(numbers[at], rank, step))
            at, size = at + size, multiple
        chains.append(chain)
    return _best_first(chains, prunes)


def split_steps(
    candidates: Candidates, splits: Sequence[int], gone: Iterable[int], asked: Mapping[str, int]
) -> list[FitStep]:
    """Steps of splits, those that gain most a channel first, but single edits by their value.

    Args:
        candidates: all proposals.
        splits: numbers of the splits to choose from, best first.
        gone: numbers of the prunes that are taken in any case.
        asked: the multiple of each group.

    Returns:
        The steps; those of one group have one key, each holding the group's best splits for the
        next multiple.
    """
    worth = [proposal.value for proposal in candidates.proposals]
    pruned = added(candidates, gone)
    chains = []
    for name, numbers in candidates.by_group(splits).items():
        if asked.get(name, 1) == 1:
            chains.append([FitStep(number, worth[number], [number]) for number in numbers])
            continue
        # A step is the best selection for a multiple, and ranks by what it adds to the one before.
        width = candidates.widths[name] + pruned[name]
        found = values_of_changes(options_by_channel(candidates, numbers, worth), width)
        chain, at, before = list[FitStep](), 0, 0.0
        for change, value in zip(found.changes.tolist(), found.values.tolist(), strict=True):
            if change > 0 and (width + change) % asked[name] == 0:
                rank = (value - before) / (change - at)
                chain.append(FitStep(name, rank, found.chosen(change)))
                at, before = change, value
        chains.append(chain)
    return _best_first(chains, splits)


def _best_first(chains: Sequence[list[FitStep]], order: Sequence[int]) -> list[FitStep]:
    """Merge chains of steps: again and again, the best of all the chains' next steps.

    Args:
        chains: steps that can only be taken in their order.
        order: numbers of the proposals; ties go by it.

    Returns:
        The steps.
    """
    place = {number: place for place, number in enumerate(order)}

    def entry(chain: int, at: int) -> tuple[float, int, int, int]:
        step = chains[chain][at]
        return -step.rank, place[step.numbers[0]], chain, at

    waiting = [entry(number, 0) for number, chain in enumerate(chains) if chain]
    heapq.heapify(waiting)
    out = []
    while waiting:
        _, _, chain, at = heapq.heappop(waiting)
        out.append(chains[chain][at])
        if at + 1 < len(chains[chain]):
            heapq.heappush(waiting, entry(chain, at + 1))
    return out
