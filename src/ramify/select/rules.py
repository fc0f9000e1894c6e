"""Ranking rules: the top fraction, a threshold, and the trade-off of loss against cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ramify.arguments import check_settings
from ramify.cost import RESOURCES
from ramify.errors import RamifyError
from ramify.methods import Proposal
from ramify.select.candidates import Candidates, gather
from ramify.select.rounding import Multiple, check_multiple, rounded


class Rule(Protocol):
    """A selection rule: a frozen set of settings with one method, `select`.

    No rule selects two edits of one channel, or prunes all channels of a group. The rules of this
    library take `multiple_of`: after the edits the width of a group is a multiple of it, or
    unchanged.

    Example:
        >>> class Best:
        ...     def select(self, proposals):
        ...         return sorted(proposals, key=lambda proposal: -proposal.value)[:1]
        >>> rule: Rule = Best()
    """

    def select(self, proposals: Sequence[Proposal]) -> list[Proposal]:
        """Select the proposals to apply.

        Args:
            proposals: the proposals of a method, in any order.

        Returns:
            Some of them; none if no edit is worth it.
        """
        ...


@dataclass(frozen=True)
class TopFraction:
    """A fraction of the proposed channels: those with the largest gains, if positive.

    Args:
        fraction: of the proposed channels, above 0 and up to 1, rounded up.
        per_group: whether the fraction is taken in each group separately.
        multiple_of: the number that the width of each changed group becomes a multiple of, the
            nearest that its proposals reach; one number, or numbers by group.
        tilt: with `per_group`, from -1 to 1: group number i of n, in the order of the graph, loses
            or gains the fraction times 1 + tilt · (2i / (n - 1) - 1), at most all. So 1 takes
            nothing of the first group and twice the fraction of the last ("deep" of AMC), -1 the
            reverse ("shallow"), and 0 the same of all ("uniform").
        per: `params`, `macs`, `flops` or `energy`: ranks by gain per unit of this resource, with
            prunes, which free some of it, before all splits; None ranks by the gain alone.

    Example:
        >>> import ramify
        >>> gains = [0.1, 0.4, 0.3, -0.2]
        >>> proposals = [
        ...     ramify.Proposal(ramify.Split("conv1", channel), gain, ramify.cost.Cost(30, 900))
        ...     for channel, gain in enumerate(gains)
        ... ]
        >>> [p.edit.channel for p in ramify.TopFraction(0.5).select(proposals)]
        [1, 2]

    Source: S3D, section 4 (top α %); for `tilt`, Y. He and others, "AMC: AutoML for model
    compression and acceleration on mobile devices", 2018, which prints no formula.
    """

    fraction: float
    per_group: bool = False
    multiple_of: Multiple = 1
    per: str | None = None
    tilt: float = 0.0

    def __post_init__(self) -> None:
        check_multiple(self.multiple_of)
        check_settings(self)
        _check_fraction("fraction", self.fraction)
        if not -1 <= self.tilt <= 1 or (self.tilt and not self.per_group):
            raise RamifyError(
                f"tilt must be from -1 to 1 and needs per_group=True, but got {self.tilt} with "
                f"per_group={self.per_group}"
            )
        if self.per is not None and self.per not in RESOURCES:
            raise RamifyError(f"per must be one of {', '.join(RESOURCES)}, but got {self.per!r}")

    def worth(self, proposal: Proposal) -> float:
        """The value to rank by: the proposal's value, or its gain per unit of `per`."""
        if self.per is None:
            return proposal.value
        if proposal.score is not None:
            raise RamifyError(
                f"per={self.per!r} ranks gains per cost, but the proposal for channel "
                f"{proposal.edit.channel} of '{proposal.edit.group}' has a score and no gain: "
                "leave per out, or choose a method that estimates gains"
            )
        cost = proposal.cost.of(self.per)
        return proposal.gain / cost if cost > 0 else math.copysign(math.inf, proposal.gain)

    def select(self, proposals: Sequence[Proposal]) -> list[Proposal]:
        """The best `fraction` of the channels, without proposals that gain nothing."""
        candidates = gather(proposals)
        proposals = candidates.proposals
        worth = [self.worth(proposal) for proposal in proposals]
        groups = candidates.by_group(range(len(proposals)))
        parts = [([number for group in groups.values() for number in group], self.fraction)]
        if self.per_group:
            shares = self._shares(candidates, list(groups))
            parts = [(group, shares[name]) for name, group in groups.items()]
        chosen: list[int] = []
        for part, share in parts:
            channels = {candidates.channels[number] for number in part}
            chosen += _best(candidates, part, worth)[: count_of(share, len(channels))]
        return _finished(candidates, chosen, range(len(proposals)), self.multiple_of)

    def _shares(self, candidates: Candidates, names: list[str]) -> dict[str, float]:
        """The fraction of each group."""
        order = [] if candidates.graph is None else [g.name for g in candidates.graph.groups]
        ordered = sorted(names, key=order.index) if order else names
        if len(ordered) < 2:
            return dict.fromkeys(ordered, self.fraction)
        places = [2 * place / (len(ordered) - 1) - 1 for place in range(len(ordered))]
        return {
            name: min(1.0, self.fraction * (1 + self.tilt * place))
            for name, place in zip(ordered, places, strict=True)
        }


