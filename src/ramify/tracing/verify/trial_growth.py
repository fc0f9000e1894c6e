"""The trial growth: every group is grown once and the model run with it before edits are offered.

A forward may contain sizes as numbers (`view(n, 512)`, `x[:, :8]`, `/ x.size(1)`), which dispatched
operations do not reveal. So all editable groups grow together, each by a different number of
channels that change nothing, and a `RunComparison` compares the run with the original. Failing
groups are located by growing fewer groups, and are then tied (equal slices), frozen, or excluded
from splits.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn

from ramify.errors import module_in_words
from ramify.tracing.attention.scales import products_on, rescaled
from ramify.tracing.decisions import Decisions
from ramify.tracing.dims import (
    Atom,
    atoms_of,
    forbid_split,
    freeze,
    leaves,
    mark_inexact,
    resolve,
)
from ramify.tracing.flow import DimFlow
from ramify.tracing.grouped import BLOCK, atoms_in_blocks
from ramify.tracing.indexing import Change, Indexing, new_size
from ramify.tracing.on_use import OnUse
from ramify.tracing.propagate import propagate
from ramify.tracing.recorder import call, record
from ramify.tracing.resizing import resized
from ramify.tracing.roles import indexing_of, roles_of
from ramify.tracing.rules.registry import rule_for
from ramify.tracing.shapes_only import ShapesOnly, ValueAsked
from ramify.tracing.sizes import SizedRun
from ramify.tracing.verify.comparison import Mismatch, ReferenceRun, RunComparison, near_equal
from ramify.tracing.verify.grown_dims import differ_for_good, same_grown, small_factors
from ramify.tracing.verify.halving import by_kind, failing_parts
from ramify.tracing.verify.passed_sizes import PassedSizes, Ran
from ramify.tracing.verify.removal import removal_is_zeroing
from ramify.tracing.verify.scale_powers import measure_powers
from ramify.tracing.verify.trial_results import TrialResults

_CUT = "the forward cuts them at a size that does not follow an edit"


@dataclass(frozen=True)
class Failure:
    """The point where a grown run failed.

    Attributes:
        near: the axes near that point.
        reason: the reason to give for them.
        by_value: whether values are wrong rather than a size.
        untrusted: whether a user's rule was wrong there, so that its axes cannot be trusted.
        run: the index of the run.
        position: the operation, if known.
    """

    near: list[Atom]
    reason: str
    by_value: bool = False
    untrusted: bool = False
    run: int = 0
    position: int | None = None


@dataclass
class TrialGrowth:
    """Grows the groups of a traced model, and restricts those that do not behave as predicted.

    Attributes:
        model: the model.
        flow: its dimensions.
        runs: (inputs, whether in train mode) of each run.
        references: the reference runs.
        edit_outputs: whether edits may reach the model's outputs.
        shared: parameters that share memory with others, which cannot be edited.
        results: the results.
    """

    model: nn.Module
    flow: DimFlow
    runs: Sequence[tuple[Any, bool]]
    references: Sequence[ReferenceRun]
    edit_outputs: bool
    shared: Mapping[str, str]
    results: TrialResults = field(default_factory=TrialResults)
    _indexing: Indexing = field(default_factory=lambda: Indexing({}, {}, {}, []))
    _other_values: dict[int, set[int]] = field(default_factory=dict)
    """Run -> operations whose values change before a product, since rows keep its scale."""
    _blamed: dict[str, int] = field(default_factory=dict)
    """The number of failures of groups of each kind."""
    _asking: set[int] = field(default_factory=set)
    """Runs that need values of products even if only shapes are compared."""
    _passed: PassedSizes = field(default_factory=PassedSizes)
    _scales_first: bool = False
    """Whether the dependence of scales on the axes was measured before comparing values."""
    _scales_differ: bool = False
    """Whether a grown run multiplied by another number, even if no values were compared."""
    _scales_asked: bool = False
    _rescales: bool = False
    """Whether a run multiplied by another number than before, even if no value shows it."""

    def run(self) -> None:
        """Grow, run and compare; restrict what fails; repeat until nothing fails."""
        while True:
            # First the sizes of all groups, then the values of those that keep them.
            atoms = self._candidates()
            exact = [atom for atom in atoms if not atom.inexact]
            summed = [] if self._scales_first else self._summed(exact)
            at_once = len(exact) == len(atoms) and not summed
            failure = self._attempt(atoms, values=at_once)
            # Scales can be measured without values; doing so first saves a run that compares them.
            if failure is None and summed:
                self._scales_first = True
                if self._scales_differ and self._find_powers(summed):
                    self._scales_asked = True
                    exact = [atom for atom in self._candidates() if not atom.inexact]
            if failure is None and not at_once:
                atoms, failure = exact, self._attempt(exact, values=True)
            if failure is not None:
                self._blame(failure, atoms)
            elif not (self._rescales and self._find_hidden_powers(exact)):
                break
        self._shrink([atom for atom in exact if atom.size > 1 and not atom.no_split])
        self._reorder([atom for atom in self._candidates() if atom.ranked and atom.size > 1])
        self.results.note(self.flow)

    def _candidates(self) -> list[Atom]:
        """Axes that a parameter produces and that no known reason excludes from edits."""
        roles = roles_of(self.flow)
        powers = self.results.powers_of(self.flow)
        self._indexing = indexing_of(self.model, self.flow, roles, powers)
        # Between the rows that take a scale and their product, values differ by that scale.
        for run, reference in enumerate(self.references):
            between = [
                each.between
                for found in products_on(self.flow, reference.tape).values()
                for each in found
            ]
            self._other_values.setdefault(run, set()).update(*between)
        return [
            atom
            for atom, places in roles.items()
            if not atom.frozen
            and any("producer" in seen for seen in places.values())
            and not any(name in self.shared for name, _ in places)
        ]

    def _shrink(self, atoms: Sequence[Atom]) -> None:
        """Remove a channel from each group, which must equal zeroing it where it is read."""
        culprits = failing_parts([[atom] for atom in atoms], lambda some: not self._shrinks(some))
        for atom in culprits:
            if self._shrinks([atom]) is None:
                freeze(atom, "the forward fails with a channel less")
            else:
                reason = "the output depends on the number of channels, which the forward reads"
                forbid_split(atom, reason)
                mark_inexact(atom, reason)

    def _reorder(self, atoms: Sequence[Atom]) -> None:
        """Check that permuting experts together with their router rows keeps the output."""
        for atom in failing_parts([[atom] for atom in atoms], lambda some: not self._orders(some)):
            freeze(atom, "the forward tells them apart by more than their numbers")

    def _orders(self, atoms: Sequence[Atom]) -> bool:
        """Whether the experts of some axes can be permuted, and one of them removed."""
        order = {a: Change(np.roll(np.arange(a.size), 1), np.ones(a.size)) for a in atoms}
        fewer = {a: Change(np.arange(1, a.size), np.ones(a.size - 1)) for a in atoms}
        for changes, same in ((order, True), (fewer, False)):
            if not same and any(atom.size <= atom.least for atom in atoms):
                continue
            with resized(self.model, self._indexing, changes):
                try:
                    run = lambda: call(self.model, self.runs[0][0])  # noqa: E731
                    tape = record(self.model, Decisions().of(run), self.runs[0][0])
                except Exception:
                    return False
            if same and not near_equal(self.references[0].tape, tape):
                return False
        return True

    def _shrinks(self, atoms: Sequence[Atom]) -> bool | None:
        """Whether removing channel 0 of each axis equals zeroing it; None if the forward fails."""
        kept = {atom: np.arange(1, atom.size) for atom in atoms}
        tried: list[Any] = []
        for inputs, training in self.runs:
            if training or any(inputs is other for other in tried):
                continue
            tried.append(inputs)
            found = removal_is_zeroing(self.model, self._indexing, inputs, kept)
            if not found:
                return found
        return True

    # One run -----------------------------------------------------------------------------

    def _changes(self, atoms: Sequence[Atom], also: int = 0) -> dict[Atom, Change]:
        """Copies of channel 0 that share its weight, or zeros if copies would count twice.

        Neighbouring groups gain different numbers, each large enough to show in any average. Small
        axes that are factors of one dimension at most double, so that it does not grow too much.

        Args:
            atoms: the axes.
            also: the number of additional channels for each.

        Returns:
            The change of each axis.
        """
        changes, in_blocks, several = {}, atoms_in_blocks(self.flow), small_factors(self.flow)
        for position, atom in enumerate(atoms):
            most = 2 if atom in several else 5
            more = 1 + (3 * position) % most + atom.size // 16 + also
            more *= BLOCK // 2 if atom in in_blocks else 1  # for dtypes of two bytes or more
            source = np.concatenate([np.arange(atom.size), np.zeros(more, dtype=np.int64)])
            scale = np.where(source == 0, 1.0 / (more + 1), 1.0)
            if atom.no_split:
                scale = np.concatenate([np.ones(atom.size), np.zeros(more)])
            changes[atom] = Change(source, scale)
        return changes

    def _attempt(
        self,
        atoms: Sequence[Atom],
        *,
        values: bool,
        until: tuple[int, int] | None = None,
        any_failure: bool = False,
    ) -> Failure | None:
        """Grow these groups and run; None if the model behaves as predicted.

        Args:
            atoms: the axes to grow.
            values: whether old channels must also keep their values.
            until: (run, operation) to stop after.
            any_failure: whether it is enough to know that there is a failure.

        Returns:
            The first failure.
        """
        if not atoms or (not values and self._passed.known(self._changes(atoms))):
            return None
        with contextlib.suppress(ValueAsked):
            return self._grow(atoms, values, until, True, any_failure)
        return self._grow(atoms, values, until, False, any_failure)

    def _grow(
        self,
        atoms: Sequence[Atom],
        values: bool,
        until: tuple[int, int] | None,
        shapes: bool,
        any_failure: bool,
    ) -> Failure | None:
        """One attempt; with `shapes`, skip products with weights if only shapes are compared.

        Returns:
            The first failure.

        Raises:
            ValueAsked: the run may have failed because products were skipped.
        """
        changes, later = self._changes(atoms), OnUse(self.model)
        dims = self._indexing.dims
        grown = DimFlow({n: tuple(new_size(t, changes) for t in ts) for n, ts in dims.items()})
        dead = frozenset(atom for atom in atoms if atom.no_split)
        known = self._passed.ran(changes) if until is None else {}
        ran: dict[int, Ran] = {}
        with resized(self.model, self._indexing, changes, dead, later):
            for number, ((_, training), reference) in enumerate(
                zip(self.runs, self.references, strict=True)
            ):
                if until is not None and number < until[0]:
                    continue
                compared = values and not training
                stop = until[1] if until is not None else None
                comparison = RunComparison(
                    reference, changes, compared, stop, self._other_values[number]
                )
                hollow = shapes and not compared and number not in self._asking
                try:
                    again = known.get(number) if hollow else None
                    tape, uses = again or self._record(number, comparison, later, hollow)
                except Mismatch:
                    if comparison.satisfied:
                        return None
                    return self._failure(number, comparison, changes)
                if compared and not self.edit_outputs and not near_equal(reference.tape, tape):
                    return Failure([], "its outputs depend on the number of channels", True)
                if not training:
                    differ = any(rescaled(reference, tape, changes))
                    self._scales_differ |= differ
                    self._rescales |= compared and differ
                elif hollow:
                    ran[number] = tape, uses
                # The grown run has new dimensions, which must be the old ones after the growth.
                propagate(grown, tape, uses=uses)
                grown.protect_outputs(self.edit_outputs)
                if any_failure and differ_for_good(self.flow, grown, changes):
                    return Failure([], _CUT)
        failure = self._compare(grown, changes)
        if failure is None and until is None and shapes and not values and not self._asking:
            self._passed.note(changes, ran)
        return failure

    def _record(self, number: int, comparison: RunComparison, later: OnUse, hollow: bool) -> Ran:
        """Run the grown model once and compare it with the reference run.

        Returns:
            The tape and sizes.

        Raises:
            Mismatch: it deviates from the prediction, or was stopped successfully.
            ValueAsked: the run may have failed because products were skipped.
        """
        inputs, training = self.runs[number]
        execute = ShapesOnly(self.model, later.waiting()) if hollow else later
        run = SizedRun(self.model, functools.partial(call, self.model, inputs))
        decided = Decisions(self.references[number].decisions).of(run)
        try:
            tape = record(
                self.model, decided, inputs, training=training, watch=comparison, execute=execute
            )
        except Mismatch:
            raise
        except Exception as error:
            if not comparison.satisfied and isinstance(execute, ShapesOnly):
                if isinstance(error, ValueAsked):
                    self._asking.add(number)
                if not execute.explains(error):
                    raise ValueAsked from error
            raise Mismatch from error
        return tape, run.uses

    def _failure(
        self, number: int, comparison: RunComparison, changes: Mapping[Atom, Change]
    ) -> Failure:
        """The failure of an operation, or of the Python just before it, with its axes."""
        reference, position = self.references[number], comparison.position
        ops = reference.tape.ops
        if not comparison.aligned or not ops:
            return Failure([], "the forward holds a size that does not follow an edit")
        op = ops[min(position, len(ops) - 1)]
        refs = op.inputs() + op.results()
        if not comparison.by_value and position > 0:
            refs += ops[position - 1].results()
        terms = [term for ref in refs for term in reference.dims.get(ref.index, ())]
        near = list(dict.fromkeys(a for term in terms for a in leaves(term) if a in changes))
        where = module_in_words(op.module)
        rule = rule_for(op.func)
        untrusted = rule is not None and rule.own
        if untrusted:
            reason = f"{op.name} in {where} does not behave as its dimension rule says"
        elif comparison.by_value:
            reason = f"{op.name} in {where} depends on the number of channels"
        else:
            reason = f"{where} holds a size that does not follow an edit"
        return Failure(near, reason, comparison.by_value, untrusted, number, position)

    def _compare(self, grown: DimFlow, changes: Mapping[Atom, Change]) -> Failure | None:
        """Check that the dimensions of the grown model are the grown ones of the original."""
        grown.tie_slices(sorted(self.results.tied))
        match: dict[Atom, Atom] = {}
        wrong: dict[Atom, None] = {}
        for name, terms in self.flow.param_dims.items():
            for old, new in zip(terms, grown.param_dims[name], strict=True):
                if not same_grown(resolve(old), resolve(new), changes, match):
                    wrong.update(dict.fromkeys(atom for atom in leaves(old) if atom in changes))
        if not wrong:
            return None
        return Failure(list(wrong), _CUT)

    # Locating failures -------------------------------------------------------------------

    def _blame(self, failure: Failure, atoms: Sequence[Atom]) -> None:
        """Restrict the groups that fail alone, and similar ones that also fail."""
        if failure.by_value and not failure.untrusted and self._find_all_powers(atoms):
            return
        until = (failure.run, failure.position) if failure.position is not None else None

        def fails(chosen: Sequence[Atom], limit: tuple[int, int] | None = until) -> bool:
            found = self._attempt(chosen, values=failure.by_value, until=limit, any_failure=True)
            return found is not None

        # Try those near the failure first; if they do not fail alone, try all of them.
        culprits = failing_parts(list(by_kind(self.flow, failure.near).values()), fails)
        if not culprits and len(failure.near) < len(atoms):
            culprits = failing_parts(list(by_kind(self.flow, atoms).values()), fails)
        culprits = culprits or failure.near or list(atoms)
        # If rows can keep a scale, or slices can be tied, no restriction is needed.
        if not failure.untrusted and (
            self._compensate(culprits, atoms) if failure.by_value else self._tie(culprits)
        ):
            return
        # Blocks repeat: if two of a kind failed, the others are tried as well.
        guilty = by_kind(self.flow, culprits)
        for kind in guilty:
            self._blamed[kind] = self._blamed.get(kind, 0) + 1
        often = [kind for kind in guilty if self._blamed[kind] > 1]
        free = [atom for atom in atoms if atom not in culprits]
        for kind, others in by_kind(self.flow, free).items():
            if kind in often and fails(others, None):
                culprits = [*culprits, *others]
        for atom in culprits:
            if failure.untrusted or not failure.by_value:
                freeze(atom, failure.reason)
                self._passed.forget()
            else:
                forbid_split(atom, failure.reason)
                mark_inexact(atom, failure.reason)

    def _find_all_powers(self, atoms: Sequence[Atom]) -> bool:
        """Measure once how scales depend on all axes that products sum over."""
        if self._scales_asked:
            return False
        self._scales_asked = True
        return self._find_powers(self._summed(atoms))

    def _find_hidden_powers(self, atoms: Sequence[Atom]) -> bool:
        """The same if no value shows it: zero queries give equal scores at any scale."""
        if self._scales_asked:
            return False
        if self._find_all_powers(atoms):
            return True
        summed = by_kind(self.flow, self._summed(atoms))
        found = [self._find_powers(kind) for kind in summed.values()]
        return any(found)

    def _summed(self, atoms: Sequence[Atom]) -> list[Atom]:
        """The axes among these that products of activations sum over."""
        found = [products_on(self.flow, reference.tape) for reference in self.references]
        products = [each for some in found for several in some.values() for each in several]
        summed = {atom for each in products for atom in atoms_of(each.read.read)}
        return [atom for atom in atoms if atom in summed]

    def _compensate(self, culprits: Sequence[Atom], atoms: Sequence[Atom]) -> bool:
        """Let rows keep the scale of a product if the number of channels only affects that."""
        kinds, every = by_kind(self.flow, culprits), by_kind(self.flow, atoms)
        alike = [atom for kind, some in every.items() if kind in kinds for atom in some]
        if self._find_powers(alike):
            return True
        found = [self._find_powers([atom]) for atom in culprits if alike != [atom]]
        return any(found)

    def _find_powers(self, atoms: Sequence[Atom]) -> bool:
        """Measure how the scale of products depends on some axes.

        Growths by different numbers must give the same power. A scale such as 1/(d + 1) is no power
        of d, nor is one that uses a head's width computed as a fixed number divided by the number
        of heads, rounded down.

        Returns:
            Whether the indexing now compensates for more than before.
        """
        if not atoms:
            return False
        runs = list(zip(self.runs, self.references, strict=True))
        measured = (
            measure_powers(self.model, self.flow, self._indexing, runs, self._changes(atoms, more))
            for more in range(3)
        )
        first = next(measured)
        if first is None or not first[0]:
            return False
        if any(other is None or other[0] != first[0] for other in measured):
            return False
        found, passed = first
        for run, operations in passed.items():
            self._other_values[run] |= operations
        keys, known = self.flow.axis_keys(), self.results.powers
        new = {(n, keys[a]): p for (n, a), p in found.items() if keys[a] not in known.get(n, {})}
        for (product, key), power in new.items():
            known.setdefault(product, {})[key] = power
        return bool(new)

    def _tie(self, culprits: Sequence[Atom]) -> bool:
        """Tie the slices that contain a failing axis; False if there are none."""
        blamed, tied = set(culprits), False
        for position, term in enumerate(self.flow.sliced):
            if position not in self.results.tied and blamed & set(leaves(term)):
                self.results.tied.add(position)
                self.flow.tie_slices([position])
                self._passed.forget()
                tied = True
        return tied
