"""Remembers growths whose sizes matched the prediction, so that they need not be repeated.

A trial growth checks sizes first, and values in separate runs. A failure of values restricts an
axis without changing any size, so the next growth would repeat known results. And the runs in train
mode, of which no values are compared, do not depend on whether those in eval mode compare values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ramify.tracing.dims import Atom
from ramify.tracing.indexing import Changes
from ramify.tracing.recorder import Tape
from ramify.tracing.sizes import Use

Ran = tuple[Tape, Sequence[Use]]
"""The tape of a run, and the sizes that it took from attributes."""


class PassedSizes:
    """The latest growth whose sizes matched the prediction, with its runs."""

    def __init__(self) -> None:
        self._sizes: dict[Atom, int] | None = None
        self._ran: Mapping[int, Ran] = {}

    def note(self, changes: Changes, ran: Mapping[int, Ran]) -> None:
        """Record a growth that matched the prediction, in runs that compared no values.

        Args:
            changes: the growth of each axis.
            ran: run -> its tape and sizes, for runs that another growth need not repeat.
        """
        self._sizes, self._ran = _sizes(changes), ran

    def forget(self) -> None:
        """Forget all results, since the axes themselves have changed."""
        self._sizes, self._ran = None, {}

    def known(self, changes: Changes) -> bool:
        """Whether a growth by these sizes matched the prediction."""
        return self._sizes == _sizes(changes)

    def ran(self, changes: Changes) -> Mapping[int, Ran]:
        """The tapes and sizes of such a growth, by run; empty if there was none."""
        return self._ran if self.known(changes) else {}


def _sizes(changes: Changes) -> dict[Atom, int]:
    return {atom: len(change.source) for atom, change in changes.items()}
