"""From terms to numbers: where each channel lies in a tensor, and how an edit moves it.

Shape letters: `W` channels of one atom, `N` positions of one dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ramify.trace.recorder import tensors_of
from ramify.trace.terms import Atom, Fixed, Prod, Sum, Term, leaves

Index = NDArray[np.int64]
Law = Callable[[NDArray[np.float64]], NDArray[np.float64]]


@dataclass(frozen=True)
class Change:
    """New channel j of an atom copies old channel `source[j]`; readers scale it by `scale[j]`."""

    source: Index
    scale: NDArray[np.float64]


@dataclass(frozen=True)
class Slot:
    """One dimension of one tensor that holds a group's channels, and what it does with them."""

    name: str
    dim: int
    role: str
    """`producer`, `carrier` or `consumer`."""


Changes = Mapping[Atom, Change]
Attributes = Sequence[tuple[str, str, tuple[Term, ...]]]
"""(module name, attribute, terms whose sizes it holds)"""
Readers = Mapping[tuple[str, int], frozenset[Atom]]


def owners(term: Term, atom: Atom, changes: Changes | None = None) -> Index:
    """For each of the N positions of a resolved term (after `changes`): its channel, or -1."""
    if isinstance(term, (Atom, Fixed)):
        size = new_size(term, changes or {})
        return np.arange(size) if term is atom else np.full(size, -1)
    parts = [owners(part, atom, changes) for part in term.parts]
    if isinstance(term, Sum):
        return np.concatenate(parts)
    out = parts[0]
    for part in parts[1:]:
        out = np.maximum(out[:, None], part[None, :]).reshape(-1)
    return out


def positions(term: Term, atom: Atom, changes: Changes | None = None) -> Index:
    """Where each channel of `atom` lies in a resolved term: (W, positions of one channel)."""
    owner = owners(term, atom, changes)
    held = np.argsort(owner, kind="stable")[np.count_nonzero(owner < 0) :]
    return held.reshape(new_size(atom, changes or {}), -1)


def kernels(tensor: Tensor, dim: int, where: Index) -> Tensor:
    """One channel's part of a tensor, for each channel.

    Args:
        tensor: what holds the channels.
        dim: along which dimension.
        where: (W, k), the k positions of each channel.

    Returns:
        (W, *kernel), `kernel` being the tensor's shape without `dim`, with k in front if k > 1.
    """
    rows = tensor.movedim(dim, 0)[torch.from_numpy(where).to(tensor.device)]
    return rows.squeeze(1) if where.shape[1] == 1 else rows


def doubled(term: Term) -> set[Atom]:
    """The atoms that one position of a resolved term names twice: an outer product with itself."""
    if isinstance(term, (Atom, Fixed)):
        return set()
    found: set[Atom] = set().union(*(doubled(part) for part in term.parts))
    if isinstance(term, Prod):
        seen: set[Atom] = set()
        for part in term.parts:
            inside = set(leaves(part))
            found |= seen & inside
            seen |= inside
    return found


def new_size(term: Term, changes: Changes) -> int:
    """The term's size after the changes."""
    if isinstance(term, Atom):
        return len(changes[term].source) if term in changes else term.size
    if isinstance(term, Fixed):
        return term.size
    sizes = [new_size(part, changes) for part in term.parts]
    return sum(sizes) if isinstance(term, Sum) else int(np.prod(sizes))


def sources(term: Term, changes: Changes) -> Index:
    """For each new position of a resolved term, the old position it copies."""
    if isinstance(term, Atom):
        return changes[term].source if term in changes else np.arange(term.size)
    if isinstance(term, Fixed):
        return np.arange(term.size)
    parts = [sources(part, changes) for part in term.parts]
    if isinstance(term, Sum):
        starts = np.cumsum([0, *(part.size for part in term.parts[:-1])])
        return np.concatenate([part + start for part, start in zip(parts, starts, strict=True)])
    out = parts[0]
    for part, old in zip(parts[1:], term.parts[1:], strict=True):
        out = (out[:, None] * old.size + part[None, :]).reshape(-1)
    return out


def originals(term: Term, changes: Changes) -> Index:
    """For each old position of a resolved term, where it lies after changes that only append."""
    if isinstance(term, (Atom, Fixed)):
        return np.arange(term.size)
    parts = [originals(part, changes) for part in term.parts]
    sizes = [new_size(part, changes) for part in term.parts]
    if isinstance(term, Sum):
        starts = np.cumsum([0, *sizes[:-1]])
        return np.concatenate([part + start for part, start in zip(parts, starts, strict=True)])
    out = parts[0]
    for part, size in zip(parts[1:], sizes[1:], strict=True):
        out = (out[:, None] * size + part[None, :]).reshape(-1)
    return out


def factors(term: Term, changes: Changes, readers: frozenset[Atom]) -> NDArray[np.float64]:
    """For each new position, what the scales of the `readers` among its channels multiply to."""
    if isinstance(term, Atom) and term in changes:
        change = changes[term]
        return change.scale if term in readers else np.ones(len(change.source))
    if isinstance(term, (Atom, Fixed)):
        return np.ones(term.size)
    parts = [factors(part, changes, readers) for part in term.parts]
    if isinstance(term, Sum):
        return np.concatenate(parts)
    out = parts[0]
    for part in parts[1:]:
        out = (out[:, None] * part[None, :]).reshape(-1)
    return out


