"""What is freed is kept while somebody asks for it, and given back afterwards."""

from __future__ import annotations

import ctypes
import resource
import sys

import pytest
import torch

from ramify.probe import allocator
from ramify.probe.allocator import MMAP_MAX, TRIM_THRESHOLD, USUAL, keep_freed_memory


class Owner:
    """Somebody who asks."""


def glibc() -> bool:
    return sys.platform == "linux" and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")


@pytest.mark.skipif(not glibc(), reason="another C library")
def test_a_large_block_is_cleared_by_the_system_once() -> None:
    owner = Owner()
    keep_freed_memory(owner)
    torch.ones(10_000_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(10_000_000)
    pages = 40_000_000 // resource.getpagesize()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < pages / 10


def test_the_limits_come_back_with_the_last_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(allocator, "_mallopt", lambda: lambda *limit: told.append(limit))
    monkeypatch.setattr(allocator, "_owners", set())
    monkeypatch.setattr(allocator, "_give_back", lambda: None)
    first, second = Owner(), Owner()
    keep_freed_memory(first)
    keep_freed_memory(second)
    assert {name for name, _ in told} == {TRIM_THRESHOLD, MMAP_MAX}
    told.clear()
    del first
    assert not told
    del second
    assert dict(told) == USUAL


@pytest.mark.parametrize(
    "name, value",
    [
        ("MALLOC_TRIM_THRESHOLD_", "1000"),
        ("MALLOC_MMAP_MAX_", "0"),
        ("GLIBC_TUNABLES", "glibc.malloc.trim_threshold=128"),
    ],
)
def test_limits_of_the_user_stay(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    assert allocator._mallopt.__wrapped__() is None
