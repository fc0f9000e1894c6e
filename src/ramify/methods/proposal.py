"""What every method returns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from ramify.cost import Cost
from ramify.edit import Edit
from ramify.probe import Loss
from ramify.trace import ChannelGraph


@dataclass(frozen=True)
class Proposal:
    """An edit, what it should gain, and what it costs.

    Attributes:
        edit: what to do.
        gain: expected decrease of the mean loss.
        cost: what the edit adds to parameters and MACs.
        index: the splitting index λ_min of the channel, where the method has one.
    """

    edit: Edit
    gain: float
    cost: Cost
    index: float | None = None


class Method(Protocol):
    """A growth method: a frozen set of settings with one verb."""

    def propose(self, graph: ChannelGraph, loss: Loss, batches: Iterable[Any]) -> list[Proposal]:
        """Edits that should lower the loss, best first."""
        ...
