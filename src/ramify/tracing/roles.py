"""The roles of parameters: which produce, carry and read each channel axis."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from ramify.tracing.attention.factors import scalable_products, scaled_rows_of
from ramify.tracing.attributes import attributes_of
from ramify.tracing.contraction import Contraction, ProductKey
from ramify.tracing.dims import Atom, atoms_of, forbid_split, freeze, leaves, resolve
from ramify.tracing.flow import DimFlow
from ramify.tracing.indexing import Indexing, Powers, Readers, Slot, repeated_atoms

Roles = dict[Atom, dict[tuple[str, int], set[str]]]
"""For each atom: (tensor name, dimension) -> its roles there."""


def roles_of(flow: DimFlow) -> Roles:
    """The roles of every tensor that a run reached; atoms get the reasons against a split."""
    roles: Roles = {}
    opaque = _opaque_axes(flow)
    scalable = scalable_products(flow)
    for number, read in enumerate(flow.contractions):
        # The inputs of an operation without a rule are placed in forward order here.
        roles.update({atom: {} for _, atom, at, _ in opaque if at == number and atom not in roles})
        if read.names:
            _note_reads(flow, read, roles)
            continue
        for atom in atoms_of(read.read) - scalable.keys():
            forbid_split(atom, "it is multiplied with another activation, where copies count twice")
    _note_carriers(flow, roles)
    _note_unseen_makers(flow, roles)
    for name, atom, _, reason in opaque:
        places = roles.setdefault(atom, {})
        if not any(places.values()):
            freeze(atom, reason)
            places.setdefault((name, 0), set()).add("producer")
    _note_lost_weights(flow, roles)
    for atom, places in roles.items():
        for (name, _), seen in places.items():
            if {"producer", "consumer"} <= seen:
                forbid_split(atom, f"'{name}' both makes and reads it (a tied weight)")
    return roles


def _note_lost_weights(flow: DimFlow, roles: Roles) -> None:
    """List weights that the run used but that hold no channels of any group, as frozen."""
    for name, where in flow.reached.items():
        terms = flow.param_dims[name]
        inside = [atom for term in terms for atom in leaves(term)]
        if len(terms) < 2 or name in flow.buffers or not inside:
            continue
        if any("producer" in seen for atom in inside for seen in roles.get(atom, {}).values()):
            continue
        for atom in leaves(terms[0]):
            freeze(
                atom, f"{where} takes '{name}', and what becomes of its channels is not followed"
            )
            roles.setdefault(atom, {}).setdefault((name, 0), set()).add("producer")


def _note_carriers(flow: DimFlow, roles: Roles) -> None:
    """Add every location of an axis, even without a role."""
    for name, terms in flow.param_dims.items():
        if name not in flow.reached:
            continue
        for dim, term in enumerate(terms):
            for atom in leaves(term):
                roles.setdefault(atom, {}).setdefault((name, dim), set())
            for atom in repeated_atoms(resolve(term)):
                freeze(atom, f"'{name}' holds it twice in one dimension (an outer product)")


def _note_unseen_makers(flow: DimFlow, roles: Roles) -> None:
    """Make tables the producers of channels without a contraction: centres, modulated kernels."""
    read = {atom for seen in flow.contractions if seen.moved for atom in atoms_of(seen.read)}
    for atom in read & roles.keys():
        places = roles[atom]
        if any("producer" in seen for seen in places.values()):
            continue
        for (name, _), seen in places.items():
            if not seen and len(flow.param_dims[name]) > 1 and name not in flow.buffers:
                seen.add("producer")


def _opaque_axes(flow: DimFlow) -> list[tuple[str, Atom, int, str]]:
    """The channels of weights that an operation without a rule read.

    Returns:
        (tensor, axis, number of earlier contractions, reason) of each.
    """
    return [
        (name, atom, before, reason)
        for name, (before, reason) in flow.opaque.items()
        if len(flow.param_dims[name]) > 1 and name not in flow.buffers
        for atom in leaves(flow.param_dims[name][0])
    ]


def _note_reads(flow: DimFlow, read: Contraction, roles: Roles) -> None:
    summed, made = atoms_of(read.read), atoms_of(read.made)
    if not read.moved:
        names = ", ".join(f"'{name}'" for name in sorted(read.names))
        for atom in summed:
            forbid_split(atom, f"the weight that reads it is computed from {names}")
    held: set[Atom] = set()
    for name in sorted(read.names):
        for dim, slot in enumerate(flow.param_dims[name]):
            for atom in leaves(slot):
                held.add(atom)
                seen = roles.setdefault(atom, {}).setdefault((name, dim), set())
                seen |= _roles_in(slot, atom, read, summed, made)
    for atom in summed - held:
        forbid_split(atom, "a weight without a column of its own reads it")
    for name in sorted(read.bias_names):
        for dim, slot in enumerate(flow.param_dims[name]):
            for atom in leaves(slot):
                seen = roles.setdefault(atom, {}).setdefault((name, dim), set())
                if atom in made:
                    seen.add("producer")


def _roles_in(
    slot: Atom, atom: Atom, read: Contraction, summed: set[Atom], made: set[Atom]
) -> set[str]:
    """The roles of one dimension of a weight for an atom in one contraction."""
    if atom in summed and atom in made:  # a layer that feeds itself: the dimension decides
        if any(slot is term for term in read.read):
            return {"consumer"}
        if any(slot is term for term in read.made):
            return {"producer"}
        return {"producer", "consumer"}
    if atom in summed:
        return {"consumer"}
    return {"producer"} if atom in made else set()


def slots_of(places: dict[tuple[str, int], set[str]]) -> list[Slot]:
    """One slot per location, with the first of its roles: producer, consumer, carrier.

    A bias that is added by a separate operation still belongs to its weight.

    Args:
        places: (tensor name, dimension) -> its roles there.

    Returns:
        The slots in forward order, each bias after its weight.
    """
    made = {name.removesuffix("weight") for (name, _), seen in places.items() if "producer" in seen}
    out = []
    for (name, dim), seen in places.items():
        role = "carrier"
        if seen:
            role = "producer" if "producer" in seen else "consumer"
        elif name.endswith("bias") and name.removesuffix("bias") in made:
            role = "producer"
        out.append(Slot(name, dim, role))
    weights = {slot.name: n for n, slot in enumerate(out)}
    after = [weights.get(f"{slot.name.removesuffix('bias')}weight", -1) for slot in out]
    order = [n if place < 0 or place == n else place + 0.5 for n, place in enumerate(after)]
    return [out[n] for n in sorted(range(len(out)), key=order.__getitem__)]


def readers_of(roles: Roles) -> Readers:
    """For each (tensor, dimension): the atoms it reads, whose scales multiply its elements."""
    readers: dict[tuple[str, int], frozenset[Atom]] = {}
    for atom, places in roles.items():
        for place, seen in places.items():
            if seen == {"consumer"}:
                readers[place] = readers.get(place, frozenset()) | {atom}
    return readers


def indexing_of(
    model: nn.Module, flow: DimFlow, roles: Roles, powers: Mapping[ProductKey, Powers]
) -> Indexing:
    """The locations of the axes, and what takes the scale of a copy.

    Args:
        model: the traced model.
        flow: its dimensions.
        roles: the roles of `flow`.
        powers: product of activations -> the widths that its scale depends on.

    Returns:
        The indexing.
    """
    return Indexing(
        dims={name: tuple(map(resolve, slot)) for name, slot in flow.param_dims.items()},
        readers=readers_of(roles),
        scaled_rows=scaled_rows_of(flow, powers),
        attributes=attributes_of(model, flow),
    )
