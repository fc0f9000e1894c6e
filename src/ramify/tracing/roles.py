"""Who makes, carries and reads each channel axis: roles of parameters, from the labels."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from ramify.tracing.attention.factors import Number, sided, sides_of
from ramify.tracing.attributes import attributes_of
from ramify.tracing.dims import Atom, atoms_of, forbid_split, freeze, leaves, resolve
from ramify.tracing.indexing import Layout, Powers, Readers, Slot, doubled
from ramify.tracing.propagate import Contraction, Labels

Roles = dict[Atom, dict[tuple[str, int], set[str]]]
"""For each atom: (tensor name, dimension) -> roles seen there."""


def roles_of(labels: Labels) -> Roles:
    """The roles of every tensor that a run reached; what forbids a split is noted on the atoms."""
    roles: Roles = {}
    scalable = sided(labels)
    for read in labels.contractions:
        if read.names:
            _note_reads(labels, read, roles)
            continue
        for atom in atoms_of(read.read):
            if atom not in scalable:
                why = "it is multiplied with another activation, where copies count twice"
                forbid_split(atom, why)
    for name, slots in labels.slots.items():
        if name not in labels.carried:
            continue
        for dim, slot in enumerate(slots):
            for atom in leaves(slot):
                roles.setdefault(atom, {}).setdefault((name, dim), set())
            for atom in doubled(resolve(slot)):
                freeze(atom, f"'{name}' holds it twice in one dimension (an outer product)")
    for atom, places in roles.items():
        for (name, _), seen in places.items():
            if {"producer", "consumer"} <= seen:
                forbid_split(atom, f"'{name}' both makes and reads it (a tied weight)")
    return roles


def _note_reads(labels: Labels, read: Contraction, roles: Roles) -> None:
    summed, made = atoms_of(read.read), atoms_of(read.made)
    if not read.moved:
        names = ", ".join(f"'{name}'" for name in sorted(read.names))
        for atom in summed:
            forbid_split(atom, f"the weight that reads it is computed from {names}")
    held: set[Atom] = set()
    for name in sorted(read.names):
        for dim, slot in enumerate(labels.slots[name]):
            for atom in leaves(slot):
                held.add(atom)
                seen = roles.setdefault(atom, {}).setdefault((name, dim), set())
                seen |= _roles_in(slot, atom, read, summed, made)
    for atom in summed - held:
        forbid_split(atom, "a weight without a column of its own reads it")
    for name in sorted(read.bias_names):
        for dim, slot in enumerate(labels.slots[name]):
            for atom in leaves(slot):
                seen = roles.setdefault(atom, {}).setdefault((name, dim), set())
                if atom in made:
                    seen.add("producer")


def _roles_in(
    slot: Atom, atom: Atom, read: Contraction, summed: set[Atom], made: set[Atom]
) -> set[str]:
    """What one dimension of a weight does with an atom in one contraction."""
    if atom in summed and atom in made:  # a layer that feeds itself: the dimension tells
        if any(slot is term for term in read.read):
            return {"consumer"}
        if any(slot is term for term in read.made):
            return {"producer"}
        return {"producer", "consumer"}
    if atom in summed:
        return {"consumer"}
    return {"producer"} if atom in made else set()


def slots_of(places: dict[tuple[str, int], set[str]]) -> list[Slot]:
    """One slot a place: producer before consumer before carrier where several roles were seen.

    A bias that is added by an operation of its own still belongs to its weight.

    Args:
        places: (tensor name, dimension) -> roles seen there.

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
    """For each (tensor, dimension): the atoms it reads, whose scales multiply its entries."""
    readers: dict[tuple[str, int], frozenset[Atom]] = {}
    for atom, places in roles.items():
        for place, seen in places.items():
            if seen == {"consumer"}:
                readers[place] = readers.get(place, frozenset()) | {atom}
    return readers


def layout_of(
    model: nn.Module, labels: Labels, roles: Roles, powers: Mapping[Number, Powers]
) -> Layout:
    """Where the axes lie, and what takes the scale of a copy.

    Args:
        model: the labelled model.
        labels: its runs.
        roles: of `labels`.
        powers: product of activations -> what its scale hangs on.

    Returns:
        The layout.
    """
    return Layout(
        dims={name: tuple(map(resolve, slot)) for name, slot in labels.slots.items()},
        readers=readers_of(roles),
        sides=sides_of(labels, powers),
        attributes=attributes_of(model, labels),
    )
