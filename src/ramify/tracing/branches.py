"""Data-dependent branches: parameters that no run reached may be used in an untaken branch.

Such a branch may read or produce any channel of its module. So the channels of that module are
frozen, unless the runs took both sides of every branch, or the user declares that no forward uses
the unreached parameters.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from torch import nn

from ramify.errors import RamifyError, module_in_words
from ramify.tracing.dims import freeze
from ramify.tracing.flow import DimFlow
from ramify.tracing.propagate import READS_VALUES
from ramify.tracing.recorder import Tape


def unseen(model: nn.Module, flow: DimFlow, unused: Sequence[str] = ()) -> list[str]:
    """The parameters that no run reached and that an untaken branch might use.

    Args:
        model: the model.
        flow: the dimensions from its runs.
        unused: names of modules and parameters that no forward calls.

    Returns:
        Their names.

    Raises:
        RamifyError: there is no such module or parameter, or a run reached it.
    """
    modules = {name for name, _ in model.named_modules()} - {""}
    for name in unused:
        inside = [n for n in flow.aliases if n == name or n.startswith(f"{name}.")]
        if name not in modules and not inside:
            near = difflib.get_close_matches(name, [*modules, *flow.aliases], n=1)
            hint = f": did you mean '{near[0]}'?" if near else ""
            raise RamifyError(f"`unused` names '{name}', which the model does not have{hint}")
        reached = [n for n in inside if flow.aliases[n] in flow.reached]
        if reached:
            raise RamifyError(
                f"`unused` names '{name}', and the forward does use '{reached[0]}' on these "
                "inputs: leave it out"
            )
    left_out = tuple(f"{name}." for name in unused)
    return [
        name
        for name, _ in model.named_parameters()
        if name not in flow.reached and not f"{name}.".startswith(left_out)
    ]


def freeze_unseen_branches(
    flow: DimFlow, hidden: Sequence[str], runs: Sequence[tuple[bool, Tape]]
) -> None:
    """Freeze the channels of modules that branch on data and hold unreached parameters.

    Args:
        flow: the dimensions of the model.
        hidden: the parameters that no run reached.
        runs: (whether in train mode, tape) of each run.
    """
    # Train mode may have branches that eval mode lacks, so each mode is checked alone.
    ways = [[tape for mode, tape in runs if mode is training] for training in (False, True)]
    if not hidden or all(map(both_sides_seen, ways)):
        return
    for scope in flow.reads_data:
        prefix = f"{scope}." if scope else ""
        inside = [name for name in hidden if name.startswith(prefix)]
        if not inside:
            continue
        reason = (
            f"{module_in_words(scope)} branches on data and '{inside[0]}' was not reached: trace "
            "it with `also` inputs that reach it, or name it in `unused` if no forward calls it"
        )
        for name, terms in flow.param_dims.items():
            if name.startswith(prefix):
                for term in terms:
                    freeze(term, reason)


def both_sides_seen(tapes: Sequence[Tape]) -> bool:
    """Whether the runs took every path through the data-dependent branches of the forward.

    Python reads one truth value after the other. After every sequence of values that some run
    read, both values of the next one must have been read. Numbers have too many values to try all.

    Args:
        tapes: the runs, all in the same mode.

    Returns:
        The answer.
    """
    ways = [tuple(op.outputs for op in tape.ops if op.name in READS_VALUES) for tape in tapes]
    if not all(type(value) is bool for way in ways for value in way):
        return False
    begun = {way[:length] for way in ways for length in range(len(way) + 1)}
    return all((*way[:-1], not way[-1]) in begun for way in begun if way)
