"""Expert indices: follows the tensors that hold them, and freezes axes used in other ways.

A router assigns expert indices to each token, and the weights of the experts are looked up by
index. If both are followed, router rows and experts are one axis, and an expert can be removed
with its row. If the indices are used in any other way, the axis is frozen.
"""

from __future__ import annotations

import torch

from ramify.errors import module_in_words
from ramify.tracing.contraction import LOOKS_UP, MOVES
from ramify.tracing.dims import (
    Atom,
    Sum,
    Term,
    atoms_of,
    forbid_split,
    freeze,
    leaves,
    mark_inexact,
    resolve,
)
from ramify.tracing.flow import DimFlow
from ramify.tracing.recorder import Op, Ref

_PASS = MOVES | LOOKS_UP | {"aten::aminmax", "aten::sort", "aten::contiguous"}
"""Operations whose first result holds indices if their first argument does."""

_USE = LOOKS_UP | frozenset(
    f"aten::{name}" for name in "gather scatter scatter_ scatter_add scatter_add_ histc".split()
)
"""Operations whose rules handle the indices in their arguments."""

_COMPARE = frozenset(f"aten::{name}" for name in ("eq", "ne", "lt", "le", "gt", "ge"))


def pass_numbers(flow: DimFlow, op: Op, position: int) -> None:
    """Follow indices through one operation; one that is not known to keep them freezes the axis."""
    inputs = op.inputs()
    counted = [flow.numbers[ref.index] for ref in inputs if ref.index in flow.numbers]
    if not counted:
        return
    results, first = op.results(), inputs[0].index in flow.numbers
    if op.name == "aten::_local_scalar_dense":
        flow.number_read = position, counted[0], op.outputs
    elif op.name in _PASS and len(counted) == len(inputs) and not _is_mask(flow, results[0]):
        for term in counted[1:]:
            if resolve(term) is not resolve(counted[0]):
                freeze(term, f"{op.name} joins their numbers with others")
        kept = results[:1] if op.name == "aten::sort" else results
        flow.numbers.update((ref.index, counted[0]) for ref in kept)
    elif op.name in LOOKS_UP and first:
        flow.numbers.update((ref.index, counted[0]) for ref in results)
    elif op.name in _USE and not (first and op.name != "aten::histc"):
        return
    elif not (op.name in _COMPARE and first and _beyond(counted[0], op.args[1])):
        where = module_in_words(op.module)
        for term in counted:
            freeze(term, f"{op.name} in {where} uses their numbers")


def _is_mask(flow: DimFlow, ref: Ref) -> bool:
    return flow.tape.dtypes[ref.index] == torch.bool


def _beyond(term: Term, number: object) -> bool:
    """Whether a number is not an expert index, but marks that there is none."""
    whole = resolve(term)
    experts = whole.parts[0] if isinstance(whole, Sum) else whole
    return type(number) is int and number >= experts.size


def _mixed(flow: DimFlow) -> set[Atom]:
    """The experts of dense mixtures, which all read every row: the first axis of stacked weights.

    A stack of matrices produces channels along two of its dimensions, experts and their units, or
    has one that its product neither produces nor sums over. A convolution kernel has neither.

    Returns:
        Those axes whose channels compete.
    """
    found: set[Atom] = set()
    for read in flow.contractions:
        made, summed = atoms_of(read.made), atoms_of(read.read)
        for name in read.names:
            dims = [resolve(slot) for slot in flow.param_dims[name]]
            if len(dims) != 3:
                continue
            first = dims[0]
            if not isinstance(first, Atom) or not first.ranked:
                continue
            others = atoms_of(dims[1:])
            if (first in made and others & made) or first not in made | summed:
                found.add(first)
    return found


def settle_ranked(flow: DimFlow) -> None:
    """Allow removal in axes of experts, and freeze all other axes whose channels compete."""
    whole = {each for term in flow.looked_up if isinstance(each := resolve(term), Atom)}
    parts = {leaf for term in flow.looked_up for leaf in leaves(term)} - whole
    whole |= _mixed(flow)
    for terms in flow.param_dims.values():
        for term in terms:
            for atom in leaves(term):
                if not atom.ranked:
                    continue
                if atom in whole:
                    forbid_split(atom, "a copy of an expert would be chosen beside it")
                    mark_inexact(atom, "tokens go to other experts instead")
                elif atom in parts:
                    freeze(atom, f"{atom.ranked}, group by group")
                else:
                    freeze(atom, atom.ranked)
