"""What a user is told about a cut that may not be what they wanted."""

from __future__ import annotations

from collections.abc import Mapping

from ramify.cost import Cost
from ramify.errors import in_digits

NARROW = 0.1
"""A warning names the layers that keep no more than this share."""
NOISE = 1.05
"""Times the budget: a measurement above this is reported. The shape was within it when chosen."""
HARDLY = 3.0
"""A share of the latency this many times the share of the MACs hardly depends on the widths."""


def warnings_of(
    shapes: Mapping[str, tuple[int, int]],
    before: float,
    after: float,
    constant: float,
    refit: bool,
) -> list[str]:
    """The warnings of a cut, in whole sentences.

    Args:
        shapes: the width of each group before and after.
        before: the loss before the cut.
        after: the loss after it.
        constant: the loss of a model that does not look at its input.
        refit: whether the remaining weights were refitted.

    Returns:
        The warnings.
    """
    said = []
    narrow = [n for n, (old, new) in shapes.items() if new < old and _nearly_gone(old, new)]
    if narrow:
        names = ", ".join(f"'{name}' ({shapes[name][0]} to {shapes[name][1]})" for name in narrow)
        said.append(
            f"{names} lost 90 % of the channels or more, or all but one: raise keep= if "
            "fine-tuning does not recover the network"
        )
    if before >= 0.98 * constant:
        said.append(
            f"the model had a loss of {before:.4g} before the cut, and one that does not look at "
            f"its input has {constant:.4g}: it is not trained, or the inputs are not prepared or "
            "the classes not numbered as they were in its training"
        )
    elif after >= before + 0.9 * (constant - before) and after > before:
        more = "" if refit else "refit=True, "
        said.append(
            f"the cut model has a loss of {after:.4g}, and one that does not look at its input has "
            f"{constant:.4g}: it is at chance; try a larger budget, {more}more samples to refit "
            "on, or several cuts with fine-tuning between them"
        )
    return said


def _nearly_gone(old: int, new: int) -> bool:
    """Whether so few channels of a layer are left that it may carry no information."""
    return new <= NARROW * old or (new == 1 and old > 2)


def nothing_cut(sizes: Mapping[str, float] | None, cut: bool) -> list[str]:
    """The message that nothing was cut, since the model is within its latency budget.

    Args:
        sizes: the budgets of size.
        cut: whether anything was cut.

    Returns:
        The message, alone in a list; none if it does not apply.
    """
    most = (sizes or {}).get("latency")
    if most is None or cut:
        return []
    return [
        "nothing was cut, since the network is within the budget as it is, of "
        f"{in_digits(most)} ms on the inputs of the trace"
    ]


def latency_warnings(
    sizes: Mapping[str, float] | None,
    latency: tuple[float, float] | None,
    full: Cost,
    cut: Cost,
    *,
    depth: bool,
) -> list[str]:
    """What a user should know about a cut to a latency budget.

    Args:
        sizes: the budgets of the cut, with the latency in milliseconds.
        latency: the milliseconds before and after, as measured; None without a latency budget.
        full: the cost before.
        cut: the cost after.
        depth: whether blocks could be removed as well.

    Returns:
        A sentence if the cut model was measured above its budget, and one if the budget removed so
        many MACs that latency hardly depends on the widths; without full stops.
    """
    most = (sizes or {}).get("latency")
    if most is None or latency is None:
        return []
    said, (before, after) = [], latency
    if after > NOISE * most:
        said.append(
            f"the cut network takes {in_digits(after)} ms and the budget is {in_digits(most)} ms: "
            "its shape was within the budget when it was chosen, so measurements vary here; time "
            "it again when nothing else runs on the machine, and give a smaller budget if needed"
        )
    if not depth and HARDLY * cut.macs * before < most * full.macs:
        said.append(
            f"a budget of {most / before:.0%} of the latency left only "
            f"{cut.macs / full.macs:.2g} of the MACs, since the latency of this network "
            "hardly depends on its widths: a larger budget, or depth=True, which also removes "
            "whole blocks, may lose much less"
        )
    return said
