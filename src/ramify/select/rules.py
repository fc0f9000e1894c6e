"""Rules that rank: top fraction, threshold, and the trade-off of loss against cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ramify.cost import RESOURCES
from ramify.errors import RamifyError
from ramify.methods import Proposal
from ramify.select.candidates import Candidates, gather
from ramify.select.rounding import Multiple, check_multiple, rounded


class Rule(Protocol):
    """A selection rule: a frozen set of settings with one verb.

    No rule selects two edits of one channel, nor all channels of a group for pruning. The rules of
    this library take `multiple_of`: after the edits the width of a group is a multiple of it, or
    as it was.
    """

    def select(self, proposals: Sequence[Proposal]) -> list[Proposal]:
        """The proposals to carry out."""
        ...


@dataclass(frozen=True)
class TopFraction:
    """The share of the proposed channels with the largest gain, as far as it is positive.

    Args:
        fraction: of the channels that are proposed, above 0 and up to 1, rounded up.
        per_group: the share is taken in each group by itself.
        multiple_of: what the width of each group that changes becomes a multiple of, the nearest
            that its proposals reach; a number, or numbers by group.

    Source: S3D, section 4 (top α %).
    """

    fraction: float
    per_group: bool = False
    multiple_of: Multiple = 1

    def __post_init__(self) -> None:
        _check_share("fraction", self.fraction)
        check_multiple(self.multiple_of)

    def select(self, proposals: Sequence[Proposal]) -> list[Proposal]:
        """The best `fraction` of the channels, without those that gain nothing."""
        candidates = gather(proposals)
        by_group = list(candidates.by_group(range(len(proposals))).values())
        pools = by_group if self.per_group else [[number for pool in by_group for number in pool]]
        chosen: list[int] = []
        for pool in pools:
            count = share(self.fraction, len({candidates.channels[number] for number in pool}))
            chosen += _best(candidates, pool)[:count]
        return _finished(candidates, chosen, range(len(proposals)), self.multiple_of)


@dataclass(frozen=True)
class Threshold:
    """At most so many proposals, each within bounds on its splitting index and its value.

    Args:
        most: m_*, the largest number of channels to split at once; None for no bound.
        index: λ_*, the largest splitting index to split at.
        value: the least gain, or score, to take: `value=-1e-3` prunes the channels whose gates or
            norm scales are at most 1e-3, so that the search decides how many.
        multiple_of: as for `TopFraction`; rounding may add a few to `most`.

    Source: S2D, Algorithm 1, step 3.
    """

    most: int | None = None
    index: float = 0.0
    multiple_of: Multiple = 1
    value: float = -math.inf

    def __post_init__(self) -> None:
        check_multiple(self.multiple_of)
        if self.most is not None and self.most < 1:
            raise RamifyError(f"most is m_* of S2D and at least 1, and got {self.most}")

    def select(self, proposals: Sequence[Proposal]) -> list[Proposal]:
        """The best `most` proposals whose index is at most `index` and value at least `value`."""
        candidates = gather(proposals)
        fit = [
            number
            for number, proposal in enumerate(proposals)
            if (proposal.index is None or proposal.index <= self.index)
            and proposal.value >= self.value
        ]
        return _finished(candidates, _best(candidates, fit)[: self.most], fit, self.multiple_of)


@dataclass(frozen=True)
class TradeOff:
    r"""Of the edits whose gain outweighs their cost, the best share of each group.

    .. math:: -\Delta L > \lambda_p \Delta R_p + \lambda_m \Delta R_m + \dots

    A prune has a negative cost, so that one which raises the loss a little may pay.

    Args:
        params: λ_p, what one parameter is worth in units of the mean loss.
        macs: the same for one multiply-accumulate.
        flops: the same for one floating-point operation.
        energy: the same for one multiply-accumulate of a convolution or linear layer.
        per_group: of the channels of a group that pay, above 0 and up to 1, rounded up.
        multiple_of: as for `TopFraction`, with what pays.

    Source: Gauss-Newton morphisms, section 3.3 and Algorithm 1.
    """

    params: float = 0.0
    macs: float = 0.0
    flops: float = 0.0
    energy: float = 0.0
    per_group: float = 0.3
    multiple_of: Multiple = 1

    def __post_init__(self) -> None:
        _check_share("per_group", self.per_group)
        check_multiple(self.multiple_of)
        for resource in RESOURCES:
            price = getattr(self, resource)
            if not (math.isfinite(price) and price >= 0):
                raise RamifyError(f"{resource} is a price of at least 0, and got {price}")

    def worth(self, proposal: Proposal) -> float:
        """What is left of the value after its cost: above 0 where the edit pays."""
        prices = ((getattr(self, resource), resource) for resource in RESOURCES)
        return proposal.value - sum(price * proposal.cost.of(name) for price, name in prices)

    def select(self, proposals: Sequence[Proposal]) -> list[Proposal]:
        """In each group the best `per_group` of the channels that pay."""
        candidates = gather(proposals)
        worth = [self.worth(proposal) for proposal in proposals]
        chosen: list[int] = []
        paying = [number for number, value in enumerate(worth) if value > 0]
        for pool in candidates.by_group(paying).values():
            ranked = candidates.ranked(worth, pool)
            chosen += candidates.spared(ranked)[: share(self.per_group, len(ranked))]
        chosen = rounded(candidates, chosen, paying, worth, self.multiple_of)
        chosen.sort(key=lambda number: -worth[number])
        return [candidates.proposals[number] for number in chosen]


def share(fraction: float, count: int) -> int:
    """So many of `count`, rounded up, where 0.07 of 100 is 7 whatever floats say."""
    return math.ceil(fraction * count - 1e-9)


def _check_share(name: str, fraction: float) -> None:
    if not 0 < fraction <= 1:
        raise RamifyError(f"{name} lies above 0 and up to 1, and got {fraction}")


def _best(candidates: Candidates, pool: Sequence[int]) -> list[int]:
    worth = [proposal.value for proposal in candidates.proposals]
    paying = [number for number in pool if candidates.proposals[number].pays]
    return candidates.spared(candidates.ranked(worth, paying))


def _finished(
    candidates: Candidates, chosen: Sequence[int], pool: Iterable[int], multiple_of: Multiple
) -> list[Proposal]:
    """The selection, rounded with what pays of a pool, in order of value."""
    worth = [proposal.value for proposal in candidates.proposals]
    paying = [number for number in pool if candidates.proposals[number].pays]
    found = rounded(candidates, chosen, paying, worth, multiple_of)
    return sorted((candidates.proposals[number] for number in found), key=lambda p: -p.value)
