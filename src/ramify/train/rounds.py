"""The steps of the loop between two trainings: choose among proposals, measure, describe."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ramify import distributed
from ramify.cost import RESOURCES, graph_cost
from ramify.edit import Edit, Prune, Split
from ramify.errors import RamifyError, did_you_mean
from ramify.latency import measure_edited
from ramify.methods import Bottlenecks, GaussNewton, Method, Proposal
from ramify.select import BUDGETS, BudgetKnapsack, Rule, TopFraction, TradeOff
from ramify.select.fit import fit
from ramify.select.rounding import Multiple
from ramify.select.width_bounds import WidthBounds
from ramify.tracing import ChannelGraph
from ramify.train.edit_trials import gain_at
from ramify.train.epoch import Training

MILLISECONDS = ("ms", "milliseconds", "seconds", "time")  # other names that users try for latency
NOTHING_PAYS, SPENT = "no morphism pays", "budget"
ALL_HARM = "no edit that does not raise the loss"
BOUNDED = "floors and ceilings"


@dataclass(frozen=True)
class Choice:
    """The edits chosen for a model.

    Attributes:
        selected: The proposals to carry out.
        reason: The reason if there is nothing to do; None otherwise.
        cut: How many of the proposals that the rule selected did not fit into the budget.
        full: Whether these edits use up the budget.
        over: Whether the model is over its budget, and these edits bring it closer.
    """

    selected: Sequence[Proposal] = ()
    reason: str | None = None
    cut: int = 0
    full: bool = False
    over: bool = False


def choose(
    graph: ChannelGraph,
    proposals: Sequence[Proposal],
    rule: Rule,
    budget: Mapping[str, float] | None,
    bounds: WidthBounds,
) -> Choice:
    """Select the proposals that pay and that the bounds and the budget allow.

    The budget counts as used up once selected growth did not fit into it; for a method that only
    prunes, once the model is within it. A model over its budget may need several edits.

    Args:
        graph: The traced model.
        proposals: The proposals of a method.
        rule: Selects among them.
        budget: The most that the model may cost, or None.
        bounds: How narrow and how wide groups may become; the rule sees only proposals within them.

    Returns:
        The selection, or the reason why there is none.

    Raises:
        RamifyError: The rule does not return proposals, or a bound matches no group.
    """
    allowed = bounds.allowed(graph, proposals)
    if proposals and not allowed:
        return Choice(reason=BOUNDED)
    selected = rule.select(allowed)
    strange = [one for one in selected or () if not isinstance(one, Proposal)]
    if not isinstance(selected, Sequence) or strange:
        seen = f"a list with {type(strange[0]).__name__}" if strange else type(selected).__name__
        raise RamifyError(
            f"the rule {type(rule).__name__} returned {seen} from select, where a list of some of "
            "the proposals is expected: return [] to change nothing."
        )
    if not selected:
        # A knapsack omits a gain only if it costs more than the rest of the budget.
        filled = isinstance(rule, BudgetKnapsack) and any(p.value > 0 for p in allowed)
        return Choice(reason=SPENT if filled else NOTHING_PAYS)
    if not budget:
        return Choice(selected)
    kinds = {isinstance(proposal.edit, Prune) for proposal in proposals}
    over = True in kinds and not within(graph, budget)
    if kinds == {True} and not over:
        return Choice(reason=SPENT)
    fitting = fit(selected, graph, budget, multiple_of=multiple_of(rule))
    if not fitting:
        return Choice(reason=SPENT)
    full = _growth(fitting) < _growth(selected) and not over
    return Choice(fitting, cut=len(selected) - len(fitting), full=full, over=over)


def _growth(proposals: Sequence[Proposal]) -> int:
    """How many proposals add channels."""
    return sum(not isinstance(proposal.edit, Prune) for proposal in proposals)


def multiple_of(rule: Rule) -> Multiple:
    """The number of which a rule makes widths multiples; a user's rule need not define it."""
    found: Multiple = getattr(rule, "multiple_of", 1)
    return found


def default_rule(method: Method, budget: Mapping[str, float] | None) -> Rule:
    """The default rule: half of every layer, which was best where it was measured.

    Of the layers that `Bottlenecks` proposes to widen, all channels.

    Args:
        method: The method that proposes.
        budget: The budget of the run, or None; then edits of Gauss-Newton have to be worth their
            parameters.

    Returns:
        The rule.
    """
    if budget is None and isinstance(method, GaussNewton):
        return TradeOff(params=3e-7, per_group=0.3)
    return TopFraction(1.0 if isinstance(method, Bottlenecks) else 0.5, per_group=True)


def of_round(rule: Rule, left: int) -> Rule:
    """A rule adapted to the number of rounds left, including this one."""
    return replace(rule, rounds_left=left) if isinstance(rule, BudgetKnapsack) else rule


