"""The searchers by their names, as the command line calls them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ramify.relax.darts import DARTS, Joint, MiLeNAS
from ramify.relax.rarts import RARTS
from ramify.relax.searcher import Searcher

NAMES = ("rarts", "darts1", "darts2", "milenas", "joint")


def searcher_named(name: str, lam: float, beta: float) -> Callable[..., Searcher]:
    """What makes the searcher of a name.

    Args:
        name: one of `NAMES`.
        lam: λ, of those that have it.
        beta: β, likewise.

    Returns:
        A function of the model and of the settings that all searchers share.
    """
    makers: dict[str, Callable[..., Searcher]] = {
        "rarts": partial(RARTS, lam=lam, beta=beta),
        "darts1": DARTS,
        "darts2": partial(DARTS, order=2),
        "milenas": partial(MiLeNAS, lam=lam),
        "joint": Joint,
    }
    return makers[name]
