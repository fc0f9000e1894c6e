"""The growth methods by the names of the command line, each with the settings that it takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ramify.errors import RamifyError
from ramify.methods import (
    L1,
    BNScale,
    Boosting,
    Expansion,
    GaussNewton,
    LineSearch,
    Method,
    Net2Net,
    NewNeuron,
    RandomSplit,
    SplittingDescent,
    Taylor,
)

if TYPE_CHECKING:
    from ramify.commands.config import GrowConfig

COUNTED = frozenset({"probe_samples", "fraction", "most"})
# A method with a phase learns over the training data, the others judge on a sample of it.
LEARNING = frozenset({"fraction", "tradeoff", "phase"})
SPLITTING = COUNTED | {"step", "surrogate", "threshold"}


@dataclass(frozen=True)
class Named:
    """A method that a run can ask for by name.

    Attributes:
        make: The method from the settings of a run and the seed of a job.
        options: Which of the settings that hang on the method it takes.
        defaults: What settings are where the user leaves them open, before those of the data set.
    """

    make: Callable[[GrowConfig, int], Method]
    options: frozenset[str]
    defaults: Mapping[str, Any] = field(default_factory=dict)


def _s2d(config: GrowConfig, seed: int) -> Method:
    return SplittingDescent(step=config.step or 0.0, surrogate=config.surrogate or None)


def _s3d(config: GrowConfig, seed: int) -> Method:
    return SplittingDescent(
        signed=config.signed or 0.0,
        copies=config.copies or (),
        step=config.step or 0.0,
        surrogate=config.surrogate or None,
    )


def _random(config: GrowConfig, seed: int) -> Method:
    return RandomSplit(step=config.step or 0.0, seed=seed)


def _line_search(config: GrowConfig, seed: int) -> Method:
    return LineSearch(surrogate=config.surrogate or None)


def _gauss_newton(config: GrowConfig, seed: int) -> Method:
    return GaussNewton(epochs=config.phase or 0, seed=seed)


METHODS: dict[str, Named] = {
    "s2d": Named(_s2d, SPLITTING),
    "s3d": Named(_s3d, SPLITTING | {"signed", "copies"}, {"signed": 1.3, "copies": (2,)}),
    "gauss-newton": Named(
        _gauss_newton,
        LEARNING,
        {"fraction": 0.3, "tradeoff": 3e-7, "schedule": "steps", "span": "run"},
    ),
    "random": Named(_random, COUNTED | {"step"}),
    "net2net": Named(lambda config, seed: Net2Net(seed=seed), COUNTED),
    "new-neuron": Named(lambda config, seed: NewNeuron(seed=seed), COUNTED),
    "boosting": Named(lambda config, seed: Boosting(seed=seed), COUNTED),
    "line-search": Named(_line_search, COUNTED | {"surrogate"}),
    "expansion": Named(lambda config, seed: Expansion(seed=seed), COUNTED, {"probe_samples": 256}),
    "l1": Named(lambda config, seed: L1(), COUNTED),
    "bn": Named(lambda config, seed: BNScale(), COUNTED),
    "taylor": Named(lambda config, seed: Taylor(), COUNTED),
}
OPTIONS = frozenset[str]().union(*(named.options for named in METHODS.values()))


def named(method: str) -> Named:
    """The method of this name.

    Args:
        method: Such as ``"s2d"``.

    Returns:
        Its entry.

    Raises:
        RamifyError: There is none.
    """
    if method not in METHODS:
        raise RamifyError(f"there is no method {method!r}; choose one of {', '.join(METHODS)}.")
    return METHODS[method]


def check_options(method: str, given: Mapping[str, Any]) -> None:
    """Refuse settings that another method takes.

    Args:
        method: The method that was chosen.
        given: The settings that the user gave.

    Raises:
        RamifyError: Names the first that does not belong.
    """
    for name in sorted(OPTIONS & set(given) - named(method).options):
        takers = [other for other, entry in METHODS.items() if name in entry.options]
        raise RamifyError(
            f"{name} is no setting of the method {method} but of {', '.join(takers)}; leave it "
            "out, or choose another method."
        )
