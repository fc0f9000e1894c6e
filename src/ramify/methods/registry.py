"""The growth methods by their command-line names, and methods defined by the user."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ramify.imports import made_with, object_at, takes_arguments
from ramify.methods.auto import Auto
from ramify.methods.baselines import Net2Net, NewNeuron, RandomSplit
from ramify.methods.boosting import Boosting
from ramify.methods.gauss_newton import GaussNewton
from ramify.methods.gradmax import GradMax
from ramify.methods.measured import Expansion, LineSearch
from ramify.methods.proposal import Method
from ramify.methods.scores import L1, BNScale, Taylor
from ramify.methods.splitting import SplittingDescent

METHODS: dict[str, type[Method]] = {
    "auto": Auto,
    "s2d": SplittingDescent,
    "s3d": SplittingDescent,
    "gauss-newton": GaussNewton,
    "random": RandomSplit,
    "net2net": Net2Net,
    "new-neuron": NewNeuron,
    "boosting": Boosting,
    "gradmax": GradMax,
    "line-search": LineSearch,
    "expansion": Expansion,
    "l1": L1,
    "bn": BNScale,
    "taylor": Taylor,
}


def method_named(name: str, *, seed: int = 0, settings: Mapping[str, Any] | None = None) -> Method:
    """The method with this name.

    Args:
        name: one of `METHODS`, or ``package.module:object`` for a user's own: a method, or a class
            or function that returns one, called with ``seed=`` if it takes that.
        seed: the seed of the method's random draws.
        settings: fields of the method's dataclass; only for the names of `METHODS`.

    Returns:
        The method.

    Raises:
        RamifyError: the method does not exist, or a setting is out of range.

    Example:
        >>> method_named("random", seed=3, settings={"step": 0.1})
        RandomSplit(step=0.1, copies=2, seed=3, unit='absolute')
    """
    if name not in METHODS:
        known = f"one of {', '.join(METHODS)}, or package.module:object for one of your own"
        return as_method(object_at(name, "method", known), name, seed)
    kind: Any = METHODS[name]
    drawn = {"seed": seed} if "seed" in {field.name for field in fields(kind)} else {}
    method: Method = kind(**drawn, **(settings or {}))
    return method


def as_method(found: Any, name: str, seed: int) -> Method:
    """The object that the user named, as a method.

    Args:
        found: a method, or a class or function that returns one.
        name: the name that the user gave, for error messages.
        seed: passed to a class or function that takes it.

    Returns:
        The method.

    Raises:
        RamifyError: it has no ``propose``, or one with other arguments.
    """
    verb = "propose(graph, loss, batches)"
    method: Method = made_with(found, name, "method", verb, seed=seed)
    takes_arguments(method.propose, 3, verb, name, "method")
    return method
