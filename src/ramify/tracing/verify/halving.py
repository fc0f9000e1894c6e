"""Which parts of a whole fail, found by halving."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ramify.tracing.dims import Atom


def failing_parts(
    parts: Sequence[list[Atom]], fails: Callable[[Sequence[Atom]], bool]
) -> list[Atom]:
    """The parts that fail on their own, found by halving; a half whose parts only fail together."""
    together = [atom for part in parts for atom in part]
    if not together or not fails(together):
        return []
    if len(parts) == 1:
        return together
    half = len(parts) // 2
    return failing_parts(parts[:half], fails) + failing_parts(parts[half:], fails) or together
