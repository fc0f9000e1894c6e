"""The positions of each channel in a tensor, and how an edit changes them.

Shape letters: `W` channels of one atom, `N` positions of one dimension.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ramify.tracing.dims import Atom, Fixed, Prod, Sum, Term, leaves

Index = NDArray[np.int64]
Floats = NDArray[np.float64]

_FEW = 2**12
"""Tensors with fewer elements are copied element by element, in fewer steps."""


@dataclass(frozen=True)
class Change:
    """New channel j of an atom copies old channel `source[j]`; readers scale it by `scale[j]`.

    If the channels are inside another axis (the channels of each head), each block may have a
    different source: new channel j of old block b copies that block's old channel `table[b, j]`.
    """

    source: Index
    scale: Floats
    blocks: Atom | None = None
    table: Index | None = None


@dataclass(frozen=True)
class Slot:
    """One dimension of one tensor that holds a group's channels, and its role."""

    name: str
    dim: int
    role: str
    """`producer`, `carrier` or `consumer`."""


Changes = Mapping[Atom, Change]
Attributes = Sequence[tuple[str, str, tuple[Term, ...]]]
"""(module name, attribute, terms whose sizes it holds, or that its `__class__` depends on)"""
Readers = Mapping[tuple[str, int], frozenset[Atom]]
Powers = tuple[tuple[Atom, float], ...]
"""The axes on whose width a product's scale depends: (axis, power of new width over old)."""


@dataclass(frozen=True, eq=False)
class ScaledRows:
    """Rows of a producer that take the scale of a copy if no weight reads the channel.

    These rows produce one factor of a product of activations (the queries of q·kᵀ). If the product
    is multiplied by a number that depends on the number of channels, they compensate for it.

    Attributes:
        atom: the axis.
        parts: (positions of the dimension, powers of the widths for which they compensate).
    """

    atom: Atom
    parts: tuple[tuple[NDArray[np.bool_], Powers], ...]

    def value_scales(self, term: Term, changes: Changes) -> Floats:
        """The factor of the values at each new position."""
        out = np.ones(new_size(term, changes))
        scale, old = self._scale(term, changes), sources(term, changes)
        for rows, powers in self.parts:
            mine = rows[old]
            out[mine] = scale[mine] * _gain(powers, changes)
        return out

    def gradient_scales(self, term: Term, changes: Changes) -> Floats:
        """The factor of the gradients at each new position: the scale, except in these rows."""
        out, old = self._scale(term, changes), sources(term, changes)
        for rows, powers in self.parts:
            out[rows[old]] = 1.0 / _gain(powers, changes)
        return out

    def _scale(self, term: Term, changes: Changes) -> Floats:
        owner = owners(term, self.atom, changes)
        change = changes.get(self.atom)
        if change is None:
            return np.ones(len(owner))
        return np.where(owner < 0, 1.0, change.scale[owner])


def _gain(powers: Powers, changes: Changes) -> float:
    ratios = ((new_size(atom, changes) / atom.size, power) for atom, power in powers)
    return math.prod(ratio**power for ratio, power in ratios)


Scaling = Callable[[Term, Changes], Floats]
"""(resolved dimension, changes) -> the factor of the elements at each new position."""


@dataclass(frozen=True, eq=False)
class Indexing:
    """The positions of the axes in every tensor and attribute, and what takes a copy's scale.

    Attributes:
        dims: tensor name -> its resolved dimensions.
        readers: the axes whose channels a dimension of a tensor reads.
        scaled_rows: the rows that take the scale if no weight reads the channel.
        attributes: the attributes that hold sizes.
    """

    dims: Mapping[str, tuple[Term, ...]]
    readers: Readers
    scaled_rows: Mapping[tuple[str, int], tuple[ScaledRows, ...]]
    attributes: Attributes

    def touched(self, changes: Changes) -> Iterator[str]:
        """The names of the tensors that the changes affect."""
        for name, terms in self.dims.items():
            # Rows also follow an axis that they do not hold if they compensate for its width.
            widths = (
                atom in changes
                for dim in range(len(terms))
                for rows in self.scaled_rows.get((name, dim), ())
                for _, powers in rows.parts
                for atom, _ in powers
            )
            if any(touches(term, changes) for term in terms) or any(widths):
                yield name

    def offset_scales(self, slot: Slot, changes: Changes) -> Floats:
        """For each new position of a slot, the factor of a displacement there.

        If a copy's own rows take its scale, its displacement is scaled with them.

        Returns:
            One factor for each position.
        """
        term = self.dims[slot.name][slot.dim]
        out = np.ones(new_size(term, changes))
        for rows in self.scaled_rows.get((slot.name, slot.dim), ()):
            out = out * rows.value_scales(term, changes)
        return out

    def value_scales(self, name: str, dead: frozenset[Atom] = frozenset()) -> list[Scaling]:
        """For each dimension of a tensor, the scaling of its values under changes.

        Args:
            name: the tensor.
            dead: axes whose scale multiplies every position that holds them.

        Returns:
            One rule for each dimension.
        """
        return [
            _product(
                self.readers.get((name, dim), frozenset()) | (dead & frozenset(leaves(term))),
                [rows.value_scales for rows in self.scaled_rows.get((name, dim), ())],
            )
            for dim, term in enumerate(self.dims[name])
        ]

    def gradient_scales(self, name: str) -> list[Scaling]:
        """For each dimension of a tensor, the scaling of its gradients under changes.

        Returns:
            One rule for each dimension.
        """
        out = []
        for dim, term in enumerate(self.dims[name]):
            here = self.scaled_rows.get((name, dim), ())
            # Gradients of values that take the scale stay unscaled; all others are scaled by it.
            scaled = self.readers.get((name, dim), frozenset()) | {rows.atom for rows in here}
            unscaled = frozenset(leaves(term)) - scaled
            out.append(_product(unscaled, [rows.gradient_scales for rows in here]))
        return out


