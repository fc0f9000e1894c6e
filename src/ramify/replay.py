"""The replay: a tape run again with autograd, with a hand on every read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from ramify.surrogate import kinks_of, smoothed
from ramify.trace.recorder import Op, Ref, Tape

ReadAt = Callable[[int, Tensor], Tensor]


def replay(
    tape: Tape,
    tensors: Mapping[str, Tensor],
    reads: Mapping[int, Ref],
    at_read: ReadAt,
    *,
    beta: float | None = None,
    until: int | None = None,
) -> dict[int, Tensor]:
    """Run a tape again with autograd.

    Args:
        tape: what to run.
        tensors: parameters and buffers by name.
        reads: operation -> the tensor whose read there is replaced by what `at_read` gives.
        at_read: (operation, tensor) -> the tensor that the operation reads instead.
        beta: softplus sharpness for the curvature of piecewise-linear activations; None: none.
        until: stop after this operation.

    Returns:
        The values by tensor number.
    """
    env: dict[int, Tensor] = dict(tape.constants)
    env.update({index: tensors[name] for index, name in tape.names.items()})
    outside = set(env)
    for position, op in enumerate(tape.ops):
        if until is not None and position > until:
            break
        target = _written(op)
        if target is not None and target.index in outside:
            env[target.index] = env[target.index].clone()  # the caller's tensor is not ours
            outside.discard(target.index)
        read = reads.get(position)
        swapped = at_read(position, env[read.index]) if read is not None else None

        def value(leaf: Any, read: Ref | None = read, swapped: Tensor | None = swapped) -> Any:
            if not isinstance(leaf, Ref):
                return leaf
            return swapped if leaf == read else env[leaf.index]

        args, kwargs = tree_map(value, op.args), tree_map(value, op.kwargs)
        result = _execute(op, args, kwargs, beta, in_place=target is not None)
        for ref, tensor in zip(op.results(), _tensors(result), strict=True):
            env[ref.index] = tensor
    return env


def _execute(op: Op, args: Any, kwargs: Any, beta: float | None, *, in_place: bool) -> Any:
    kinks = kinks_of(op.name, args, kwargs) if beta is not None else None
    if kinks is None or beta is None or not args[0].requires_grad:
        return op.func(*args, **kwargs)
    if not in_place:
        return smoothed(op.func(*args, **kwargs), args[0], kinks, beta)
    x = args[0].clone()
    with torch.no_grad():
        value = op.func(x.clone(), *args[1:], **kwargs)
    return args[0].copy_(smoothed(value, x, kinks, beta))


def _written(op: Op) -> Ref | None:
    """The tensor that an operation writes in place."""
    for argument, declared in zip(op.args, op.func._schema.arguments, strict=False):
        if declared.alias_info is not None and declared.alias_info.is_write:
            return argument if isinstance(argument, Ref) else None
    return None


def _tensors(result: Any) -> list[Tensor]:
    return [t for t in tree_leaves(result) if isinstance(t, Tensor)]
