"""Small hand-written networks, each with one structure that a trace must understand.

Every structure states all of its groups: width, and what may be done with them:

    "split"    channels may be pruned and split, both exactly
    "prune"    pruned exactly, not split
    "inexact"  pruned, but not as if the channel were zero; not split
    "one"      a single channel: may be split, not pruned
    "frozen"   neither
"""

from __future__ import annotations

from tests.structures import attention, cases, convs, experts, moves, norms, recurrent, wiring
from tests.structures.base import STRUCTURES, Structure

__all__ = [
    "STRUCTURES",
    "Structure",
    "attention",
    "cases",
    "convs",
    "experts",
    "moves",
    "norms",
    "recurrent",
    "wiring",
]
