"""Freed memory stays in the process as long as the object lives."""

from __future__ import annotations

import ctypes
import sys

import pytest
import torch

from ramify.probe import allocator
from ramify.probe.allocator import KEPT, USUAL, FreedMemoryKept


def glibc() -> bool:
    return sys.platform == "linux" and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")


@pytest.mark.skipif(not glibc(), reason="another C library")
def test_a_large_block_is_cleared_by_the_system_once() -> None:
    resource = pytest.importorskip("resource")

    def faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(10_000_000)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    pages = 40_000_000 // resource.getpagesize()
    kept = FreedMemoryKept()
    # A block that was freed must be somewhat larger than what is asked for: that takes some calls.
    assert min(faults() for _ in range(50)) < pages / 10
    del kept


def test_the_limits_come_back_with_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(allocator, "_mallopt", lambda: lambda *limit: told.append(limit))
    monkeypatch.setattr(allocator, "_living", set())
    monkeypatch.setattr(allocator, "_give_back", lambda: None)
    first, second = FreedMemoryKept(), FreedMemoryKept()
    assert dict(told) == KEPT
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
