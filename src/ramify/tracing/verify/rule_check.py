"""Tests a user's dimension rule on the tensors that the operation received.

The order of channels must not matter to an operation: permuting tied channels in all inputs must
permute them in all outputs, and change nothing else. If that fails, the rule tied the wrong
dimensions, and the channels are frozen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ramify.errors import module_in_words
from ramify.tracing.dims import Atom, Term, freeze, leaves, resolve
from ramify.tracing.indexing import Change, Changes, sources
from ramify.tracing.recorder import KeptCall, Op, Ref, copied, mapped
from ramify.tracing.verify.comparison import ReferenceRun


def check_rules(reference: ReferenceRun) -> None:
    """Freeze the channels in a run that flow through operations with wrong rules."""
    for position, call in reference.tape.kept.items():
        op = reference.tape.ops[position]
        for atom in _carried(reference, op):
            if not _follows(reference.dims, op, call, atom):
                where = module_in_words(op.module)
                reason = f"{op.name} in {where} does not behave as its dimension rule says"
                freeze(atom, reason)


def _carried(reference: ReferenceRun, op: Op) -> Iterator[Atom]:
    """The axes of an operation's tensors that could still change."""
    terms = (term for ref in op.inputs() + op.results() for term in reference.dims[ref.index])
    for atom in dict.fromkeys(leaf for term in terms for leaf in leaves(term)):
        if not atom.frozen and atom.size > 1:
            yield atom


def _follows(dims: Mapping[int, Sequence[Term]], op: Op, call: KeptCall, atom: Atom) -> bool:
    """Whether permuting the channels of one axis in the arguments permutes those in the results.

    Returns:
        The answer.
    """
    # A cycle of all channels and a swap of the first two generate every permutation.
    order = np.arange(atom.size)
    swap = np.array([1, 0, *order[2:]])
    return all(
        _follows_order(dims, op, call, {atom: Change(each, np.ones(atom.size))})
        for each in (np.roll(order, 1), swap)
    )


def _follows_order(
    dims: Mapping[int, Sequence[Term]], op: Op, call: KeptCall, changes: Changes
) -> bool:

    def turn(tree: Any, like: Any) -> Any:
        """The tensors of a tree in the new order; `like` has their references."""
        if isinstance(like, Ref):
            return _reordered(tree, dims[like.index], changes)
        if isinstance(like, dict):
            return {key: turn(tree[key], item) for key, item in like.items()}
        if isinstance(like, (tuple, list)):
            return type(like)(turn(a, b) for a, b in zip(tree, like, strict=True))
        return tree

    given = turn(copied(call.given), (op.args, op.kwargs))
    try:
        result = op.func(*given[0], **given[1])
    except Exception:  # it only accepts its channels in one order
        return False
    seen, expected = (
        _tensors((result, *given)),
        _tensors(turn(call.after, (op.outputs, op.args, op.kwargs))),
    )
    return len(seen) == len(expected) and all(map(_near, seen, expected))


def _reordered(tensor: Tensor, terms: Sequence[Term], changes: Changes) -> Tensor:
    for dim, term in enumerate(terms):
        index = torch.from_numpy(sources(resolve(term), changes)).to(tensor.device)
        tensor = tensor.index_select(dim, index)
    return tensor


def _tensors(tree: Any) -> list[Tensor]:
    found: list[Tensor] = []
    mapped(tree, lambda leaf: found.append(leaf) if isinstance(leaf, Tensor) else None)
    return found


def _near(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if not one.is_floating_point() and not one.is_complex():
        return torch.equal(one, other)
    size = float(other.abs().nan_to_num().max()) if other.numel() else 0.0
    slack = torch.finfo(one.dtype).eps ** 0.5 * (size + 1e-12)
    return torch.allclose(one, other, rtol=0.0, atol=slack, equal_nan=True)
