"""Which samples are for testing, where a data set has no split of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

TEST_SHARE = 0.2


def for_testing(keys: Sequence[str]) -> set[int]:
    """A fifth of the samples, drawn by what identifies them: the same ones every time.

    Args:
        keys: of each sample, such as the name of its file; adding some moves few others.

    Returns:
        The numbers of those that are for testing, one at least.

    Example:
        >>> for_testing(["a", "b", "c", "d", "e"])
        {3}
    """
    drawn = sorted(range(len(keys)), key=lambda k: hashlib.sha256(_bytes(keys[k])).digest())
    return set(drawn[: max(1, round(TEST_SHARE * len(drawn)))])


def _bytes(key: str) -> bytes:
    """What a key is in the system, where the name of a file need not be text."""
    return key.encode(errors="surrogateescape")
