"""The rehearsal: every group is really grown once, and the model really run, before it is offered.

A forward may hold sizes as numbers (`view(n, 512)`, `x[:, :8]`, `/ x.size(1)`), which no
dispatched operation gives away. So all editable groups grow together, each by its own number of
channels that change nothing, and a `Witness` compares the run with the original. What fails is
told apart by growing fewer groups, and is then tied (equal slices), frozen, or kept from splits.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import gcd
from typing import Any

import numpy as np
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ramify.tracing.attention.factors import Number
from ramify.tracing.attention.scales import products_on, rescaled, scaled_product
from ramify.tracing.dims import (
    Atom,
    Fixed,
    Prod,
    Sum,
    Term,
    atoms_of,
    factor,
    forbid_split,
    freeze,
    leaves,
    mark_inexact,
    resolve,
)
from ramify.tracing.indexing import Change, Layout, Powers, new_size, resized
from ramify.tracing.propagate import Key, Labels, places
from ramify.tracing.recorder import call, record
from ramify.tracing.roles import layout_of, roles_of
from ramify.tracing.sizes import SizedRun
from ramify.tracing.verify.comparison import Take, Witness, near_equal


@dataclass
class Verdicts:
    """What is known of every axis, by place, so that the graph after an edit keeps to it."""

    frozen: dict[Key, str] = field(default_factory=dict)
    unsplit: dict[Key, str] = field(default_factory=dict)
    inexact: dict[Key, str] = field(default_factory=dict)
    tied: set[int] = field(default_factory=set)
    powers: dict[Number, dict[Key, float]] = field(default_factory=dict)
    """Product of activations -> the axes that its scale hangs on, and how."""
    trains_alike: bool = False
    """Whether the forward in train mode does what it does in eval mode."""


@dataclass(frozen=True)
class Failure:
    """Where a grown run went wrong: the groups near the place, and whether in size or in value."""

    near: list[Atom]
    why: str
    by_value: bool = False
    run: int = 0
    position: int | None = None


@dataclass
class Rehearsal:
    """One model, its labels, and the runs that made them."""

    model: nn.Module
    labels: Labels
    runs: Sequence[tuple[Any, bool]]
    """(inputs, whether in train mode)"""
    takes: Sequence[Take]
    edit_outputs: bool
    shared: Mapping[str, str]
    """Parameters over the memory of others, which no edit can follow."""
    verdicts: Verdicts = field(default_factory=Verdicts)
    _layout: Layout = field(default_factory=lambda: Layout({}, {}, {}, []))
    _off: dict[int, set[int]] = field(default_factory=dict)
    """Run -> operations whose values are not what they were, on the way to a scale kept."""
    _blamed: dict[str, int] = field(default_factory=dict)

    def settle(self) -> None:
        """Grow, run, compare; tie, freeze or restrict what fails; until what is offered holds."""
        while True:
            atoms = self._candidates()
            exact = [atom for atom in atoms if not atom.inexact]
            failure = self._attempt(atoms, values=len(exact) == len(atoms))
            if failure is None and len(exact) < len(atoms):
                atoms, failure = exact, self._attempt(exact, values=True)
            if failure is None:
                break
            self._blame(failure, atoms)
        self._shrink([atom for atom in exact if atom.size > 1 and not atom.no_split])
        for atom, key in places(self.labels).items():
            for known, why in zip(
                (self.verdicts.frozen, self.verdicts.unsplit, self.verdicts.inexact),
                (atom.frozen, atom.no_split, atom.inexact),
                strict=True,
            ):
                if why:
                    known[key] = why

    def _candidates(self) -> list[Atom]:
        """Axes that a parameter makes, and that nothing known so far keeps from an edit."""
        roles = roles_of(self.labels)
        powers = powers_of(self.labels, self.verdicts)
        self._layout = layout_of(self.model, self.labels, roles, powers)
        for run, take in enumerate(self.takes):
            between = [
                each.between
                for found in products_on(self.labels, take.tape).values()
                for each in found
            ]
            self._off.setdefault(run, set()).update(*between)
        return [
            atom
            for atom, places in roles.items()
            if not atom.frozen
            and any("producer" in seen for seen in places.values())
            and not any(name in self.shared for name, _ in places)
        ]

    def _shrink(self, atoms: Sequence[Atom]) -> None:
        """Take a channel from each group: it must equal zeroing that channel where it is read."""
        culprits = _told_apart([[atom] for atom in atoms], lambda some: not self._shrinks(some))
        for atom in culprits:
            if self._shrinks([atom]) is None:
                freeze(atom, "the forward fails with a channel less")
            else:
                why = "the output depends on the number of channels, which the forward reads"
                forbid_split(atom, why)
                mark_inexact(atom, why)

    def _shrinks(self, atoms: Sequence[Atom]) -> bool | None:
        """Whether removing channel 0 of each equals zeroing it; None where the forward fails."""
        zeroed = {a: Change(np.arange(a.size), np.minimum(np.arange(a.size), 1.0)) for a in atoms}
        removed = {a: Change(np.arange(1, a.size), np.ones(a.size - 1)) for a in atoms}
        inputs, tapes = self.runs[0][0], []
        for changes in (zeroed, removed):
            with resized(self.model, self._layout, changes):
                try:
                    run = lambda: call(self.model, inputs)  # noqa: E731
                    tapes.append(record(self.model, run, inputs))
                except Exception:
                    return None
        return near_equal(*tapes)

    # One run -----------------------------------------------------------------------------

    def _changes(self, atoms: Sequence[Atom], also: int = 0) -> dict[Atom, Change]:
        """Copies of channel 0 that share its weight; zeros where copies would count twice.

        Neighbouring groups gain different numbers, each enough to be seen in any average.

        Args:
            atoms: the axes.
            also: how many channels more than that each gains.

        Returns:
            The change of each axis.
        """
        changes = {}
        for position, atom in enumerate(atoms):
            more = 1 + (3 * position) % 5 + atom.size // 16 + also
            source = np.concatenate([np.arange(atom.size), np.zeros(more, dtype=np.int64)])
            scale = np.where(source == 0, 1.0 / (more + 1), 1.0)
            if atom.no_split:
                scale = np.concatenate([np.ones(atom.size), np.zeros(more)])
            changes[atom] = Change(source, scale)
        return changes

    def _attempt(
        self, atoms: Sequence[Atom], *, values: bool, until: tuple[int, int] | None = None
    ) -> Failure | None:
        """Grow these groups and run: None where the model behaves as predicted.

        Args:
            atoms: what to grow.
            values: whether old channels must keep their values, too.
            until: (run, operation) to stop after.

        Returns:
            The first failure.
        """
        if not atoms:
            return None
        changes = self._changes(atoms)
        dims = self._layout.dims
        labels = Labels({n: tuple(new_size(t, changes) for t in ts) for n, ts in dims.items()})
        dead = frozenset(atom for atom in atoms if atom.no_split)
        with resized(self.model, self._layout, changes, dead):
            for number, ((inputs, training), take) in enumerate(
                zip(self.runs, self.takes, strict=True)
            ):
                if until is not None and number < until[0]:
                    continue
                stop = until[1] if until is not None else None
                compared = values and not training
                witness = Witness(take, changes, compared, stop, self._off[number])
                run = SizedRun(self.model, functools.partial(call, self.model, inputs))
                try:
                    tape = record(self.model, run, inputs, training=training, watch=witness)
                except Exception:
                    if witness.content:
                        return None
                    return self._failure(number, witness, changes)
                if compared and not self.edit_outputs and not near_equal(take.tape, tape):
                    return Failure([], "its outputs depend on the number of channels", True)
                labels.run(tape, uses=run.uses)
                labels.keep_outputs(self.edit_outputs)
        return self._compare(labels, changes)

    def _failure(self, number: int, witness: Witness, changes: dict[Atom, Change]) -> Failure:
        """What an operation that failed, or the Python just before it, was working on."""
        take, position = self.takes[number], witness.position
        ops = take.tape.ops
        if not witness.aligned or not ops:
            return Failure([], "the forward holds a size that does not follow an edit")
        op = ops[min(position, len(ops) - 1)]
        refs = op.inputs() + op.results()
        if not witness.by_value and position > 0:
            refs += ops[position - 1].results()
        terms = [term for ref in refs for term in take.dims.get(ref.index, ())]
        near = list(dict.fromkeys(a for term in terms for a in leaves(term) if a in changes))
        where = f"module '{op.module}'" if op.module else "the model's own forward"
        if witness.by_value:
            why = f"{op.name} in {where} depends on the number of channels"
        else:
            why = f"{where} holds a size that does not follow an edit"
        return Failure(near, why, witness.by_value, number, position)

    def _compare(self, labels: Labels, changes: dict[Atom, Change]) -> Failure | None:
        """Whether the labels of the grown model are those of the original, grown."""
        for position in sorted(self.verdicts.tied):
            if position < len(labels.sliced):
                tie(labels.sliced[position])
        match: dict[Atom, Atom] = {}
        wrong: dict[Atom, None] = {}
        for name, slot in self.labels.slots.items():
            for old, new in zip(slot, labels.slots[name], strict=True):
                if not _same(resolve(old), resolve(new), changes, match):
                    wrong.update(dict.fromkeys(atom for atom in leaves(old) if atom in changes))
        if not wrong:
            return None
        return Failure(list(wrong), "the forward cuts them at a size that does not follow an edit")

    # Who is to blame ---------------------------------------------------------------------

    def _blame(self, failure: Failure, atoms: Sequence[Atom]) -> None:
        """Restrict the groups that fail on their own, and those built alike that fail too."""
        until = (failure.run, failure.position) if failure.position is not None else None

        def fails(chosen: Sequence[Atom], limit: tuple[int, int] | None = until) -> bool:
            return self._attempt(chosen, values=failure.by_value, until=limit) is not None

        parts = self._alike(failure.near)
        culprits = _told_apart(list(parts.values()), fails)
        if not culprits and len(failure.near) < len(atoms):
            culprits = _told_apart(list(self._alike(atoms).values()), fails)
        culprits = culprits or failure.near or list(atoms)
        if self._make_up(culprits, atoms) if failure.by_value else self._tie(culprits):
            return
        guilty = self._alike(culprits)
        for kind in guilty:
            self._blamed[kind] = self._blamed.get(kind, 0) + 1
        often = [kind for kind in guilty if self._blamed[kind] > 1]
        for kind, others in self._alike(a for a in atoms if a not in culprits).items():
            if kind in often and fails(others, None):
                culprits = [*culprits, *others]
        for atom in culprits:
            if not failure.by_value:
                freeze(atom, failure.why)
            else:
                forbid_split(atom, failure.why)
                mark_inexact(atom, failure.why)

    def _make_up(self, culprits: Sequence[Atom], atoms: Sequence[Atom]) -> bool:
        """Where the number of channels only sets the scale of a product, weights keep it."""
        kinds = self._alike(culprits)
        alike = [a for kind, some in self._alike(atoms).items() if kind in kinds for a in some]
        if self._powers(alike):
            return True
        found = [self._powers([atom]) for atom in culprits]
        return any(found)

    def _powers(self, atoms: Sequence[Atom]) -> bool:
        """Find how the scale of products hangs on some axes.

        Several growths must tell the same power: 1/(d + 1) is none, nor is the width of a head that
        the forward takes for a fixed number over the number of heads, rounded down.

        Returns:
            Whether the layout now makes up for more than before.
        """
        first, *others = (self._measured(atoms, more) for more in range(3))
        if first is None or any(other is None or other[0] != first[0] for other in others):
            return False
        found, off = first
        for run, operations in off.items():
            self._off[run] |= operations
        keys, known = places(self.labels), self.verdicts.powers
        new = {(n, keys[a]): p for (n, a), p in found.items() if keys[a] not in known.get(n, {})}
        for (number, key), power in new.items():
            known.setdefault(number, {})[key] = power
        return bool(new)

    def _measured(
        self, atoms: Sequence[Atom], more: int
    ) -> tuple[dict[tuple[Number, Atom], float], dict[int, set[int]]] | None:
        """How the scale of products follows one growth of some axes.

        Args:
            atoms: the axes.
            more: by how many channels more than elsewhere they grow.

        Returns:
            ((product, axis) -> power, run -> operations that are off on the way to the scale);
            None where rows of a product cannot take the scale.
        """
        changes = self._changes(atoms, more)
        dead = frozenset(atom for atom in atoms if atom.no_split)
        found: dict[tuple[Number, Atom], float] = {}
        passed: dict[int, set[int]] = {}
        for number, take in enumerate(self.takes):
            inputs, training = self.runs[number]
            products = products_on(self.labels, take.tape)
            with resized(self.model, self._layout, changes, dead), sdpa_kernel(SDPBackend.MATH):
                try:
                    run = functools.partial(call, self.model, inputs)
                    tape = record(self.model, run, inputs, training=training)
                except Exception:
                    return None
            for position, ratio in rescaled(take, tape, changes):
                off, scaled = scaled_product(take.tape, position, products)
                if scaled is None or ratio <= 0:
                    return None
                summed = atoms_of(scaled.read.read)
                driver = next((a for a in atoms if a in summed or len(atoms) == 1), None)
                if driver is None:
                    return None
                power = math.log(ratio) / math.log(new_size(driver, changes) / driver.size)
                at = scaled.number, driver
                found[at] = round(found.get(at, 0.0) + power, 6)
                passed.setdefault(number, set()).update(off)
        return found, passed

    def _alike(self, atoms: Iterable[Atom]) -> dict[str, list[Atom]]:
        """The groups by where they lie, numbers left out: those of repeated blocks together."""
        wanted = dict.fromkeys(atoms)
        lie: dict[Atom, dict[str, None]] = {atom: {} for atom in wanted}
        for name, slot in self.labels.slots.items():
            for dim, term in enumerate(slot):
                for position, atom in enumerate(leaves(term)):
                    if atom in lie:
                        place = f"{re.sub(r'[0-9]+', '#', name)} {dim} {position}"
                        lie[atom][place] = None
        kinds: dict[str, list[Atom]] = {}
        for atom in wanted:
            kinds.setdefault("; ".join(sorted(lie[atom])), []).append(atom)
        return kinds

    def _tie(self, culprits: Sequence[Atom]) -> bool:
        """Tie the slices that a culprit lies in; False if there are none."""
        blamed, tied = set(culprits), False
        for position, term in enumerate(self.labels.sliced):
            if position not in self.verdicts.tied and blamed & set(leaves(term)):
                self.verdicts.tied.add(position)
                tie(term)
                tied = True
        return tied


def _told_apart(parts: Sequence[list[Atom]], fails: Callable[[Sequence[Atom]], bool]) -> list[Atom]:
    """The parts that fail on their own, by halving; a half that only fails together, whole."""
    together = [atom for part in parts for atom in part]
    if not together or not fails(together):
        return []
    if len(parts) == 1:
        return together
    half = len(parts) // 2
    return _told_apart(parts[:half], fails) + _told_apart(parts[half:], fails) or together


def powers_of(labels: Labels, verdicts: Verdicts) -> dict[Number, Powers]:
    """What the scale of each product of activations hangs on."""
    atoms = {key: atom for atom, key in places(labels).items()}
    return {
        number: tuple((atoms[key], power) for key, power in known.items() if key in atoms)
        for number, known in verdicts.powers.items()
    }


def recall(labels: Labels, verdicts: Verdicts) -> None:
    """Apply what an earlier rehearsal of the same forward found."""
    for position in sorted(verdicts.tied):
        if position < len(labels.sliced):
            tie(labels.sliced[position])
    for atom, key in places(labels).items():
        for known, restrict in (
            (verdicts.frozen, freeze),
            (verdicts.unsplit, forbid_split),
            (verdicts.inexact, mark_inexact),
        ):
            if key in known:
                restrict(atom, known[key])


def tie(term: Term) -> None:
    """Slices of one axis become multiples of their common size: their channels go together."""
    term = resolve(term)
    if not isinstance(term, Sum):
        return
    common = gcd(*(piece.size for piece in term.parts))
    pair = factor(term, term.size // common, common) if common > 1 else None
    freeze(pair[0] if pair else term, "the forward cuts them at fixed places")


def _same(old: Term, new: Term, changes: dict[Atom, Change], match: dict[Atom, Atom]) -> bool:
    """Whether a term came out as predicted: same form, sizes as changed, atoms one to one."""
    if isinstance(old, Atom):
        if old not in changes:  # frozen: whatever it is now, its size is as before
            return new.size == old.size
        if not isinstance(new, Atom) or new.frozen or new.size != len(changes[old].source):
            return False
        return match.setdefault(old, new) is new
    if isinstance(old, Fixed):
        return new.size == old.size
    alike = isinstance(new, Prod if isinstance(old, Prod) else Sum)
    if not alike or len(old.parts) != len(new.parts):  # type: ignore[union-attr]
        return new.size == old.size and not any(atom in changes for atom in leaves(old))
    pairs = zip(old.parts, new.parts, strict=True)  # type: ignore[union-attr]
    return all(_same(a, b, changes, match) for a, b in pairs)
