"""The recorded runs of the original and of the edited network on each batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ramify.probe.reads import Forward
from ramify.refit.readers import Course
from ramify.refit.reference import Reference
from ramify.refit.routing import courses_of
from ramify.refit.tapes import tapes_of
from ramify.tracing.recorder import Tape


@dataclass(frozen=True)
class Runs:
    """The runs of both networks; weights may change between the recording and a replay.

    Attributes:
        old: the original network's run on each batch.
        new: the edited network's run on each batch.
        courses: the readers and norms of each run, the old runs first.
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
            reference: the original network.
            batches: the batches to run them on.
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
