"""The best value at every width that a group can get: all that a knapsack must know of it.

Shape letters: `D` changes of a group's width, in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ramify.tracing.indexing import Index

Floats = NDArray[np.float64]
Option = tuple[int, float, int]
"""(change of width, value, number of the proposal)"""


@dataclass(frozen=True)
class Curve:
    """The largest total value of a group for each change of its width.

    Attributes:
        changes: (D,), rising.
        values: (D,), those of a `curve` rising too.
    """

    changes: Index
    values: Floats
    _start: int
    _plain: list[list[int]]
    _steps: list[tuple[Sequence[Option], NDArray[np.int8]]]
    _base: int

    def chosen(self, change: int) -> list[int]:
        """The proposals that together change the width by so much for the best value."""
        picked, at = [], change - self._start
        for options, taken in reversed(self._steps):
            option = int(taken[at])
            if option:
                picked.append(options[option - 1][2])
                at -= options[option - 1][0] + 1
            else:
                at -= 1
        return picked + self._plain_chosen(at)

    def _plain_chosen(self, taken: int) -> list[int]:
        """The proposals that the first so many increments of the plain channels leave standing."""
        standing: dict[int, int] = {}
        for channel, number in self._plain[: self._base + taken]:
            standing[channel] = number
        return [number for number in standing.values() if number >= 0]


def curve(channels: Sequence[Sequence[Option]], width: int, multiple: int = 1) -> Curve:
    """The curve of a group: what its widths are worth, where a smaller one is worth less.

    Args:
        channels: for each channel, its options; doing nothing is another.
        width: the group's width, of which one channel is kept.
        multiple: what a changed width is a multiple of; the present one is allowed in any case.

    Returns:
        The curve.
    """
    # An option that another channel's beats may still be what makes a multiple.
    kept = channels if multiple > 1 else [_undominated(options) for options in channels]
    every = reachable(kept, width)
    allowed = ((width + every.changes) % multiple == 0) | (every.changes == 0)
    values = np.where(allowed, every.values, -np.inf)
    best = np.maximum.accumulate(np.append(-np.inf, values))
    rising = values > best[:-1]
    return replace(every, changes=every.changes[rising], values=every.values[rising])


def reachable(channels: Sequence[Sequence[Option]], width: int) -> Curve:
    """The largest value of each change that a group's options can make, also where less is more.

    Channels whose options are one step each, with falling gains, are taken in order of gain; the
    others are added one at a time by dynamic programming.

    Args:
        channels: for each channel, its options; doing nothing is another.
        width: the group's width, of which one channel is kept.

    Returns:
        The values of all changes; they need not rise.
    """
    kept = [_best_of_each_change(options) for options in channels]
    plain = [options for options in kept if _is_plain(options)]
    hard = [options for options in kept if not _is_plain(options)]
    values, start, order, base = _plain_curve(plain)
    steps: list[tuple[Sequence[Option], NDArray[np.int8]]] = []
    for options in hard:
        values, taken = _add(values, options)
        start -= 1
        steps.append((options, taken))
    changes = np.arange(start, start + len(values))
    found = (changes > -width) & np.isfinite(values)
    return Curve(changes[found], values[found], start, order, steps, base)


def _best_of_each_change(options: Sequence[Option]) -> list[Option]:
    """Smallest change first."""
    best: dict[int, Option] = {}
    for option in sorted(options, key=lambda option: (option[0], -option[1])):
        best.setdefault(option[0], option)
    return list(best.values())


def _undominated(options: Sequence[Option]) -> list[Option]:
    """Smallest change first, each worth more than those below it, and than nothing where larger."""
    out: list[Option] = []
    best = -np.inf
    for change, value, number in sorted(options, key=lambda option: (option[0], -option[1])):
        if change > 0:
            best = max(best, 0.0)
        if value > best:
            out.append((change, value, number))
            best = value
    return out


def _is_plain(options: Sequence[Option]) -> bool:
    by_change = {change: value for change, value, _ in options}
    if set(by_change) - {-1, 1}:
        return False
    less, more = by_change.get(-1), by_change.get(1)
    return less is None or (less <= 0 and (more is None or more <= -less))


def _plain_curve(
    plain: Sequence[Sequence[Option]],
) -> tuple[Floats, int, list[list[int]], int]:
    """(values, first change, increments in order of gain, how many set the start)."""
    set_out: list[list[int]] = []
    gains: list[tuple[float, list[int]]] = []
    total = 0.0
    for channel, options in enumerate(plain):
        for change, value, number in options:
            if change < 0:
                set_out.append([channel, number])
                gains.append((-value, [channel, -1]))  # the channel stays after all
                total += value
            else:
                gains.append((value, [channel, number]))
    gains.sort(key=lambda gain: -gain[0])  # stable: of one channel the smaller change goes first
    values = total + np.cumsum([0.0, *(gain for gain, _ in gains)])
    return values, -len(set_out), [*set_out, *(step for _, step in gains)], len(set_out)


def _add(values: Floats, options: Sequence[Option]) -> tuple[Floats, NDArray[np.int8]]:
    """The curve with one more channel, from a change lower by one; and which option each took."""
    size = len(values) + 1 + max(0, *(change for change, _, _ in options), 0)
    total = np.full(size, -np.inf)
    taken = np.zeros(size, dtype=np.int8)
    total[1 : 1 + len(values)] = values
    for number, (change, value, _) in enumerate(options, start=1):
        part = slice(change + 1, change + 1 + len(values))
        better = values + value > total[part]
        total[part] = np.where(better, values + value, total[part])
        taken[part][better] = number
    return total, taken
