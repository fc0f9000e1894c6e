"""How a network is cut: by which scores, on which dimensions, how much."""

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
        of: whether the share is of the ranked "dimensions" or of all "parameters" of the network.
        gates: which dimensions are ranked and cut: "mlp", "qkv", or "both".
        place: the place of the score of an MLP unit: "after" the activation, or "before" it.
    """

    arm: str
    ratio: float = 0.0
    of: str = MEASURES[0]
    gates: str = "both"
    place: str = "after"

    @property
    def title(self) -> str:
        """The way in words, without its ratio."""
        arm = "not cut" if self.arm == FULL else ARMS[self.arm]
        return f"{arm}{GATES[self.gates]}{PLACES[self.place]}"

    @property
    def stage(self) -> str:
        """The name of the network to be cut, which all ways of one search share."""
        if self.arm not in SEARCHED:
            return FULL
        other = (self.gates, self.place) != (Way.gates, Way.place)
        return f"{self.arm}-{self.gates}-{self.place}" if other else self.arm

    @property
    def order(self) -> tuple[int, ...]:
        """The sort key for table rows."""
        arms = [FULL, *ARMS].index(self.arm)
        return arms, list(GATES).index(self.gates), list(PLACES).index(self.place)


def way_of(result: Mapping[str, Any]) -> Way:
    """The way of a result; older results without these entries have the defaults."""
    return Way(**{f.name: result[f.name] for f in fields(Way) if f.name in result})


def as_row(way: Way) -> dict[str, Any]:
    """The entries of a result that describe its way."""
    return asdict(way)


def every(
    arms: Sequence[str],
    ratios: Sequence[float],
    of: str,
    gates: Sequence[str] = ("both",),
    places: Sequence[str] = ("after",),
) -> list[Way]:
    """The uncut network and all requested ways, each once.

    The place matters only for searches with gates on MLP units: for q, k and v both places
    give the same function.

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