def agreed(choice: Choice, proposals: Sequence[Proposal]) -> Choice:
    """The choice of rank 0, for proposals that are the same on every rank."""
    if distributed.world_size() == 1:
        return choice
    places = {id(proposal): place for place, proposal in enumerate(proposals)}
    own = [places[id(proposal)] for proposal in choice.selected]
    said = (own, choice.reason, choice.cut, choice.full, choice.over)
    taken, *others = distributed.broadcast(said)
    return Choice([proposals[place] for place in taken], *others)


def within(graph: ChannelGraph, budget: Mapping[str, float]) -> bool:
    """Whether the present model is within a budget."""
    cost = graph_cost(graph)
    spent: dict[str, float] = {name: cost.of(name) for name in budget if name in RESOURCES}
    if "latency" in budget:
        spent["latency"] = measure_edited(graph).median
    return all(spent[name] <= most for name, most in budget.items())


def checked_rounds(rounds: int) -> int:
    """Check the number of rounds, without which the loop would never end.

    Args:
        rounds: The number that the user gave.

    Returns:
        The same number.

    Raises:
        RamifyError: It is not an integer of 0 or more.
    """
    if not isinstance(rounds, int) or rounds < 0:
        raise RamifyError(f"rounds is {rounds!r}; give a whole number of 0 or more.")
    return rounds


def check_total(training: Training, rounds: int) -> None:
    """Check that ``total_epochs``, if given, suffices for the rounds.

    Args:
        training: How the network trains.
        rounds: The most edits.

    Raises:
        RamifyError: It does not suffice.
    """
    total, needed = training.total_epochs, training.epochs * (rounds + 1)
    if total is not None and total < needed:
        raise RamifyError(
            f"total_epochs is {total}, and epochs={training.epochs} before each of {rounds} edits "
            f"and after the last make {needed}: give fewer epochs or rounds, or a larger total."
        )


def checked_budget(budget: Mapping[str, float] | None) -> dict[str, float] | None:
    """The budget as plain numbers.

    Args:
        budget: The most that a model may cost, by name.

    Returns:
        The budget in the form that the history stores; None if nothing is bounded.

    Raises:
        RamifyError: An entry has an unknown name or is not a positive number.
    """
    if not isinstance(budget, Mapping | None):
        raise RamifyError(
            f'a budget must be a dictionary such as {{"params": 1e6}}, not {budget!r}.'
        )
    plain = dict(budget or {})
    for name, most in plain.items():
        if name not in BUDGETS:
            meant = "latency" if name in MILLISECONDS else str(name)
            near = did_you_mean(meant, BUDGETS)
            raise RamifyError(f"there is no budget of {name!r}{near}; give {', '.join(BUDGETS)}.")
        if isinstance(most, bool) or not isinstance(most, int | float) or not 0 < most < math.inf:
            raise RamifyError(f"the budget of {name} is {most!r}; give a number above 0.")
    return plain or None


def measured_edit(graph: ChannelGraph, mean: float) -> dict[str, Any]:
    """The measures that an edit changes: widths, cost, and mean loss on the judging batches."""
    widths = {group.name: group.width for group in graph.groups}
    return {"widths": widths, "loss": mean} | costs(graph)


def costs(graph: ChannelGraph) -> dict[str, int]:
    """Parameters and MACs."""
    cost = graph_cost(graph)
    return {"params": cost.params, "macs": cost.macs}


def edit_event(
    graph: ChannelGraph,
    proposals: Sequence[Proposal],
    choice: Choice,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    old: ChannelGraph | None = None,
) -> dict[str, Any]:
    """The event of an edit, as plain values for the history.

    Args:
        graph: The graph of the edited model.
        proposals: All proposals of the method.
        choice: The proposals that were carried out.
        before: From :func:`measured`.
        after: The same, for the edited model.
        old: The graph before the edit, if blocks were inserted; the proposals use its names.

    Returns:
        The event, without its position in the run.
    """
    taken = {id(proposal) for proposal in choice.selected}
    event: dict[str, Any] = {}
    for key in before:
        event |= {f"{key}_before": before[key], f"{key}_after": after[key]}
    return event | {
        "predicted_gain": gain_at(choice.selected, 1.0),
        "cut": choice.cut,
        "full": choice.full,
        "proposals": [
            {
                "group": (old or graph)[proposal.edit.group].name,
                "channel": proposal.edit.channel,
                "copies": _copies(proposal.edit),
                "index": proposal.splitting_index,
                "score": proposal.score,
                "gain": proposal.gain,
                "selected": id(proposal) in taken,
            }
            for proposal in proposals
        ],
        # At width 1, queries and keys need not change together: one group becomes two.
        "origin": {
            name: source
            for name, source in graph.origin.items()
            if graph.came_from.get(name, name) in before["widths"]
        },
    }


def _copies(edit: Edit) -> int:
    """The number of channels that one becomes: 0 if it is pruned."""
    return len(edit.weights) if isinstance(edit, Split) else 0
