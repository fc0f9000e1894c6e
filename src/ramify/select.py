"""Selection: which proposals to carry out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ramify.errors import RamifyError
from ramify.methods import Proposal


class Rule(Protocol):
    """A selection rule: a frozen set of settings with one verb."""

    def select(self, proposals: Sequence[Proposal]) -> list[Proposal]:
        """The proposals to carry out."""
        ...


@dataclass(frozen=True)
class TopFraction:
    """The share of all proposals with the largest gain, as far as it is positive.

    Args:
        fraction: of the proposals, above 0 and up to 1, rounded up.

    Source: S3D, section 4 (top α %).
    """

    fraction: float

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise RamifyError(f"fraction lies above 0 and up to 1, and got {self.fraction}")

    def select(self, proposals: Sequence[Proposal]) -> list[Proposal]:
        """The best `fraction` of the proposals, without those that gain nothing."""
        return _best(proposals)[: math.ceil(self.fraction * len(proposals))]


@dataclass(frozen=True)
class Threshold:
    """At most so many proposals, each with a splitting index no larger than a bound.

    Args:
        most: m_*, the largest number of channels to split at once; None for no bound.
        index: λ_*, the largest splitting index to split at.

    Source: S2D, Algorithm 1, step 3.
    """

    most: int | None = None
    index: float = 0.0

    def __post_init__(self) -> None:
        if self.most is not None and self.most < 1:
            raise RamifyError(f"most is m_* of S2D and at least 1, and got {self.most}")

    def select(self, proposals: Sequence[Proposal]) -> list[Proposal]:
        """The best `most` proposals whose index is at most `index`."""
        fit = [p for p in proposals if p.index is None or p.index <= self.index]
        return _best(fit)[: self.most]


def _best(proposals: Sequence[Proposal]) -> list[Proposal]:
    gaining = [proposal for proposal in proposals if proposal.pays]
    return sorted(gaining, key=lambda proposal: -proposal.value)
