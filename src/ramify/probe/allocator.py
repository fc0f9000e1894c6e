"""What a step frees is kept for the next one, where the C library would hand it back."""

import torch

LARGEST_LEARNED = 2**25 - 2**13
"""Bytes: just below the 32 MiB beyond which glibc learns nothing from a block."""


def keep_freed_memory() -> None:
    """Let glibc keep up to 64 MiB that were freed, for what is allocated next.

    A step makes and frees dozens of tensors of some MiB. Until it has seen larger ones, glibc gives
    each of them back to the system, which hands it out again page by page, and clears every page:
    up to a third of a step's time. Its limits follow the largest block that was freed so far. The
    one that is freed here takes no memory, since nothing is written into it; with other allocators
    nothing happens at all.

    Source: mallopt(3), M_MMAP_THRESHOLD, on the dynamic threshold.
    """
    torch.empty(LARGEST_LEARNED, dtype=torch.uint8)
