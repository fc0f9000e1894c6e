"""The searchers by their command-line names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ramify.errors import RamifyError
from ramify.imports import object_at
from ramify.relax.darts import DARTS, Joint, MiLeNAS
from ramify.relax.rarts import RARTS
from ramify.relax.searcher import Searcher

NAMES = ("rarts", "darts1", "darts2", "milenas", "joint")


def searcher_named(name: str, lam: float = 1.0, beta: float = 0.0) -> Callable[..., Searcher]:
    """A function that makes the searcher of this name.

    Args:
        name: one of `NAMES`, or ``package.module:object`` for a user's own class of
            :class:`Searcher`, or a ``functools.partial`` of one.
        lam: λ, for searchers that have it.
        beta: β, likewise.

    Returns:
        A function of the model and of the settings that all searchers share.

    Raises:
        RamifyError: the searcher does not exist.
    """
    if name not in NAMES:
        known = f"one of {', '.join(NAMES)}, or package.module:object for one of your own"
        found = object_at(name, "searcher", known)
        if not learns_alpha(found):
            raise RamifyError(
                f"{name} is a {type(found).__name__}, where a class of ramify.relax.Searcher is "
                "expected: name one."
            )
        own: Callable[..., Searcher] = found
        return own
    makers: dict[str, Callable[..., Searcher]] = {
        "rarts": partial(RARTS, lam=lam, beta=beta),
        "darts1": DARTS,
        "darts2": partial(DARTS, order=2),
        "milenas": partial(MiLeNAS, lam=lam),
        "joint": Joint,
    }
    return makers[name]


def learns_alpha(found: object) -> bool:
    """Whether this is a class of :class:`Searcher`, or a ``functools.partial`` of one."""
    kind = found.func if isinstance(found, partial) else found
    return isinstance(kind, type) and issubclass(kind, Searcher)
