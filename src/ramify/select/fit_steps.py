"""The steps of `fit`: single edits, or all edits of a group from one multiple to the next."""

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
    """Proposals to take at once, instead of those of an earlier step with the same key.

    Attributes:
        key: a later step replaces an earlier one with the same key: a group's name, or the number
            of a proposal.
        rank: the value per channel added or removed; the largest goes first.
        numbers: the numbers of the proposals.
    """

    key: Hashable
    rank: float
    numbers: list[int]


def added(candidates: Candidates, numbers: Iterable[int]) -> Counter[str]:
    """The number of channels that each group gains."""
    total: Counter[str] = Counter()
    for number in numbers:
        total[candidates.groups[number]] += width_change(candidates, number)
    return total


def on_multiples(candidates: Candidates, numbers: Iterable[int], asked: Mapping[str, int]) -> bool:
    """Whether every group that changes reaches a multiple of its number."""
    return not any(
        more and (candidates.widths[name] + more) % asked.get(name, 1)
        for name, more in added(candidates, numbers).items()
    )


def prune_steps(
    candidates: Candidates, prunes: Sequence[int], asked: Mapping[str, int]
) -> list[FitStep]:
    """Prune steps, least loss per channel first; prunes that reach no multiple are left out.

    Args:
        candidates: all proposals.
        prunes: numbers of the prunes to take, best first.
        asked: the multiple of each group.

    Returns:
        The steps, each with its own key.
    """
    chains = []
    for name, numbers in candidates.by_group(prunes).items():
        multiple, at, chain = asked.get(name, 1), 0, list[FitStep]()
        # The first step goes down to the next multiple, each further step by one multiple.
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
    """Split steps, largest gain per channel first; single edits rank by their value.

    Args:
        candidates: all proposals.
        splits: numbers of the splits to choose from, best first.
        gone: numbers of the prunes that are made in any case.
        asked: the multiple of each group.

    Returns:
        The steps; those of one group share one key, and each has the group's best splits for the
        next multiple.
    """
    worth = [proposal.value for proposal in candidates.proposals]
    pruned = added(candidates, gone)
    chains = []
    for name, numbers in candidates.by_group(splits).items():
        if asked.get(name, 1) == 1:
            chains.append([FitStep(number, worth[number], [number]) for number in numbers])
            continue
        # A step has the best selection for a multiple, and ranks by its value over the previous
        # step.
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
    """Merge chains of steps by repeatedly taking the best next step of any chain.

    Args:
        chains: steps that must be taken in the order of their chain.
        order: numbers of the proposals, to break ties.

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
