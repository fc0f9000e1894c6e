"""What the network as it was and the network as it is run on each batch, side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ramify.refit.readers import Course
from ramify.refit.reference import Reference
from ramify.refit.routing import courses_of
from ramify.refit.tapes import tapes_of
from ramify.tracing.recorder import Tape

Forward = Callable[[nn.Module, Any], Any]
"""Runs the model on one batch: `loss(model, batch)` will do."""


@dataclass(frozen=True)
class Runs:
    """The runs of both networks; weights may change between the recording and a replay.

    Attributes:
        old: what the network as it was runs on each batch.
        new: what the network as it is runs.
        courses: the readers and norms of each, first of the old ones.
    """

    old: Sequence[Tape]
    new: Sequence[Tape]
    courses: Sequence[Course]

    @classmethod
    def recorded(
        cls, model: nn.Module, reference: Reference, batches: Sequence[Any], forward: Forward
    ) -> Runs:
        """Run both networks.

        Args:
            model: the edited network.
            reference: the network as it was.
            batches: what to run them on.
            forward: runs a model on a batch.

        Returns:
            Their runs.
        """
        new = tapes_of(model, batches, forward)
        with reference.restored():
            old = tapes_of(model, batches, forward)
        return cls(old, new, courses_of([*old, *new]))

    def part(self, which: slice) -> Runs:
        """The runs on some of the batches."""
        count = len(self.old)
        courses = [*self.courses[:count][which], *self.courses[count:][which]]
        return Runs(self.old[which], self.new[which], courses)
