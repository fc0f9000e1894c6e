"""The table of dimension rules, and `ramify.rule`, which adds to it."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, overload

import torch

from ramify.errors import RamifyError
from ramify.tracing.traced_op import TracedOp

RuleFunction = Callable[[TracedOp], None]
F = TypeVar("F", bound=RuleFunction)


@dataclass(frozen=True)
class DimRule:
    """How dimensions flow through one operation.

    Attributes:
        function: the function that defines the rule.
        acts_as: the operation that it acts like, if it is another one.
        own: whether a user wrote it, so that every trace tests it.
    """

    function: RuleFunction
    acts_as: str | None = None
    own: bool = False


RULES: dict[str, DimRule] = {}
"""Operation name without overload, such as `aten::add` -> its rule."""

POINTWISE = "aten::add"
"""The operation whose rule holds for every elementwise operation."""


def aten_rule(*names: str) -> Callable[[F], F]:
    """Register the rule of one or several of torch's operations, named without `aten::`."""

    def register(function: F) -> F:
        for name in names:
            _register(f"aten::{name}", DimRule(function))
        return function

    return register


def _register(name: str, rule: DimRule) -> None:
    if name in RULES:
        known = RULES[name].function
        raise RamifyError(
            f"'{name}' has a rule already ({known.__module__}.{known.__qualname__}), and an "
            "operation has one: leave the second out"
        )
    RULES[name] = rule


def rule_for(func: Any) -> DimRule | None:
    """The rule of an operation; torch tags many operations as pointwise."""
    known = RULES.get(func._schema.name)
    if known is None and torch.Tag.pointwise in func.tags:
        return RULES[POINTWISE]
    return known


def has_own_rule(func: Any) -> bool:
    """Whether the rule of an operation is a user's."""
    known = RULES.get(func._schema.name)
    return known is not None and known.own


@overload
def rule(op: Any) -> Callable[[F], F]: ...


@overload
def rule(op: Any, like: Any) -> None: ...


def rule(op: Any, like: Any = None) -> Callable[[F], F] | None:
    r"""Define how dimensions flow through a custom operation, in any namespace.

    The rule is that of another operation, or a function. Every `ramify.trace` tests it on the
    tensors that the operation received. If the rule is wrong, the channels are frozen, with a
    reason that names the operation.

    Args:
        op: the operation: `torch.ops.mylib.fancy`, the result of `torch.library.custom_op`, or
            the name, `"mylib::fancy"`. The rule holds for all of its overloads.
        like: `"pointwise"` for an elementwise operation (operands broadcast), or an operation that
            has a rule and takes its arguments in the same positions (`"aten::softmax"`,
            `torch.ops.aten.linear`). Without it, `rule` decorates a function.

    Returns:
        A decorator for the function, which takes one `ramify.tracing.TracedOp` and gives the
        dimensions of its results; None with `like`.

    Raises:
        RamifyError: there is no such operation, it has a rule already, the function takes other
            arguments, or `like` has no rule.

    Example:
        >>> import torch, ramify
        >>> @torch.library.custom_op("docs::halve", mutates_args=())
        ... def halve(x: torch.Tensor) -> torch.Tensor:
        ...     return x / 2
        >>> ramify.rule("docs::halve", like="pointwise")
        >>> @torch.library.custom_op("docs::total", mutates_args=())
        ... def total(x: torch.Tensor) -> torch.Tensor:
        ...     return x.sum(1)
        >>> @ramify.rule("docs::total")
        ... def total_rule(op):
        ...     samples, channels = op.dims(op.args[0])
        ...     op.forbid_split(channels, "sums the channels without a weight")
        ...     op.give([samples])
    """
    name = operation_name(op)
    if like is not None:
        _register(name, _alike(name, like))
        return None

    def register(function: F) -> F:
        _check_signature(name, function)
        _register(name, DimRule(function, own=True))
        return function

    return register


def _alike(name: str, like: Any) -> DimRule:
    """The rule of an operation that behaves like another."""
    if like == "pointwise":
        return DimRule(RULES[POINTWISE].function, POINTWISE, own=True)
    other = operation_name(like)
    known = RULES.get(other)
    if known is None and _is_pointwise(other):
        return DimRule(RULES[POINTWISE].function, POINTWISE, own=True)
    if known is None:
        raise RamifyError(
            f"'{other}' has no dimension rule that '{name}' could follow: name an operation that "
            "has one, or decorate a function with ramify.rule"
        )
    return DimRule(known.function, known.acts_as or other, own=True)


def operation_name(op: Any) -> str:
    """The name of an operation without its overload, such as `mylib::fancy`.

    Args:
        op: the operation, or its name in any of torch's spellings: `mylib::fancy`, `mylib.fancy`,
            `torch.ops.mylib.fancy`, `mylib::fancy.default`.

    Returns:
        Its name in torch.

    Raises:
        RamifyError: it is no operation, or torch has none of this name.
    """
    given = getattr(op, "_qualname", None) or getattr(op, "_qualified_op_name", None) or op
    given = op._schema.name if isinstance(op, torch._ops.OpOverload) else given
    if isinstance(op, type) and issubclass(op, torch.autograd.Function):
        raise RamifyError(
            f"{op.__name__} is an autograd.Function, which needs no rule: a trace sees the "
            "operations that its forward is made of, and those alone may need one"
        )
    if not isinstance(given, str):
        raise RamifyError(
            "a rule must be for an operation, such as torch.ops.mylib.fancy or 'mylib::fancy', but "
            f"got {op!r} of type {type(op).__name__}" + _did_you_mean(getattr(op, "__name__", ""))
        )
    name = given.removeprefix("torch.ops.")
    name = name if "::" in name else name.replace(".", "::", 1)
    namespace, separator, short = name.partition("::")
    if not separator:
        raise RamifyError(
            f"the name of an operation needs its namespace, such as 'mylib::fancy', but this one "
            f"has none: '{given}'" + _did_you_mean(given)
        )
    short = short.partition(".")[0]  # a rule is for all overloads
    if not short or not hasattr(getattr(torch.ops, namespace), short):
        hint = _did_you_mean(name) or (
            ": define it (torch.library.custom_op) or import what defines it before its rule"
        )
        raise RamifyError(f"torch knows no operation '{given}'{hint}")
    return f"{namespace}::{short}"


def _did_you_mean(name: str) -> str:
    """A suggestion of the operation with the most similar name; empty if none is similar."""
    known = {each.partition(".")[0] for each in torch._C._dispatch_get_all_op_names()}
    known = {each for each in known if "::" in each and "::_" not in each}
    if "::" not in name:  # the namespace is missing
        near = sorted(each for each in known if each.partition("::")[2] == name)
        near = near or difflib.get_close_matches(name, ["pointwise"])
    else:
        near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.75)
    return f"; did you mean '{near[0]}'?" if near else ""


def _is_pointwise(name: str) -> bool:
    namespace, _, short = name.partition("::")
    packet = getattr(getattr(torch.ops, namespace), short)
    return any(torch.Tag.pointwise in getattr(packet, kind).tags for kind in packet.overloads())


def _check_signature(name: str, function: Any) -> None:
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        raise RamifyError(
            f"the rule of '{name}' takes one argument, the traced operation, and "
            f"{getattr(function, '__name__', function)!r} cannot be called with one"
        ) from None
