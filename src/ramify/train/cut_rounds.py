"""How a network is cut in the course of a run: what `ramify.cut` takes, round after round."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ramify.cost import RESOURCES, graph_cost
from ramify.errors import RamifyError
from ramify.latency import measure_edited
from ramify.methods.proposal import Method
from ramify.refit.choosing import (
    Floor,
    allowed_by,
    candidates,
    check_reach,
    choose_channels,
    floors,
    of_groups,
)
from ramify.refit.outcome import Accept
from ramify.select import Rule
from ramify.select.rounding import Multiple
from ramify.tracing import ChannelGraph
from ramify.train.width_search import Chance


@dataclass(frozen=True)
class Cutting:
    """How a network is cut: what `ramify.cut` takes, and how often.

    Attributes:
        budget: The most that the network may have in the end, as :func:`ramify.cut` takes it.
        accept: Whether a cut network is good enough.
        rule: Which channels may go.
        method: What scores the channels.
        refit: Whether what stays takes over.
        keep: The floor of every group.
        multiple_of: What widths that change become multiples of.
        alike: Patterns of groups that stay equally wide.
        groups: Patterns of the groups that may be cut; None for all.
        raw: Whether scores of layers are compared as they are.
        rounds: So many cuts, each with its tuning; the budget is approached by equal factors.
        depth: Whether whole blocks may go too.

    Raises:
        RamifyError: Rounds and what is cut by do not go together.
    """

    budget: Mapping[str, float] | None = None
    accept: Accept | None = None
    rule: Rule | None = None
    method: Method | None = None
    refit: bool = True
    keep: Floor = 0.1
    multiple_of: Multiple = 1
    alike: Sequence[str] = ()
    groups: Sequence[str] | None = None
    raw: bool = False
    rounds: int = 1
    depth: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.rounds, int) or self.rounds < 1:
            raise RamifyError(f"rounds is {self.rounds!r}; give a whole number of at least 1.")
        if self.rounds > 1 and not self.budget and self.accept is None:
            raise RamifyError(
                "several rounds approach a budget, and a rule alone says what goes at once: give "
                "a budget, or one round."
            )
        if self.depth and (self.rounds > 1 or self.accept is not None or not self.budget):
            raise RamifyError(
                "depth is chosen once, within a budget of size: give a budget and one round, and "
                "no accept."
            )

    def within(self, graph: ChannelGraph, round_: int) -> dict[str, float] | None:
        """The budget of a round: from what the network has now by equal factors to the last.

        Args:
            graph: Of the network as it is.
            round_: From 0.

        Returns:
            The budget; None where there is none.
        """
        if not self.budget:
            return None
        left, now = self.rounds - round_, graph_cost(graph)
        given = dict(self.budget)
        for name, most in self.budget.items():
            if name == "loss" or left == 1:
                continue
            present = now.of(name) if name in RESOURCES else measure_edited(graph).median
            given[name] = max(most, present * min(1.0, most / present) ** (1 / left))
        return given

    def check(self, graph: ChannelGraph) -> None:
        """Try on a network, before any work, whether it can be cut so; it stays as it is.

        Args:
            graph: Of the network.

        Raises:
            RamifyError: It is within the budget as it is, or cannot be brought there.
        """
        proposals = of_groups(graph, Chance(0).propose(graph, None, ()), self.groups)
        offered = candidates(graph, proposals, floors(graph, self.keep))
        pool = offered if self.rule is None else allowed_by(self.rule, proposals, offered)
        counted = {name: most for name, most in (self.budget or {}).items() if name in RESOURCES}
        if not self.depth:
            check_reach(graph, pool, counted)
        now = graph_cost(graph)
        if counted and counted == self.budget and all(now.of(n) <= m for n, m in counted.items()):
            raise RamifyError(
                "the network is within the budget as it is, and nothing would be cut: give a "
                "smaller budget."
            )
        choose_channels(graph, offered, pool, None, multiple_of=1, alike=self.alike)
