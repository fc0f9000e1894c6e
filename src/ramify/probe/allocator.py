"""What is freed on a CPU is kept for what comes next, where the C library would hand it back."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
import weakref
from collections.abc import Callable

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
"""The parameters of mallopt(3), of <malloc.h>."""
KEPT = {TRIM_THRESHOLD: 2**31 - 1, MMAP_MAX: 0}
"""Bytes that may be free at the end of the heap, all that an int can say; blocks outside of it."""
USUAL = {TRIM_THRESHOLD: 2**26, MMAP_THRESHOLD: 2**25, MMAP_MAX: 65536}
"""What glibc comes to by itself once it has freed a block of 32 MiB, the largest it learns from."""


class FreedMemoryKept:
    """glibc keeps what is freed for what is allocated next, as long as this lives.

    A step makes and frees hundreds of tensors. glibc gives large ones back to the system at once,
    and the end of its heap whenever enough of it is free; the system hands both out again page by
    page, and clears every page: up to half of a step's time. When the last of these is gone, what
    is free is given back and the limits are those that glibc comes to by itself. Where the user has
    set limits of malloc in the environment, and with other C libraries, nothing happens.

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
    """Hand what is free back to the system."""
    ctypes.CDLL(None).malloc_trim(0)


@functools.cache
def _mallopt() -> Callable[[int, int], int] | None:
    """The function of glibc; None where there is another C library, or the user set its limits."""
    named = any(name.startswith(("MALLOC_MMAP_", "MALLOC_TRIM_")) for name in os.environ)
    if named or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "") or sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library.mallopt if hasattr(library, "gnu_get_libc_version") else None
