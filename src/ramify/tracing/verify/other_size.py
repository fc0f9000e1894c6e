"""Compares the dimensions with those at a second input size, and freezes axes that differ.

A reshape may cut channels into blocks whose size depends on the size of an image, the length of a
sequence or the number of samples: (H*W, C) to (C, H, W) without a transpose. At the traced size
such blocks look valid; at another size they are wrong. So the model runs once more on an input of
another size, if it accepts one, and axes that differ there are frozen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from ramify.errors import module_in_words
from ramify.tracing.dims import (
    Atom,
    Fixed,
    Prod,
    Sum,
    Term,
    forbid_split,
    freeze,
    leaves,
    mark_inexact,
    resolve,
    unify,
)
from ramify.tracing.flow import DimFlow
from ramify.tracing.recorder import Tape

_LARGE = 64
"""Images and sequences of at least this size along an axis are halved, smaller ones doubled."""

_RESHAPES = frozenset({"aten::view", "aten::_unsafe_view", "aten::reshape"})

Axes = Callable[[Tensor], Sequence[int]]
"""Returns the dimensions of an input tensor that are space or length."""


def _channels_first(tensor: Tensor) -> Sequence[int]:
    """(samples, channels, *space), (samples, length, channels), or (samples, length) of tokens."""
    if tensor.dim() == 2:
        return () if tensor.is_floating_point() else (1,)
    return range(2, tensor.dim()) if tensor.dim() > 3 else range(1, tensor.dim() - 1)


def _channels_last(tensor: Tensor) -> Sequence[int]:
    """(samples, *space, channels) or (samples, channels, length)."""
    return range(1, tensor.dim() - 1) if tensor.dim() > 3 else range(2, tensor.dim())


def _waves(tensor: Tensor) -> Sequence[int]:
    """(samples, length)."""
    return (1,) if tensor.dim() == 2 else ()


def other_sizes(inputs: Any) -> Iterator[Any]:
    """Inputs of other sizes that a model may accept, the most likely first.

    Every tensor is repeated along its samples and along space or length, or cut in half there if it
    is large, so that its values remain as the model expects.

    Args:
        inputs: the inputs of a trace.

    Yields:
        The same with other tensors.
    """
    tensors = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor) and leaf.dim()]
    if not tensors:
        return
    tried = {tuple(tensor.shape for tensor in tensors)}
    choices: list[tuple[Axes, int, int]] = [  # (axes, divisor where large, times samples)
        (_channels_first, 2, 2),
        (_channels_first, 2, 1),
        (_channels_first, 1, 2),
        (_channels_last, 2, 2),
        (_waves, 2, 2),
        (lambda tensor: (), 1, 2),
    ]
    for axes, divisor, times in choices:
        tree = tree_map(_resizer(tensors[0].shape[0], axes, divisor, times), inputs)
        found = [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and leaf.dim()]
        shapes = tuple(tensor.shape for tensor in found)
        if shapes not in tried:
            tried.add(shapes)
            yield tree


def _resizer(samples: int, axes: Axes, divisor: int, times: int) -> Callable[[Any], Any]:
    def resize(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or leaf.layout is not torch.strided or not leaf.dim():
            return leaf
        for dim in axes(leaf):
            half, rest = divmod(leaf.shape[dim], divisor)
            if divisor > 1 and leaf.shape[dim] >= _LARGE and not rest:
                leaf = leaf.narrow(dim, 0, half)
            else:
                leaf = torch.cat([leaf, leaf], dim)
        whole = leaf.shape[0] == samples and times > 1
        return torch.cat([leaf] * times) if whole else leaf

    return resize


def restrict_to_common(flow: DimFlow, other: DimFlow, tape: Tape) -> None:
    """Freeze the axes that differ at another size, and tie those that are one axis there.

    Reasons there against copies or exact removal also apply here.

    Args:
        flow: the dimensions at the traced size.
        other: those of the same model at another size.
        tape: the run at the traced size.
    """
    match: dict[Atom, Atom] = {}
    """Axes at the other size -> those at the traced size."""
    for name, terms in flow.param_dims.items():
        if name not in other.reached:  # another branch, which gives no information on this one
            continue
        for mine, theirs in zip(terms, other.param_dims[name], strict=True):
            for atom in _differing(resolve(mine), resolve(theirs), match):
                freeze(atom, _reason(flow, tape, atom))
    for theirs, mine in match.items():
        for reason, restrict in (
            (theirs.frozen, freeze),
            (theirs.no_split, forbid_split),
            (theirs.inexact, mark_inexact),
        ):
            if reason:
                restrict(mine, f"{reason} (at another size of the input)")


def _differing(mine: Term, theirs: Term, match: dict[Atom, Atom]) -> list[Atom]:
    """The axes of one dimension that differ at the other size."""
    if isinstance(mine, Fixed):
        return []
    if isinstance(mine, Atom):
        if not isinstance(theirs, Atom):
            return [mine]
        known = match.setdefault(theirs, mine)
        if known is not mine:
            unify(known, mine, "they are one at another size of the input")
        return []
    same = isinstance(theirs, Prod if isinstance(mine, Prod) else Sum)
    if not same or [p.size for p in mine.parts] != [p.size for p in theirs.parts]:  # type: ignore[union-attr]
        return list(leaves(mine))
    pairs = zip(mine.parts, theirs.parts, strict=True)  # type: ignore[union-attr]
    return [
        atom for pair in pairs for atom in _differing(resolve(pair[0]), resolve(pair[1]), match)
    ]


def _reason(flow: DimFlow, tape: Tape, atom: Atom) -> str:
    """The reason, naming the first reshape that merges the axis with sizes of the input."""

    def mixes(term: Term) -> bool:
        whole = resolve(term)
        parts = whole.parts if isinstance(whole, Prod) else ()
        return any(isinstance(p, Fixed) for p in parts) and atom in set(leaves(whole))

    for op in tape.ops:
        terms = [term for ref in op.results() for term in flow.tensor_dims.get(ref.index, ())]
        if op.name in _RESHAPES and any(map(mixes, terms)):
            where = module_in_words(op.module)
            return (
                f"{op.name} in {where} cuts them into blocks that depend on the size of the input"
            )
    return "the forward cuts them into blocks that depend on the size of the input"
