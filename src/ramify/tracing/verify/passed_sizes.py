"""Growths whose sizes came out as predicted, which another growth of the same sizes need not show.

A trial growth looks at sizes first, and then, in runs of their own, at values. Blame for a value
restricts what an axis may do and leaves all sizes as they were, so that the next growth would
repeat what is known; and the runs in train mode, of which no values are compared, are the same
whether or not those in eval mode compare theirs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ramify.tracing.dims import Atom
from ramify.tracing.indexing import Changes
from ramify.tracing.recorder import Tape
from ramify.tracing.sizes import Use

Ran = tuple[Tape, Sequence[Use]]
"""What a run executed, and the sizes that it took from attributes."""


class PassedSizes:
    """The latest growth whose sizes came out as predicted, and what its runs did."""

    def __init__(self) -> None:
        self._sizes: dict[Atom, int] | None = None
        self._ran: Mapping[int, Ran] = {}

    def note(self, changes: Changes, ran: Mapping[int, Ran]) -> None:
        """A growth went as predicted, in runs that asked for no values.

        Args:
            changes: how each axis grew.
            ran: run -> what it executed, of those that another growth need not repeat.
        """
        self._sizes, self._ran = _sizes(changes), ran

    def forget(self) -> None:
        """The axes themselves have changed."""
        self._sizes, self._ran = None, {}

    def known(self, changes: Changes) -> bool:
        """Whether a growth by these sizes went as predicted."""
        return self._sizes == _sizes(changes)

    def ran(self, changes: Changes) -> Mapping[int, Ran]:
        """What runs of such a growth executed, by run; nothing where none was seen."""
        return self._ran if self.known(changes) else {}


def _sizes(changes: Changes) -> dict[Atom, int]:
    return {atom: len(change.source) for atom, change in changes.items()}
