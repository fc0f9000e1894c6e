"""The best value of a group at each possible width: all that a knapsack needs to know of it.

Shape letters: `D` changes of a group's width, in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ramify.tracing.indexing import Floats, Index

Option = tuple[int, float, int]
"""(change of width, value, number of the proposal)"""
STAYS = -1  # in place of a proposal's number: the channel is not changed


@dataclass(frozen=True)
class ValueCurve:
    """The largest total value of a group for each change of its width.

    Attributes:
        changes: (D,), rising.
        values: (D,); from `rising_values` they rise too.
    """

    changes: Index
    values: Floats
    # How each value is reached, see `values_of_changes`: the smallest change; the steps of the
    # plain channels, best first, and how many of these give the smallest change; and for each other
    # channel its options, and which of them was taken at each change (0: none).
    _smallest: int
    _plain_steps: list[tuple[int, int]]
    _plain_first: int
    _others: list[tuple[Sequence[Option], NDArray[np.int8]]]

    def chosen(self, change: int) -> list[int]:
        """The proposals that together change the width by `change` with the best value."""
        picked, at = [], change - self._smallest
        for options, taken in reversed(self._others):  # back through the dynamic program
            option = int(taken[at])
            if option:
                picked.append(options[option - 1][2])
                at -= options[option - 1][0] + 1
            else:
                at -= 1
        # The last step taken for a plain channel determines its edit.
        plain = dict(self._plain_steps[: self._plain_first + at])
        return picked + [number for number in plain.values() if number != STAYS]


def rising_values(
    channels: Sequence[Sequence[Option]], width: int, multiple: int = 1
) -> ValueCurve:
    """The value of each width of a group, without widths that a smaller one matches in value.

    Args:
        channels: for each channel, its options; no edit is always possible too.
        width: the group's width, of which one channel is kept.
        multiple: the number that a changed width is a multiple of; the current one is always
            allowed.

    Returns:
        The values, rising.
    """
    # An option that another channel's beats may still be needed to reach a multiple.
    kept = channels if multiple > 1 else [_undominated(options) for options in channels]
    every = values_of_changes(kept, width)
    allowed = ((width + every.changes) % multiple == 0) | (every.changes == 0)
    values = np.where(allowed, every.values, -np.inf)
    best = np.maximum.accumulate(np.append(-np.inf, values))
    rising = values > best[:-1]
    return replace(every, changes=every.changes[rising], values=every.values[rising])


def values_of_changes(channels: Sequence[Sequence[Option]], width: int) -> ValueCurve:
    """The largest value of each change that a group's options can give; it may fall with width.

    Channels whose options are one step each, with falling gains, are taken in order of gain; the
    others are added one at a time by dynamic programming.

    Args:
        channels: for each channel, its options; no edit is always possible too.
        width: the group's width, of which one channel is kept.

    Returns:
        The values of all changes; they need not rise.
    """
    kept = [_best_of_each_change(options) for options in channels]
    plain = [options for options in kept if _is_plain(options)]
    values, smallest, plain_steps, plain_first = _plain_values(plain)
    others: list[tuple[Sequence[Option], NDArray[np.int8]]] = []
    for options in kept:
        if not _is_plain(options):
            values, taken = _with_channel(values, options)
            smallest -= 1
            others.append((options, taken))
    changes = np.arange(smallest, smallest + len(values))
    found = (changes > -width) & np.isfinite(values)
    return ValueCurve(changes[found], values[found], smallest, plain_steps, plain_first, others)


def _best_of_each_change(options: Sequence[Option]) -> list[Option]:
    """The most valuable option for each change, smallest change first."""
    best: dict[int, Option] = {}
    for option in sorted(options, key=lambda option: (option[0], -option[1])):
        best.setdefault(option[0], option)
    return list(best.values())


def _undominated(options: Sequence[Option]) -> list[Option]:
    """Smallest change first, each of more value than every smaller one and than 0 (no change)."""
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
    """Whether a channel goes from pruned to kept to split in single steps of falling gain."""
    by_change = {change: value for change, value, _ in options}
    if set(by_change) - {-1, 1}:
        return False
    less, more = by_change.get(-1), by_change.get(1)
    return less is None or (less <= 0 and (more is None or more <= -less))


def _plain_values(
    plain: Sequence[Sequence[Option]],
) -> tuple[Floats, int, list[tuple[int, int]], int]:
    """The values of plain channels: make all possible prunes, then undo the best steps.

    Returns:
        The values, the smallest change, the steps (channel, its resulting edit) in the order in
        which they are taken, and how many of them give the smallest change.
    """
    prunes: list[tuple[int, int]] = []
    gains: list[tuple[float, tuple[int, int]]] = []
    total = 0.0
    for channel, options in enumerate(plain):
        for change, value, number in options:
            if change < 0:
                prunes.append((channel, number))
                gains.append((-value, (channel, STAYS)))
                total += value
            else:
                gains.append((value, (channel, number)))
    gains.sort(key=lambda gain: -gain[0])  # stable: a channel's smaller change comes first
    values = total + np.cumsum([0.0, *(gain for gain, _ in gains)])
    return values, -len(prunes), [*prunes, *(step for _, step in gains)], len(prunes)


def _with_channel(values: Floats, options: Sequence[Option]) -> tuple[Floats, NDArray[np.int8]]:
    """The values with one more channel, and which of its options each uses (0: none).

    The smallest change becomes one less, as the channel may be pruned.

    Returns:
        The values, and the number of the option at each.
    """
    size = len(values) + 1 + max(0, *(change for change, _, _ in options))
    total = np.full(size, -np.inf)
    taken = np.zeros(size, dtype=np.int8)
    total[1 : 1 + len(values)] = values
    for number, (change, value, _) in enumerate(options, start=1):
        part = slice(change + 1, change + 1 + len(values))
        better = values + value > total[part]
        total[part] = np.where(better, values + value, total[part])
        taken[part][better] = number
    return total, taken