def _product(atoms: frozenset[Atom], others: Sequence[Scaling]) -> Scaling:
    """The scales of some axes, times other factors."""

    def rule(term: Term, changes: Changes) -> Floats:
        out = scales_along(term, changes, atoms)
        for other in others:
            out = out * other(term, changes)
        return out

    return rule


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
    """The positions of each channel of `atom` in a resolved term: (W, positions of one channel)."""
    owner = owners(term, atom, changes)
    held = np.argsort(owner, kind="stable")[np.count_nonzero(owner < 0) :]
    width = new_size(atom, changes or {})
    return held.reshape(width, len(held) // max(width, 1))


def kernels(tensor: Tensor, dim: int, where: Index) -> Tensor:
    """One channel's part of a tensor, for each channel.

    Args:
        tensor: the tensor that holds the channels.
        dim: the dimension of the channels.
        where: (W, k), the k positions of each channel.

    Returns:
        (W, *kernel), `kernel` being the tensor's shape without `dim`, with k in front if k > 1.
    """
    rows = tensor.movedim(dim, 0)[torch.from_numpy(where).to(tensor.device)]
    return rows.squeeze(1) if where.shape[1] == 1 else rows


def repeated_atoms(term: Term) -> set[Atom]:
    """The atoms that occur twice in a product of a resolved term: an outer product with itself."""
    if isinstance(term, (Atom, Fixed)):
        return set()
    found: set[Atom] = set().union(*(repeated_atoms(part) for part in term.parts))
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
    tables = (changes[p].table for p in term.parts if isinstance(p, Atom) and p in changes)
    if all(table is None for table in tables):
        out = parts[0]
        for numbers, before in zip(parts[1:], term.parts[1:], strict=True):
            out = (out[:, None] * before.size + numbers[None, :]).reshape(-1)
        return out
    # A product: one grid axis for each part. A part with a table uses the row of its own block.
    grids = list(np.meshgrid(*parts, indexing="ij"))
    for place, part in enumerate(term.parts):
        change = changes.get(part) if isinstance(part, Atom) else None
        if change is not None and change.table is not None:
            block = next(n for n, other in enumerate(term.parts) if other is change.blocks)
            new = np.arange(len(change.source)).reshape(
                [-1 if n == place else 1 for n in range(len(parts))]
            )
            grids[place] = change.table[grids[block], new]
    out = grids[0]
    for grid, old in zip(grids[1:], term.parts[1:], strict=True):
        out = out * old.size + grid
    return out.reshape(-1)


def blocks_of(term: Term, atom: Atom) -> set[Atom]:
    """The axes that enclose an axis wherever it occurs in a resolved term."""
    if isinstance(term, Prod):
        place = next((n for n, part in enumerate(term.parts) if part is atom), 0)
        return {part for part in term.parts[:place] if isinstance(part, Atom)}
    if isinstance(term, Sum):
        held = [blocks_of(part, atom) for part in term.parts if atom in leaves(part)]
        return set.intersection(*held) if held else set()
    return set()


def kept_positions(term: Term, changes: Changes) -> Index:
    """For each old position of a resolved term, its position after changes that only append."""
    if isinstance(term, (Atom, Fixed)):
        return np.arange(term.size)
    parts = [kept_positions(part, changes) for part in term.parts]
    sizes = [new_size(part, changes) for part in term.parts]
    if isinstance(term, Sum):
        starts = np.cumsum([0, *sizes[:-1]])
        return np.concatenate([part + start for part, start in zip(parts, starts, strict=True)])
    out = parts[0]
    for part, size in zip(parts[1:], sizes[1:], strict=True):
        out = (out[:, None] * size + part[None, :]).reshape(-1)
    return out


def scales_along(term: Term, changes: Changes, readers: frozenset[Atom]) -> Floats:
    """For each new position, the product of the scales of its channels of `readers`."""
    if isinstance(term, Atom) and term in changes:
        change = changes[term]
        return change.scale if term in readers else np.ones(len(change.source))
    if isinstance(term, (Atom, Fixed)):
        return np.ones(term.size)
    parts = [scales_along(part, changes, readers) for part in term.parts]
    if isinstance(term, Sum):
        return np.concatenate(parts)
    out = parts[0]
    for part in parts[1:]:
        out = (out[:, None] * part[None, :]).reshape(-1)
    return out


def touches(term: Term, changes: Changes) -> bool:
    """Whether the changes affect this term."""
    if isinstance(term, Atom):
        return term in changes
    return not isinstance(term, Fixed) and any(touches(part, changes) for part in term.parts)


def reindex(
    tensor: Tensor,
    terms: Sequence[Term],
    changes: Changes,
    scaled: Sequence[Scaling],
) -> Tensor:
    """The tensor after the changes: elements copied, then scaled along each dimension.

    Args:
        tensor: any tensor with the dimensions `terms`.
        terms: one resolved term for each dimension.
        changes: the change of each atom.
        scaled: for each dimension, the factors of its elements.

    Returns:
        A new tensor of the same dtype, device and memory format, without gradient.
    """
    if tensor.layout is not torch.strided:  # the gradient of a sparse embedding
        dense = reindex(tensor.to_dense(), terms, changes, scaled)
        return dense.to_sparse(tensor.sparse_dim())
    # Copy the elements, then scale them, then restore the memory format.
    touched = {dim: term for dim, term in enumerate(terms) if touches(term, changes)}
    out = _select(tensor.detach(), {d: sources(term, changes) for d, term in touched.items()})
    for dim, term in enumerate(terms):
        _multiply(out, dim, scaled[dim](term, changes))
    for memory_format, rank in ((torch.channels_last, 4), (torch.channels_last_3d, 5)):
        other = tensor.dim() == rank and not tensor.is_contiguous()
        if other and tensor.is_contiguous(memory_format=memory_format):
            return out.contiguous(memory_format=memory_format)
    return out.contiguous()


def _select(tensor: Tensor, indices: Mapping[int, Index]) -> Tensor:
    """Index a tensor along several dimensions; if positions are only appended, copy it once."""
    sizes = {dim: tensor.shape[dim] for dim in indices}
    if not indices:
        return tensor.clone()
    orders = (np.array_equal(i[: sizes[d]], np.arange(sizes[d])) for d, i in indices.items())
    if tensor.numel() < _FEW or not all(orders):
        for dim, index in indices.items():
            tensor = tensor.index_select(dim, torch.from_numpy(index).to(tensor.device))
        return tensor
    # Every index begins with all old positions in order: these are one block in the corner.
    out = tensor.new_empty([len(indices.get(d, range(n))) for d, n in enumerate(tensor.shape)])
    corner = out
    for dim, size in sizes.items():
        corner = corner.narrow(dim, 0, size)
    corner.copy_(tensor)
    # Append along one dimension after the other; each reads what those before it filled.
    for dim, index in indices.items():
        more = torch.from_numpy(index[sizes[dim] :]).to(tensor.device)
        out.narrow(dim, sizes[dim], len(more)).copy_(out.index_select(dim, more))
    return out


def _multiply(tensor: Tensor, dim: int, scale: Floats) -> None:
    """Scale positions of one dimension in place, reading only those that change."""
    where = np.flatnonzero(scale != 1.0)
    if where.size:
        index = torch.from_numpy(where).to(tensor.device)
        # Torch neither multiplies nor indexes numbers of eight bits.
        small = tensor.dtype.itemsize == 1
        wide = torch.float32 if small else tensor.dtype
        values = torch.from_numpy(scale[where]).to(device=tensor.device, dtype=wide)
        shape = [1] * tensor.dim()
        shape[dim] = -1
        made = (tensor.index_select(dim, index).to(wide) * values.view(shape)).to(tensor.dtype)
        if small:
            tensor, made = tensor.view(torch.uint8), made.view(torch.uint8)
        tensor.index_copy_(dim, index, made)
