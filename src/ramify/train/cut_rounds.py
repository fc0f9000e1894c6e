"""How a network is cut during a run: the arguments of `ramify.cut` for each round."""

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
    """How a network is cut: the arguments of `ramify.cut`, and the number of cuts.

    Attributes:
        budget: The most that the network may cost in the end, as in :func:`ramify.cut`.
        accept: Decides whether a cut network is good enough.
        rule: Selects the channels that may be removed.
        method: Scores the channels.
        refit: Whether the remaining weights are refitted to replace the removed channels.
        keep: The fewest channels of every group.
        multiple_of: Widths that change become multiples of this.
        alike: Patterns of groups that stay equally wide.
        groups: Patterns of the groups that may be cut; None for all.
        raw: Whether scores of different layers are compared without normalisation.
        rounds: Number of cuts, each followed by fine-tuning; they approach the budget by equal
            factors.
        depth: Whether whole blocks may be removed too.

    Raises:
        RamifyError: ``rounds`` cannot be combined with the other settings.
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
        """The budget of a round: equal factors lead from the present cost to the final budget.

        Args:
            graph: The graph of the present network.
            round_: Number of the round, from 0.

        Returns:
            The budget; None if there is none.
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
        """Check before any work that the network can be cut this way, without changing it.

        Args:
            graph: The graph of the network.

        Raises:
            RamifyError: It is already within the budget, or cannot be brought within it.
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
