"""Finds the failing parts of a whole by bisection."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from ramify.tracing.dims import Atom, leaves
from ramify.tracing.flow import DimFlow


def failing_parts(
    parts: Sequence[list[Atom]], fails: Callable[[Sequence[Atom]], bool]
) -> list[Atom]:
    """The parts that fail alone, found by bisection, or a half whose parts only fail together."""
    together = [atom for part in parts for atom in part]
    if not together or not fails(together):
        return []
    if len(parts) == 1:
        return together
    half = len(parts) // 2
    return failing_parts(parts[:half], fails) + failing_parts(parts[half:], fails) or together


def by_kind(flow: DimFlow, atoms: Iterable[Atom]) -> dict[str, list[Atom]]:
    """The groups by location without numbers, so that those of repeated blocks are together."""
    wanted = dict.fromkeys(atoms)
    lie: dict[Atom, dict[str, None]] = {atom: {} for atom in wanted}
    for name, terms in flow.param_dims.items():
        for dim, term in enumerate(terms):
            for position, atom in enumerate(leaves(term)):
                if atom in lie:
                    place = f"{re.sub(r'[0-9]+', '#', name)} {dim} {position}"
                    lie[atom][place] = None
    kinds: dict[str, list[Atom]] = {}
    for atom in wanted:
        kinds.setdefault("; ".join(sorted(lie[atom])), []).append(atom)
    return kinds
