r"""Refit: adjust the remaining weights reader by reader, in forward order.

The original and the edited network run side by side on the same inputs. Before each reader both
stop: the original network gives the reader's target (:math:`y = W\phi + b`), the edited one its
actual input (:math:`\phi'_K`, after all readers that were refitted before), and the ridge solution
of `ridge.py` becomes its weight.

Shape letters: `G` groups, `F` features, `O` outputs, `N` samples.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ramify import distributed
from ramify.errors import RamifyError
from ramify.probe.reads import Forward
from ramify.refit import moments
from ramify.refit.joins import Join, joins_of
from ramify.refit.moments import Moments, folded, over_ranks
from ramify.refit.norms import FullNorm, Spread, hold, slope_of
from ramify.refit.paired_runs import Runs
from ramify.refit.player import Player
from ramify.refit.readers import Course, Norm, Reader
from ramify.refit.reference import Reference
from ramify.refit.ridge import Solution, solve
from ramify.refit.routing import shared_courses
from ramify.refit.tapes import independent_of_data
from ramify.tracing.recorder import Ref, call, tensors_of

FOLDS = 2
"""The number of parts of the sample, for choosing λ by cross-validation."""


@dataclass(frozen=True)
class Refitted:
    """The result for one reader.

    Attributes:
        name: the name of its weight.
        strength: λ, in units of the mean diagonal; nan if nothing had to be done.
        before: mean square error of its output, over the variance of its target.
        after: the same with the new weight.
    """

    name: str
    strength: float
    before: float
    after: float


def refit_readers(
    model: nn.Module,
    reference: Reference,
    batches: Iterable[Any],
    forward: Forward = call,
    *,
    strengths: Sequence[float] | Mapping[str, Sequence[float]] | None = None,
    norms: bool = True,
    corrected: bool = True,
) -> list[Refitted]:
    """Give every linear reader the weight that best restores its output from its remaining input.

    Args:
        model: the edited network; its weights and norms change in place.
        reference: the original network, which has recorded every edit since.
        batches: a few hundred inputs; labels are not used.
        forward: runs a model on a batch.
        strengths: the λ to choose from, for all readers or by name; None, or a missing name: those
            of `ridge.solve`.
        norms: whether to give batch norms the statistics of their new inputs, and to restore the
            moments of their channels in the full network.
        corrected: whether a block makes up for what the stream that it adds to has lost.

    Returns:
        The result for each reader, in forward order.

    Raises:
        RamifyError: there is no batch, or the edited network runs other operations than the
            original.
    """
    sample = list(batches)
    if not sample:
        raise RamifyError("there is no batch to refit on: give a few hundred inputs")
    runs = Runs.recorded(model, reference, sample, forward)
    return Walk(
        model, reference, runs, strengths=strengths, norms=norms, corrected=corrected
    ).refit()


@dataclass(frozen=True)
class _Pair:
    """The replay of one batch in both networks."""

    old: Player
    new: Player
    old_course: Course
    new_course: Course
    old_joins: Mapping[int, Join]
    new_joins: Mapping[int, Join]


def _pair(old: Player, new: Player, courses: Sequence[Course]) -> _Pair:
    joins = [
        joins_of(player.tape, course.readers, course.norms)
        for player, course in zip((old, new), courses, strict=True)
    ]
    return _Pair(old, new, courses[0], courses[1], *joins)


class Walk:
    """One pass through both networks.

    Args:
        model: the edited network; its weights and norms change in place.
        reference: the original network, which has recorded every edit since.
        runs: the runs of both on each batch.
        strengths: the λ to choose from, for all readers or by name, as for `refit_readers`.
        norms: whether to give batch norms the statistics of their new inputs.
        corrected: whether a block makes up for what the stream that it adds to has lost.
        left_out: the names of weights and statistics that are not changed.
    """

    def __init__(
        self,
        model: nn.Module,
        reference: Reference,
        runs: Runs,
        *,
        strengths: Sequence[float] | Mapping[str, Sequence[float]] | None = None,
        norms: bool = True,
        corrected: bool = True,
        left_out: Collection[str] = (),
    ) -> None:
        self._left_out = frozenset(left_out)
        self._tensors = tensors_of(model)
        self._reference = reference
        courses, count = shared_courses(runs.courses), len(runs.old)
        self._pairs = [
            _pair(Player(a, reference.values), Player(b, self._tensors), both)
            for a, b, *both in zip(
                runs.old, runs.new, courses[:count], courses[count:], strict=True
            )
        ]
        self._strengths = strengths
        self._norms = norms
        self._corrected = corrected

    def refit(self) -> list[Refitted]:
        """Visit readers and norms in order: refit the readers, update the norms' statistics."""
        course = self._pairs[0].new_course
        out = self._left_out
        readers = [
            (r.position, self._reader, n) for n, r in enumerate(course.readers) if r.name not in out
        ]
        norms = [
            (r.position, self._norm, n) for n, r in enumerate(course.norms) if r.mean not in out
        ]
        done = []
        stations = [*readers, *norms] if self._norms else readers
        for _, visit, number in sorted(stations, key=operator.itemgetter(0)):
            found = visit(number)
            done += [] if found is None else [found]
        return done

    def losses(self) -> tuple[Tensor, Tensor] | None:
        """Continue to the end, where the runs are those of a loss.

        Returns:
            The losses (S,) of all samples in the original network and in the refitted one; None if
            a run depends on the data, and may differ with the new weights.
        """
        players = [*(pair.old for pair in self._pairs), *(pair.new for pair in self._pairs)]
        if not all(independent_of_data(player.tape) for player in players):
            return None
        made = []
        for player in players:
            player.advance(len(player.tape.ops))
            made.append(player.value(player.tape.outputs[0]))
        count = len(self._pairs)
        return torch.cat(made[:count]), torch.cat(made[count:])

    def _reader(self, place: int) -> Refitted | None:
        """Refit one reader; None if its outputs cannot be told apart."""
        first = self._pairs[0]
        reader, old = first.new_course.readers[place], first.old_course.readers[place]
        left = reader.entries.shape[1] > moments.WIDEST or self._tensors[reader.name].is_complex()
        matched = None if left else self._matched(reader, old)
        if matched is None or not all(_rows_alike(pair, place) for pair in self._pairs):
            return None
        if distributed.all_true(all(self._lost_nothing(pair, place) for pair in self._pairs)):
            return Refitted(reader.name, math.nan, 0.0, 0.0)
        outputs, times = matched
        groups, features, made = reader.entries.shape
        device = self._tensors[reader.name].device
        known = self._strengths_of(reader)
        parts = 1 if known is not None and len(known) == 1 else FOLDS
        folds = [Moments.zeros(groups, features, made, device) for _ in range(parts)]
        for number, pair in enumerate(self._pairs):
            reader, old = pair.new_course.readers[place], pair.old_course.readers[place]
            # The last reader's output is often large (logits): it is recomputed when it is used.
            pair.old.advance(old.position)
            pair.new.advance(reader.position)
            last = place == len(pair.old_course.readers) - 1
            y = (pair.old.fork() if last else pair.old).result(old.position, old.result)
            dim = reader.along(y.dim())
            if len(outputs) != y.shape[dim] or bool((outputs.diff() != 1).any()):
                y = y.index_select(dim, outputs)
            if bool((times != 1).any()):
                y = y * _along(times.to(y), dim, y.dim())
            if self._corrected:
                y = self._made_up(pair, reader, old, y, (dim, outputs))
            x = pair.new.value(reader.source)
            for fold, phi, target in folded(reader, number, parts, x, y):
                folds[fold].add(phi, target)
        return self._solve(reader, over_ranks(folds), first.new_course.behind.get(reader.position))

    def _lost_nothing(self, pair: _Pair, place: int) -> bool:
        """Whether a reader's input, and the stream that its output is added to, are unchanged."""
        reader, old = pair.new_course.readers[place], pair.old_course.readers[place]
        mine, theirs = pair.new_joins.get(reader.position), pair.old_joins.get(old.position)
        values = [(old.source, reader.source)]
        if self._corrected and mine is not None and theirs is not None:
            values.append((theirs.other, mine.other))
        positions = old.position, reader.position
        return self._untouched(reader.name, reader.bias) and _same(pair, positions, values)

    def _sees_the_same(self, pair: _Pair, place: int) -> bool:
        """Whether a norm and its input are unchanged."""
        norm, old = pair.new_course.norms[place], pair.old_course.norms[place]
        same = self._untouched(norm.mean, norm.variance, norm.scale, norm.shift)
        return same and _same(pair, (old.position, norm.position), [(old.source, norm.source)])

    def _untouched(self, *names: str | None) -> bool:
        """Whether these tensors, if present, have their original values."""
        values = self._reference.values
        return all(torch.equal(values[n], self._tensors[n]) for n in names if n is not None)

    def _made_up(
        self, pair: _Pair, reader: Reader, old: Reader, y: Tensor, where: tuple[int, Tensor]
    ) -> Tensor:
        """The reader's target, which restores the original value of the sum that it goes into."""
        mine = pair.new_joins.get(reader.position)
        theirs = pair.old_joins.get(old.position)
        if mine is None or theirs is None or (mine.norm is None) != (theirs.norm is None):
            return y
        dim, outputs = where
        full = [*y.shape]
        full[dim] = -1
        before = pair.old.value(theirs.other).reshape(full).index_select(dim, outputs)
        missing = before - pair.new.value(mine.other).reshape(y.shape)
        if mine.norm is None:
            return y + missing
        slope = slope_of(self._tensors, mine.norm)
        useful = slope.abs() > 1e-3 * slope.abs().max()
        inverse = torch.where(useful, 1 / slope, torch.zeros_like(slope))
        return y + missing * _along(inverse.to(y), dim, y.dim())

    def _solve(self, reader: Reader, folds: list[Moments], behind: Norm | None) -> Refitted:
        weight = self._tensors[reader.name].detach()
        old = weight.reshape(-1)[reader.entries]
        bias = None
        if reader.bias is not None and reader.bias_entries is not None:
            bias = self._tensors[reader.bias].detach().reshape(-1)[reader.bias_entries]
        elif behind is not None:
            bias = old.new_zeros(old.shape[0], old.shape[2])
        found = solve(folds, old, bias, self._strengths_of(reader))
        if found.after < found.before:
            self._write(reader, found, behind)
        return Refitted(reader.name, found.strength, found.before, found.after)

    def _strengths_of(self, reader: Reader) -> Sequence[float] | None:
        if isinstance(self._strengths, Mapping):
            return self._strengths.get(reader.name)
        return self._strengths

    def _write(self, reader: Reader, found: Solution, behind: Norm | None) -> None:
        _put(self._tensors[reader.name], reader.entries, found.weight)
        if reader.bias is not None and reader.bias_entries is not None:
            _put(self._tensors[reader.bias], reader.bias_entries, found.bias)
        elif behind is not None:  # the norm absorbs the bias by subtracting less
            mean = self._tensors[behind.mean]
            mean.detach().sub_(found.bias.reshape(-1).to(mean))

    def _matched(self, reader: Reader, old: Reader) -> tuple[Tensor, Tensor] | None:
        """The original output and the factor of each output."""
        number, factor = self._reference.entries(reader.name)
        before = number.reshape(-1)[reader.entries]  # (G, F, O), in the old parameter
        times = factor.reshape(-1)[reader.entries]
        where = torch.full((self._reference.values[reader.name].numel(),), -1)
        groups, features, made = old.entries.shape
        column = torch.arange(groups)[:, None, None] * made + torch.arange(made)
        where[old.entries.reshape(-1)] = column.expand(groups, features, made).reshape(-1)
        columns = where[before]
        alike = (columns == columns[:, :1]).all() and (times == times[:, :1]).all()
        if not bool(alike) or bool((columns < 0).any()):
            return None
        device = self._tensors[reader.name].device
        return columns[:, 0].reshape(-1).to(device), times[:, 0].reshape(-1).to(device)

    def _norm(self, place: int) -> None:
        """Give a norm the statistics of its new input, and restore the moments of its channels."""
        norm, before, now = self._pairs[0].new_course.norms[place], Spread(), Spread()
        if distributed.all_true(all(self._sees_the_same(pair, place) for pair in self._pairs)):
            return
        for pair in self._pairs:
            sides = ((pair.old, pair.old_course, before), (pair.new, pair.new_course, now))
            for player, course, spread in sides:
                own = course.norms[place]
                player.advance(own.position)
                spread.add(player.value(own.source))
        number, _ = self._reference.entries(norm.mean)
        left = number.reshape(-1)  # the remaining channels of the full network

        def held(name: str | None, otherwise: float) -> Tensor:
            values = self._reference.values
            if name is None:
                return torch.full_like(values[norm.mean][left], otherwise, dtype=torch.float64)
            return values[name].double()[left]

        seen_mean, seen_variance = before.moments()
        full = FullNorm(
            held(norm.mean, 0.0),
            held(norm.variance, 1.0),
            held(norm.scale, 1.0),
            held(norm.shift, 0.0),
            seen_mean[left],
            seen_variance[left],
        )
        hold(self._tensors, norm, full, now)


