"""How a network is cut: by what scores, on which dimensions, how much."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

FULL = "full"  # the arm that is not cut: it trains as many steps as the others
ARMS = {
    "rarts": "RARTS",
    "joint": "joint training",
    "l1": "L1 norms of weights",
    "random": "at random",
    "cut": "`ramify.cut`",
}
USUAL = ("rarts", "joint", "l1", "random")
SEARCHED = ("rarts", "joint")
GATES = {"both": "", "mlp": ", MLPs alone", "qkv": ", q/k/v alone"}
PLACES = {"after": "", "before": ", before the activation"}
MEASURES = ("dimensions", "parameters")


@dataclass(frozen=True)
class Way:
    """One way to cut.

    Attributes:
        arm: one of `ARMS`, or `FULL`.
        ratio: the share to cut.
        of: of what: "dimensions", of those that are ranked, or "parameters", of the whole network.
        gates: which dimensions are ranked and cut: of "mlp", "qkv", or "both".
        place: where the score of an MLP unit stands: "after" the activation, or "before" it.
    """

    arm: str
    ratio: float = 0.0
    of: str = MEASURES[0]
    gates: str = "both"
    place: str = "after"

    @property
    def title(self) -> str:
        """In words, but for how much."""
        arm = "not cut" if self.arm == FULL else ARMS[self.arm]
        return f"{arm}{GATES[self.gates]}{PLACES[self.place]}"

    @property
    def stage(self) -> str:
        """A name for the network that is cut, which ways of one search share."""
        if self.arm not in SEARCHED:
            return FULL
        other = (self.gates, self.place) != (Way.gates, Way.place)
        return f"{self.arm}-{self.gates}-{self.place}" if other else self.arm

    @property
    def order(self) -> tuple[int, ...]:
        """For rows of a table."""
        arms = [FULL, *ARMS].index(self.arm)
        return arms, list(GATES).index(self.gates), list(PLACES).index(self.place)


def way_of(result: Mapping[str, Any]) -> Way:
    """That of a result; those from before there were choices had the usual ones."""
    return Way(**{f.name: result[f.name] for f in fields(Way) if f.name in result})


def as_row(way: Way) -> dict[str, Any]:
    """What a result says of its way."""
    return asdict(way)


def every(
    arms: Sequence[str],
    ratios: Sequence[float],
    of: str,
    gates: Sequence[str] = ("both",),
    places: Sequence[str] = ("after",),
) -> list[Way]:
    """The network that is not cut, and all that was asked for, each once.

    The place says something of searches with gates on MLP units alone: before the activation or
    after it, that of q, k and v is the same function.

    Args:
        arms: some of `ARMS`.
        ratios: shares to cut.
        of: one of `MEASURES`.
        gates: some of `GATES`.
        places: some of `PLACES`.

    Returns:
        The ways.
    """
    ways = [Way(FULL)]
    for arm, group, place, ratio in itertools.product(arms, gates, places, ratios):
        told = arm in SEARCHED and group != "qkv"
        ways.append(Way(arm, ratio, of, group, place if told else "after"))
    return list(dict.fromkeys(ways))
