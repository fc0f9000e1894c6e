"""Products of two activations: finds the factor whose rows take the scale of a copied channel.

q·kᵀ sums over the head dimension without a weight. A channel of q and k can still be copied if the
rows that produce one of the two factors take the copies' weights. If the forward scales the product
by the number of channels (1/√d), these rows also keep the scale constant.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from ramify.tracing.contraction import AxisKey, Contraction, ProductKey, Rows, ScalableProduct
from ramify.tracing.dims import Atom, atoms_of, resolve
from ramify.tracing.flow import DimFlow
from ramify.tracing.indexing import Powers, ScaledRows, owners


def products_of(flow: DimFlow) -> list[tuple[ProductKey, Contraction]]:
    """Every sum of two activations over channels that a parameter holds, in order."""
    keys, seen = flow.axis_keys(), Counter[AxisKey]()
    found = []
    for read in flow.contractions:
        summed = [keys[atom] for atom in atoms_of(read.read) if atom in keys]
        if summed and not read.names:
            found.append(((min(summed), seen[min(summed)]), read))
            seen[min(summed)] += 1
    return found


def scalable_products(flow: DimFlow) -> dict[Atom, list[ScalableProduct]]:
    """For every axis that products of activations sum over, its products, if rows can scale them.

    Args:
        flow: the traced dimensions.

    Returns:
        Only axes for which rows can scale every product. The result is cached until the dimensions
        change.
    """
    if flow.scalable is not None:
        return flow.scalable
    by_atom: dict[Atom, list[tuple[ProductKey, Contraction]]] = {}
    for key, read in products_of(flow):
        for atom in atoms_of(read.read):
            by_atom.setdefault(atom, []).append((key, read))
    flow.scalable = {}
    for atom, reads in by_atom.items():
        # The rows of the first factor of every product, or else those of the second.
        for first in (True, False):
            chosen = _choose(flow, atom, reads, first)
            if chosen is not None:
                flow.scalable[atom] = chosen
                break
    return flow.scalable


def scaled_rows_of(
    flow: DimFlow, powers: Mapping[ProductKey, Powers]
) -> dict[tuple[str, int], tuple[ScaledRows, ...]]:
    """The rows that take scales, by tensor and dimension.

    Args:
        flow: the traced dimensions.
        powers: product -> the widths that its scale depends on.

    Returns:
        (tensor name, dimension) -> its rows.
    """
    found: dict[tuple[str, int], dict[Atom, list[tuple[Rows, Powers]]]] = {}
    given: set[tuple[tuple[str, int], ProductKey]] = set()
    for atom, products in scalable_products(flow).items():
        for each in products:
            for place in each.rows:
                # A product that sums over several axes is compensated once.
                own = powers.get(each.key, ()) if (place, each.key) not in given else ()
                given.add((place, each.key))
                found.setdefault(place, {}).setdefault(atom, []).append((each.rows, own))
    return {
        place: tuple(
            ScaledRows(atom, tuple((rows[place], own) for rows, own in parts))
            for atom, parts in by_atom.items()
        )
        for place, by_atom in found.items()
    }


def _choose(
    flow: DimFlow, atom: Atom, reads: Sequence[tuple[ProductKey, Contraction]], first: bool
) -> list[ScalableProduct] | None:
    """The first or second factor of every product; None if its rows cannot take a scale."""
    out: list[ScalableProduct] = []
    operands: dict[int, set[tuple[int, int]]] = {}
    for key, read in reads:
        one, other = (read.source, read.weight) if first else (read.weight, read.source)
        tracer = flow.row_tracer(read.tape)
        # The rows produce this factor, belong to the axis, and do not affect the other factor.
        rows = tracer.rows(one, read.op)
        if rows is None or not _belong_to(flow, atom, rows):
            return None
        if not tracer.independent(other, read.op, rows):
            return None
        ways = (tracer.between(factor, read.op) for factor in (one, other))
        out.append(ScalableProduct(key, read, rows, *ways))
        operands.setdefault(id(read.tape), set()).add((read.op, one.index))
    # And they affect nothing but these products.
    for each in out:
        tracer = flow.row_tracer(each.read.tape)
        if not tracer.reach_only(each.rows, operands[id(each.read.tape)]):
            return None
    return out


def _belong_to(flow: DimFlow, atom: Atom, rows: Rows) -> bool:
    """Whether every one of the rows belongs to a channel of the axis."""
    for (name, dim), mask in rows.items():
        owner = owners(resolve(flow.param_dims[name][dim]), atom)
        if bool((owner[mask] < 0).any()):
            return False
    return True
