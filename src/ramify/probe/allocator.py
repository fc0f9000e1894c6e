"""Keep freed CPU memory in the process instead of returning it to the system."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
import weakref
from collections.abc import Callable

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
"""Parameters of mallopt(3), as <malloc.h> numbers them."""
KEPT = {TRIM_THRESHOLD: 2**31 - 1, MMAP_MAX: 0}
"""The end of the heap is never trimmed (the largest int), and no block is mapped outside it."""
USUAL = {TRIM_THRESHOLD: 2**26, MMAP_THRESHOLD: 2**25, MMAP_MAX: 65536}
"""The limits that glibc sets after a block of 32 MiB is freed, its largest adaptive limits."""


class FreedMemoryKept:
    """While this object exists, glibc reuses freed memory and returns none to the system.

    A training step allocates and frees hundreds of tensors. glibc returns large blocks to the
    system at once, and trims its heap when enough is free at the end; the next allocation then gets
    new pages, each of which the kernel must clear: up to half of a step's time. When the last such
    object is deleted, free memory is returned and glibc gets the limits that it adapts to by
    itself (`USUAL`), whatever they were before. This has no effect if the environment sets limits
    of malloc, or with another C library.

    Source: mallopt(3), M_TRIM_THRESHOLD and M_MMAP_MAX.
    """

    def __init__(self) -> None:
        if set_limit := _mallopt():
            _living.add(id(self))
            _set(set_limit, KEPT)
            weakref.finalize(self, _gone, id(self), set_limit).atexit = False


_living: set[int] = set()


def _gone(which: int, set_limit: Callable[[int, int], int]) -> None:
    _living.discard(which)
    if not _living:
        _set(set_limit, USUAL)
        _give_back()


def _set(set_limit: Callable[[int, int], int], limits: dict[int, int]) -> None:
    for name, value in limits.items():
        set_limit(name, value)


def _give_back() -> None:
    """Return free memory to the system."""
    ctypes.CDLL(None).malloc_trim(0)


@functools.cache
def _mallopt() -> Callable[[int, int], int] | None:
    """The glibc function; None with another C library, or if its limits are already set."""
    named = any(name.startswith(("MALLOC_MMAP_", "MALLOC_TRIM_")) for name in os.environ)
    if named or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "") or sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library.mallopt if hasattr(library, "gnu_get_libc_version") else None
