"""The choice of test samples for a data set that has no split."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

TEST_SHARE = 0.2


def for_testing(keys: Sequence[str]) -> set[int]:
    """Choose a fifth of the samples by their keys, always the same ones.

    Args:
        keys: one for each sample, such as the name of its file; adding keys moves few others.

    Returns:
        The indices of the test samples, at least one.

    Example:
        >>> for_testing(["a", "b", "c", "d", "e"])
        {3}
    """
    drawn = sorted(range(len(keys)), key=lambda k: hashlib.sha256(_bytes(keys[k])).digest())
    return set(drawn[: max(1, round(TEST_SHARE * len(drawn)))])


def _bytes(key: str) -> bytes:
    """The bytes of a key in the file system, where the name of a file need not be valid text."""
    return key.encode(errors="surrogateescape")
