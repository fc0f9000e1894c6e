"""Hooks of the backward pass, which no trace runs: their tensors do not follow an edit."""

from __future__ import annotations

import contextlib
import functools
import itertools
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor

from ramify.edit.plan import Plan
from ramify.errors import RamifyError, module_in_words
from ramify.tracing import ChannelGraph
from ramify.tracing.dims import Atom, Term, leaves
from ramify.tracing.kept_state import held_by
from ramify.tracing.recorder import Ref, leaves_of_kind, tensors_of
from ramify.tracing.walk import modules_of

_CONTAINERS = (dict, list, tuple)


def check_gradient_hooks(graph: ChannelGraph, plan: Plan) -> None:
    """Check that no hook of the backward pass holds a tensor of the edited channels.

    Such a mask or scale would have the wrong shape afterwards, or the values of other channels.

    Args:
        graph: the traced model.
        plan: the change of each axis.

    Raises:
        RamifyError: a hook of a parameter or module holds such a tensor.
    """
    tensors = tensors_of(graph.model)
    follow = {id(tensors[name]) for name in graph.flow.reached if name in tensors}
    edited = set(plan.changes)
    for name in graph.indexing.touched(plan.changes):
        at_end = getattr(tensors[name], "_post_accumulate_grad_hooks", None) or {}
        hooks = [*(tensors[name]._backward_hooks or {}).values(), *at_end.values()]
        for held in itertools.chain(*map(_used, hooks)):
            # In an object or a container it may be the last gradient, which has the same shape.
            if isinstance(held, Tensor) and id(held) not in follow:
                _check(held, graph.dims[name], edited, f"gradient hook of '{name}'")
    for name, module in modules_of(graph.model).items():
        hooks = [*module._backward_hooks.values(), *module._backward_pre_hooks.values()]
        if not hooks:
            continue
        passed = list(_passed(graph, name))
        for holder in [module, *itertools.chain(*map(_used, hooks))]:
            for held in _tensors_in(holder):
                for terms in passed if id(held) not in follow else ():
                    # A tensor with an entry for each sample is a gradient that the hook stored.
                    if _rank(held) < len(terms) or edited & set(leaves(terms[0])):
                        _check(held, terms, edited, f"backward hook of {module_in_words(name)}")


def _passed(graph: ChannelGraph, module: str) -> Iterator[Sequence[Term]]:
    """The dimensions of each tensor that a module receives or returns."""
    for tape, dims in zip(graph.tapes, graph.flow.history, strict=True):
        for call in tape.calls:
            if call.module == module:
                for ref in leaves_of_kind([call.args, call.named, call.output], Ref):
                    if dims.get(ref.index):
                        yield dims[ref.index]


def _rank(held: Tensor) -> int:
    """The number of dimensions without leading ones."""
    return next((held.ndim - dim for dim, size in enumerate(held.shape) if size != 1), 0)


def _check(held: Tensor, terms: Sequence[Term], edited: set[Atom], hook: str) -> None:
    """Check that a tensor that is broadcast against these dimensions has no edited channels."""
    rank = _rank(held)
    if not 0 < rank <= len(terms):
        return
    pairs = list(zip(held.shape[-rank:], terms[-rank:], strict=True))
    if all(size in (1, term.size) for size, term in pairs) and any(
        size > 1 and edited & set(leaves(term)) for size, term in pairs
    ):
        raise RamifyError(
            f"a {hook} uses a tensor of shape {tuple(held.shape)}, such as a mask, which does not "
            "follow an edit of these channels: remove the hook before the edit, and register one "
            "of the new shape after it"
        )


def _used(hook: Callable[..., Any]) -> list[Any]:
    """What a function may use: its object, defaults, fixed arguments, closure and globals."""
    function = getattr(hook, "__func__", hook)  # of a bound method
    used = [getattr(hook, "__self__", hook), *(getattr(function, "__defaults__", None) or ())]
    if isinstance(hook, functools.partial):
        used += [*hook.args, *hook.keywords.values(), *_used(hook.func)]
    for cell in getattr(function, "__closure__", None) or ():
        with contextlib.suppress(ValueError):  # an empty cell
            used.append(cell.cell_contents)
    if isinstance(function, types.FunctionType):
        known = [function.__globals__.get(name) for name in function.__code__.co_names]
        used += [each for each in known if isinstance(each, (Tensor, *_CONTAINERS))]
    return used


def _tensors_in(holder: Any) -> list[Tensor]:
    """A tensor, or those that an object, module or container holds, also in its containers."""
    if isinstance(holder, Tensor):
        return [holder]
    held = held_by(holder)
    inner = [item for each in held if isinstance(each, _CONTAINERS) for item in held_by(each)]
    return [each for each in [*held, *inner] if isinstance(each, Tensor)]