def touches(term: Term, changes: Changes) -> bool:
    """Whether the changes reach this term."""
    if isinstance(term, Atom):
        return term in changes
    return not isinstance(term, Fixed) and any(touches(part, changes) for part in term.parts)


def reindex(
    tensor: Tensor,
    terms: Sequence[Term],
    changes: Changes,
    scaled: Sequence[frozenset[Atom]],
    law: Law = np.positive,
) -> Tensor:
    """The tensor after the changes: entries copied, and scaled along the dimensions that ask.

    Args:
        tensor: any tensor laid out as `terms`.
        terms: one resolved term for each dimension.
        changes: what happens to each atom.
        scaled: for each dimension, the atoms whose scale multiplies its entries.
        law: what the scale acts as (its square for second moments).

    Returns:
        A new tensor of the same dtype, device and memory format, without gradient.
    """
    if tensor.layout is not torch.strided:  # the gradient of a sparse embedding
        dense = reindex(tensor.to_dense(), terms, changes, scaled, law)
        return dense.to_sparse(tensor.sparse_dim())
    touched = {dim: term for dim, term in enumerate(terms) if touches(term, changes)}
    out = _select(tensor.detach(), {d: sources(term, changes) for d, term in touched.items()})
    for dim, term in touched.items():
        _multiply(out, dim, law(factors(term, changes, scaled[dim])))
    for memory_format, rank in ((torch.channels_last, 4), (torch.channels_last_3d, 5)):
        other = tensor.dim() == rank and not tensor.is_contiguous()
        if other and tensor.is_contiguous(memory_format=memory_format):
            return out.contiguous(memory_format=memory_format)
    return out.contiguous()


def _select(tensor: Tensor, indices: Mapping[int, Index]) -> Tensor:
    """Positions by number along several dimensions; what is only appended to is copied once."""
    sizes = {dim: tensor.shape[dim] for dim in indices}
    if not all(np.array_equal(i[: sizes[d]], np.arange(sizes[d])) for d, i in indices.items()):
        for dim, index in indices.items():
            tensor = tensor.index_select(dim, torch.from_numpy(index).to(tensor.device))
        return tensor
    out = tensor.new_empty([len(indices.get(d, range(n))) for d, n in enumerate(tensor.shape)])
    corner = out
    for dim, size in sizes.items():
        corner = corner.narrow(dim, 0, size)
    corner.copy_(tensor)
    for dim, index in indices.items():  # later dimensions fill the corners that are still empty
        more = torch.from_numpy(index[sizes[dim] :]).to(tensor.device)
        out.narrow(dim, sizes[dim], len(more)).copy_(out.index_select(dim, more))
    return out


def _multiply(tensor: Tensor, dim: int, scale: NDArray[np.float64]) -> None:
    """Scale the positions of one dimension in place: few, so the others are not passed over."""
    where = np.flatnonzero(scale != 1.0)
    if where.size:
        index = torch.from_numpy(where).to(tensor.device)
        values = torch.from_numpy(scale[where]).to(device=tensor.device, dtype=tensor.dtype)
        shape = [1] * tensor.dim()
        shape[dim] = -1
        tensor.index_copy_(dim, index, tensor.index_select(dim, index) * values.view(shape))


def put(tensor: Tensor, value: Tensor) -> None:
    """Give a parameter or buffer new data of any shape; the object stays the same.

    A gradient accumulator that an old graph keeps alive remembers the old shape. Only a change of
    dtype makes torch drop it, so the data passes through an empty tensor of another dtype.
    """
    if tensor.requires_grad and tensor.shape != value.shape:
        other = torch.float16 if tensor.dtype != torch.float16 else torch.float32
        tensor.data = torch.empty(0, dtype=other, device=tensor.device)
    tensor.data = value


def attribute_values(
    model: nn.Module, attributes: Attributes, changes: Changes
) -> list[tuple[nn.Module, str, object, object]]:
    """(module, attribute, old, new) for every attribute that the changes reach."""
    out: list[tuple[nn.Module, str, object, object]] = []
    for path, name, terms in attributes:
        if any(touches(term, changes) for term in terms):
            module = model.get_submodule(path)
            old = getattr(module, name)
            sizes = tuple(new_size(term, changes) for term in terms)
            out.append((module, name, old, sizes if isinstance(old, tuple) else sizes[0]))
    return out


@contextmanager
def resized(
    model: nn.Module,
    dims: Mapping[str, Sequence[Term]],
    readers: Readers,
    attributes: Attributes,
    changes: Changes,
) -> Iterator[None]:
    """The model as it would be after the changes, for the time of the block."""
    undo: list[tuple[Tensor, Tensor]] = []
    values = attribute_values(model, attributes, changes)
    tensors = tensors_of(model)
    try:
        for name, terms in dims.items():
            if any(touches(term, changes) for term in terms):
                scaled = [readers.get((name, dim), frozenset()) for dim in range(len(terms))]
                tensor = tensors[name]
                undo.append((tensor, tensor.data))
                put(tensor, reindex(tensor, terms, changes, scaled))
        for module, name, _, new in values:
            setattr(module, name, new)
        yield
    finally:
        for tensor, old_data in undo:
            put(tensor, old_data)
        for module, name, old, _ in values:
            setattr(module, name, old)