@dataclass(frozen=True)
class Threshold:
    """At most `most` proposals, each within bounds on its splitting index and its value.

    Args:
        most: m_*, the largest number of channels to split at once; None for no bound.
        index: λ_*, the largest splitting index to split at.
        value: the smallest gain or score to take: `value=-1e-3` prunes the channels whose gates or
            norm scales are at most 1e-3, so that the search decides how many.
        multiple_of: as for `TopFraction`; rounding may exceed `most` by a few.

    Example:
        >>> import ramify
        >>> gains = [0.1, 0.4, 0.3, -0.2]
        >>> proposals = [
        ...     ramify.Proposal(ramify.Split("conv1", channel), gain, ramify.cost.Cost(30, 900))
        ...     for channel, gain in enumerate(gains)
        ... ]
        >>> [p.edit.channel for p in ramify.Threshold(most=3, value=0.2).select(proposals)]
        [1, 2]

    Source: S2D, Algorithm 1, step 3.
    """

    most: int | None = None
    index: float = 0.0
    multiple_of: Multiple = 1
    value: float = -math.inf

    def __post_init__(self) -> None:
        check_multiple(self.multiple_of)
        check_settings(self)
        if self.most is not None and self.most < 1:
            raise RamifyError(f"most (m_* in S2D) must be at least 1, but got {self.most}")

    def select(self, proposals: Sequence[Proposal]) -> list[Proposal]:
        """The best `most` proposals whose index is at most `index` and value at least `value`."""
        candidates = gather(proposals)
        proposals = candidates.proposals
        fit = [
            number
            for number, proposal in enumerate(proposals)
            if (proposal.splitting_index is None or proposal.splitting_index <= self.index)
            and proposal.value >= self.value
        ]
        worth = [proposal.value for proposal in proposals]
        best = _best(candidates, fit, worth)[: self.most]
        return _finished(candidates, best, fit, self.multiple_of)


@dataclass(frozen=True)
class TradeOff:
    r"""The best fraction of each group's edits whose gain is larger than their cost.

    .. math:: -\Delta L > \lambda_p \Delta R_p + \lambda_m \Delta R_m + \dots

    A prune has a negative cost, so a prune that raises the loss a little may still pay. The
    resources are given as prices; :class:`Knapsack` takes the same names as budgets.

    Args:
        params: λ_p, the price of one parameter in units of the mean loss.
        macs: the price of one multiply-accumulate.
        flops: the price of one floating-point operation.
        energy: the price of one multiply-accumulate of a convolution or linear layer.
        per_group: the fraction of a group's channels that pay to select, above 0 and up to 1,
            rounded up.
        multiple_of: as for `TopFraction`, among the edits that pay.

    Example:
        >>> import ramify
        >>> gains = [0.1, 0.4, 0.3, -0.2]
        >>> proposals = [
        ...     ramify.Proposal(ramify.Split("conv1", channel), gain, ramify.cost.Cost(30, 900))
        ...     for channel, gain in enumerate(gains)
        ... ]
        >>> [p.edit.channel for p in ramify.TradeOff(params=0.005, per_group=1.0).select(proposals)]
        [1, 2]

    Source: Gauss-Newton morphisms, section 3.3 and Algorithm 1.
    """

    params: float = 0.0
    macs: float = 0.0
    flops: float = 0.0
    energy: float = 0.0
    per_group: float = 0.3
    multiple_of: Multiple = 1

    def __post_init__(self) -> None:
        check_multiple(self.multiple_of)
        check_settings(self)
        _check_fraction("per_group", self.per_group)
        for resource in RESOURCES:
            price = getattr(self, resource)
            if not (math.isfinite(price) and price >= 0):
                raise RamifyError(f"the price {resource} must be at least 0, but got {price}")

    def worth(self, proposal: Proposal) -> float:
        """The value minus the price of its cost: above 0 if the edit pays."""
        prices = ((getattr(self, resource), resource) for resource in RESOURCES)
        return proposal.value - sum(price * proposal.cost.of(name) for price, name in prices)

    def select(self, proposals: Sequence[Proposal]) -> list[Proposal]:
        """In each group the best `per_group` of the channels that pay."""
        candidates = gather(proposals)
        proposals = candidates.proposals
        worth = [self.worth(proposal) for proposal in proposals]
        chosen: list[int] = []
        paying = [number for number, value in enumerate(worth) if value > 0]
        for group in candidates.by_group(paying).values():
            ranked = candidates.ranked(worth, group)
            count = count_of(self.per_group, len(ranked))
            chosen += candidates.without_last_prunes(ranked)[:count]
        chosen = rounded(candidates, chosen, paying, worth, self.multiple_of)
        chosen.sort(key=lambda number: -worth[number])
        return [candidates.proposals[number] for number in chosen]


def count_of(fraction: float, count: int) -> int:
    """This fraction of `count`, rounded up; 0.07 of 100 is 7, although it is more in floats."""
    return math.ceil(fraction * count - 1e-9)


def _check_fraction(name: str, fraction: float) -> None:
    if not 0 < fraction <= 1:
        raise RamifyError(f"{name} must be above 0 and at most 1, but got {fraction}")


def _best(candidates: Candidates, numbers: Sequence[int], worth: Sequence[float]) -> list[int]:
    """The proposals that pay, one per channel, best first."""
    paying = [number for number in numbers if candidates.proposals[number].pays]
    return candidates.without_last_prunes(candidates.ranked(worth, paying))


def _finished(
    candidates: Candidates, chosen: Sequence[int], others: Iterable[int], multiple_of: Multiple
) -> list[Proposal]:
    """The selection, rounded with the other proposals that pay, in order of value."""
    worth = [proposal.value for proposal in candidates.proposals]
    paying = [number for number in others if candidates.proposals[number].pays]
    found = rounded(candidates, chosen, paying, worth, multiple_of)
    return sorted((candidates.proposals[number] for number in found), key=lambda p: -p.value)