def _same(pair: _Pair, positions: tuple[int, int], values: Iterable[tuple[Ref, Ref]]) -> bool:
    """Whether both networks have the same values before operations at these positions."""
    pair.old.advance(positions[0])
    pair.new.advance(positions[1])
    return all(torch.equal(pair.old.value(old), pair.new.value(new)) for old, new in values)


def _rows_alike(pair: _Pair, place: int) -> bool:
    """Whether a reader's result has only lost outputs, and no channels along another axis."""
    readers = pair.old_course.readers[place], pair.new_course.readers[place]
    tapes = pair.old.tape, pair.new.tape
    shapes = [list(t.shape(reader.result)) for t, reader in zip(tapes, readers, strict=True)]
    for shape, reader in zip(shapes, readers, strict=True):
        del shape[reader.along(len(shape))]
    return shapes[0] == shapes[1]


def _along(vector: Tensor, dim: int, rank: int) -> Tensor:
    shape = [1] * rank
    shape[dim] = -1
    return vector.view(shape)


def _put(tensor: Tensor, entries: Tensor, values: Tensor) -> None:
    """Write values at numbered entries of a parameter."""
    with torch.no_grad():
        flat = tensor.detach().reshape(-1).clone()
        flat[entries.reshape(-1)] = values.reshape(-1).to(flat)
        tensor.detach().copy_(flat.view(tensor.shape))
