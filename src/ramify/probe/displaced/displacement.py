"""Twin reads: how a finite binary split of every channel at once changes what each consumer reads.

Channel c of a group is replaced by two copies whose producers' kernels are θ_c + v_c and θ_c − v_c,
each read with half the weight. With every producer's input held, consumer k then reads

    Δa_k = ½ [σ_k(y_k + Σ_j v_j * x_j) + σ_k(y_k − Σ_j v_j * x_j)] − σ_k(y_k)

in place of a_k (DESIGN: twin reads). On a path conv-norm-ReLU this costs one convolution forward
and one to the kernel backward, beside the snapshot's own two.

Shape letters: `S` samples, `W` channels of a group.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ramify.errors import RamifyError
from ramify.probe.displaced.even import Even, Whole
from ramify.probe.displaced.parts import Pass, parts_of, read_values
from ramify.probe.displaced.product import Change, factors_of, share_of
from ramify.probe.displaced.run import Reading, even_parts
from ramify.probe.recorded_pass import Snapshot
from ramify.probe.splitting_matrix import Target, apart, written_out
from ramify.tracing import ChannelGraph
from ramify.tracing.dims import Atom, Prod, Sum, Term, atoms_of, resolve
from ramify.tracing.flow import DimFlow
from ramify.tracing.propagate import propagate
from ramify.tracing.recorder import Op, Ref, Tape


@dataclass(frozen=True)
class Reads:
    """What a labelled tape says of the reads of the probed groups.

    Attributes:
        passes: the groups that are followed together, and their reads.
        at: operation -> the tensor it reads or, a product of activations, makes; of all passes.
        made: operations where a probed kernel meets an activation.
        values: the tensors whose values are asked for.
        last: tensor -> the last operation that reads it.
        samples: the axis of the samples.
    """

    passes: Sequence[Pass]
    at: dict[int, Ref]
    made: list[int]
    values: set[int]
    last: dict[int, int]
    samples: Atom


class Twins:
    """Finds and follows the twin reads of some groups on snapshots of one model.

    Args:
        graph: the traced model.
        targets: the groups to follow.

    Attributes:
        passes: the targets that are followed together, by number.
    """

    def __init__(self, graph: ChannelGraph, targets: Sequence[Target]) -> None:
        self._graph = graph
        self._targets = targets
        self.passes = apart(graph, targets)
        self._known: tuple[Any, Reads] | None = None

    def snapshot(self, run: Callable[[], Tensor], batch: Any) -> Snapshot:
        """One run of the loss, with all that is read of it.

        Args:
            run: gives the losses, shape (S,).
            batch: what the run's inputs are taken from.

        Returns:
            The snapshot. Where a product of queries and keys is read itself, attention runs as
            plain operations, one of which makes it.
        """
        names = dict.fromkeys(part.name for target in self._targets for part in target.kernels)
        multiplied = any(target.factor for target in self._targets)
        with written_out(self._graph.model) if multiplied else contextlib.nullcontext():
            return Snapshot(self._graph.model, run, batch, list(names))

    def reads(self, tape: Tape, samples: int) -> Reads:
        """The reads on a tape; labelled once for tapes that run the same operations.

        Args:
            tape: of a snapshot.
            samples: S.

        Returns:
            The reads.

        Raises:
            RamifyError: the samples or the groups cannot be told apart, or a product of
                activations is fused with what follows.
        """
        ops = [(op.func, op.args, op.kwargs, op.outputs) for op in tape.ops]
        key = (samples, ops, tape.shapes, tape.names)
        if self._known is None or self._known[0] != key:
            self._known = (key, self._label(tape, samples))
        return self._known[1]

    def split(
        self,
        snapshot: Snapshot,
        reads: Reads,
        gradients: Mapping[int, Tensor],
        displaced: Sequence[Mapping[str, Tensor]],
    ) -> Iterator[dict[int, Tensor]]:
        """p_s of a binary split of every channel, differentiable in the displacements.

        What belongs together comes together: to go back through it before the next is asked for
        frees its memory.

        Args:
            snapshot: one batch.
            reads: of the snapshot's tape.
            gradients: of each sample's loss at each read.
            displaced: for each pass: producer parameter -> displacement v, of its shape.

        Yields:
            Number of a target -> Σ_k ⟨Δa_k, g_k⟩ by sample and channel, (S, W); absent is zero.
        """
        for way, moves in zip(reads.passes, displaced, strict=True):
            for changes in even_parts(snapshot, way, reads.last, moves):
                yield self._sums(reads, way, changes, gradients)

    def removed(
        self, snapshot: Snapshot, reads: Reads, gradients: Mapping[int, Tensor]
    ) -> dict[int, Tensor]:
        """p_s of removing each channel, Δa_k = −a_k.

        Args:
            snapshot: one batch.
            reads: of the snapshot's tape.
            gradients: of each sample's loss at each read.

        Returns:
            Number of a target -> p_s, as from :meth:`split`.
        """
        found: dict[int, Tensor] = {}
        for way in reads.passes:
            kept = {n: self._kept(snapshot, way, n) for n in way.cuts if n in gradients}
            sums = self._sums(reads, way, kept, gradients)
            found.update((number, -part) for number, part in sums.items())
        return found

    def _kept(self, snapshot: Snapshot, way: Pass, position: int) -> Reading:
        """What is read now."""
        factors = way.products.get(position)
        if factors is None:
            return Whole((snapshot.value(way.cuts[position], position),))
        left, right = (snapshot.value(ref, position) for ref in factors)
        return Change(((share_of(snapshot.tape.ops[position]), left, right),))

    def _label(self, tape: Tape, samples: int) -> Reads:
        old = [target.group.atom for target in self._targets]
        traced = self._graph.flow
        flow = DimFlow(traced.param_shapes, traced.aliases)
        flow.param_dims, atoms = copy.deepcopy((traced.param_dims, old))  # the graph's own stay
        axis = Atom(samples)
        propagate(flow, tape, axis)
        groups = self._groups(atoms)
        passes = [
            self._pass(flow, {atom: n for atom, n in groups.items() if n in numbers})
            for numbers in self.passes
        ]
        samples_axis = resolve(axis)
        if not isinstance(samples_axis, Atom):
            raise RamifyError(
                "the forward cuts the batch in pieces, and the samples cannot be told apart: give "
                "the model whole batches"
            )
        at: dict[int, Ref] = {}
        values: set[int] = set()
        for way in passes:
            at.update(way.cuts)
            values.update(*(read_values(tape.ops[n], ref) for n, ref in way.cuts.items()))
            values.update(*(part.values for part in way.parts))
        last = {ref.index: n for n, op in enumerate(tape.ops) for ref in op.inputs()}
        return Reads(passes, at, self._made(flow), values, last, samples_axis)

    def _made(self, flow: DimFlow) -> list[int]:
        """The operations where a probed kernel meets an activation."""
        names = _names(self._targets)
        moving = {i for i, name in flow.tape.names.items() if name in names}
        made = []
        for position, op in enumerate(flow.tape.ops):
            if any(ref.index in moving for ref in op.inputs()):
                if all(flow.is_weight(ref) for ref in op.results()):
                    moving.update(ref.index for ref in op.results())
                else:
                    made.append(position)
        return made

    def _pass(self, flow: DimFlow, groups: dict[Atom, int]) -> Pass:
        """The reads of the groups that are followed together."""
        tape, cuts, terms, products = flow.tape, {}, {}, {}
        for read in flow.contractions:
            numbers = [groups[atom] for atom in atoms_of(read.read) if atom in groups]
            if not numbers or (read.names and flow.is_weight(read.source)):
                continue
            op, seen = tape.ops[read.op], read.source
            cuts[read.op] = seen
            if not read.names:
                factors = factors_of(op)
                if factors is None:
                    raise RamifyError(self._fused(op, numbers[0]))
                cuts[read.op], seen = op.results()[0], factors[0]
                products[read.op] = factors
            terms[read.op] = [resolve(term) for term in flow.dims(seen)]
        inside = {
            position: [groups[atom] for atom in atoms_of(found) if atom in groups]
            for position, found in terms.items()
        }
        names = _names([self._targets[number] for number in groups.values()])
        return Pass(cuts, products, terms, parts_of(tape, cuts, names, inside), groups)

    def _fused(self, op: Op, number: int) -> str:
        where = f"module '{op.module}'" if op.module else "the model's own forward"
        return (
            f"{op.name} in {where} sums over the channels of "
            f"'{self._targets[number].group.name}' and does more in the same operation, and what "
            "each gains cannot be told: let the forward leave the choice of the attention kernel "
            "to torch, or write the product out"
        )

    def _groups(self, atoms: Sequence[Atom]) -> dict[Atom, int]:
        found: dict[Atom, int] = {}
        for number, atom in enumerate(atoms):
            term = resolve(atom)
            if not isinstance(term, Atom) or term in found:
                name = self._targets[number].group.name
                raise RamifyError(
                    f"the loss joins or cuts the channels of '{name}', and what each gains cannot "
                    "be told: take what reads the weights out of the loss"
                )
            found[term] = number
        return found

    def _sums(
        self,
        reads: Reads,
        way: Pass,
        changes: Mapping[int, Reading],
        gradients: Mapping[int, Tensor],
    ) -> dict[int, Tensor]:
        sums: dict[int, Tensor] = {}
        for position, gradient in gradients.items():
            if (change := changes.get(position)) is not None:
                dots = self._dots(reads, way, position, *change.against(gradient))
                for number, part in dots:
                    sums[number] = sums[number] + part if number in sums else part
        return sums

    def _dots(
        self, reads: Reads, way: Pass, position: int, change: Even, gradient: Tensor
    ) -> Iterator[tuple[int, Tensor]]:
        """⟨change, gradient⟩ by sample and channel, for each target that lies in a read."""
        groups = way.groups
        for (right, *parts), terms in _pieces((gradient, *change.parts), way.terms[position]):
            channels = [(d, groups[t]) for d, t in enumerate(terms) if t in groups]
            if not channels:
                continue
            rows = [d for d, term in enumerate(terms) if term is reads.samples]
            self._check(rows, [number for _, number in channels], reads.samples.size)
            dim, number = channels[0]
            piece = type(change)(tuple(parts))
            yield number, piece.dot(right, rows[0] if rows else None, dim)

    def _check(self, rows: Sequence[int], numbers: Sequence[int], samples: int) -> None:
        name = self._targets[numbers[0]].group.name
        if len(numbers) > 1:
            raise RamifyError(
                f"one layer sums over the channels of '{name}' or "
                f"'{self._targets[numbers[1]].group.name}' and carries the other: what each of "
                "them gains cannot be told apart, so this network is not grown by twin reads"
            )
        if len(rows) > 1 or (not rows and samples > 1):
            raise RamifyError(
                f"a layer that reads '{name}' mixes the samples, and what one sample loses cannot "
                "be told: let every tensor of a batch have the samples first"
            )


def _names(targets: Sequence[Target]) -> frozenset[str]:
    return frozenset(part.name for target in targets for part in target.kernels)


def _pieces(
    tensors: tuple[Tensor, ...], terms: Sequence[Term]
) -> Iterator[tuple[tuple[Tensor, ...], Sequence[Term]]]:
    """Tensors laid out alike, cut and unfolded until every dimension is one axis."""
    for dim, term in enumerate(terms):
        before, after = terms[:dim], terms[dim + 1 :]
        if isinstance(term, Prod):
            sizes = [part.size for part in term.parts]
            unfolded = tuple(tensor.unflatten(dim, sizes) for tensor in tensors)
            yield from _pieces(unfolded, [*before, *term.parts, *after])
            return
        if isinstance(term, Sum):
            start = 0
            for part in term.parts:
                cut = tuple(tensor.narrow(dim, start, part.size) for tensor in tensors)
                yield from _pieces(cut, [*before, part, *after])
                start += part.size
            return
    yield tensors, terms
