"""Twin reads: how a finite binary split of every channel at once changes what each consumer reads.

Channel c of a group is replaced by two copies whose producers' kernels are θ_c + v_c and θ_c − v_c,
each read with half the weight. With every producer's input held, consumer k then reads

    Δa_k = ½ [σ_k(y_k + Σ_j v_j * x_j) + σ_k(y_k − Σ_j v_j * x_j)] − σ_k(y_k)

in place of a_k (DESIGN: twin reads). On a path conv-norm-ReLU this costs one convolution forward
and one to the kernel backward, beside the snapshot's own two.

Shape letters: `S` samples, `W` channels of a group.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ramify.errors import RamifyError
from ramify.probe import Target
from ramify.snapshot import Snapshot
from ramify.trace import ChannelGraph
from ramify.trace.labels import Labels
from ramify.trace.recorder import Ref, Tape
from ramify.trace.terms import Atom, Prod, Sum, Term, atoms_of, resolve
from ramify.twin.even import Even, Whole
from ramify.twin.parts import Part, parts_of
from ramify.twin.run import even_parts


@dataclass(frozen=True)
class Reads:
    """What a labelled tape says of the reads of the probed groups.

    Attributes:
        at: operation -> the tensor it reads, for every sum over probed channels with a weight.
        terms: operation -> that tensor's terms.
        made: operations where a probed kernel meets an activation.
        parts: what is followed by itself.
        values: the tensors whose values are asked for.
        last: tensor -> the last operation that reads it.
        samples: the axis of the samples.
        groups: axis of a probed group -> its number.
    """

    at: dict[int, Ref]
    terms: dict[int, list[Term]]
    made: list[int]
    parts: list[Part]
    values: set[int]
    last: dict[int, int]
    samples: Atom
    groups: dict[Atom, int]


class Twins:
    """Finds and follows the twin reads of some groups on snapshots of one model.

    Args:
        graph: the traced model.
        targets: the groups to follow.
    """

    def __init__(self, graph: ChannelGraph, targets: Sequence[Target]) -> None:
        self._graph = graph
        self._targets = targets
        self._names = frozenset(part.name for target in targets for part in target.kernels)
        self._known: tuple[Any, Reads] | None = None

    def reads(self, tape: Tape, samples: int) -> Reads:
        """The reads on a tape; labelled once for tapes that run the same operations.

        Args:
            tape: of a snapshot.
            samples: S.

        Returns:
            The reads.

        Raises:
            RamifyError: the samples or the groups cannot be told apart.
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
        displaced: Mapping[str, Tensor],
    ) -> Iterator[dict[int, Tensor]]:
        """p_s of a binary split of every channel, differentiable in the displacements.

        What belongs together comes together: to go back through it before the next is asked for
        frees its memory.

        Args:
            snapshot: one batch.
            reads: of the snapshot's tape.
            gradients: of each sample's loss at each read.
            displaced: producer parameter -> displacement v, of its shape.

        Yields:
            Number of a target -> Σ_k ⟨Δa_k, g_k⟩ by sample and channel, (S, W); absent is zero.
        """
        for evens in even_parts(snapshot, reads.at, reads.parts, reads.last, displaced):
            yield self._sums(reads, evens, gradients)

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
        reading = {n: Whole((snapshot.value(reads.at[n], n),)) for n in gradients}
        kept = self._sums(reads, reading, gradients)
        return {number: -part for number, part in kept.items()}

    def _label(self, tape: Tape, samples: int) -> Reads:
        old = [target.group.atom for target in self._targets]
        labels = Labels(self._graph.labels.names, self._graph.labels.aliases)
        labels.slots, atoms = copy.deepcopy((self._graph.labels.slots, old))  # the graph's stay
        axis = Atom(samples)
        labels.run(tape, axis)
        groups = self._groups(atoms)
        at, terms = {}, {}
        for read in labels.contractions:
            summed = not groups.keys().isdisjoint(atoms_of(read.read))
            if read.names and summed and not labels.is_weight(read.source):
                at[read.op] = read.source
                terms[read.op] = [resolve(term) for term in labels.of(read.source)]
        made, moving = [], {i for i, name in tape.names.items() if name in self._names}
        last: dict[int, int] = {}
        for position, op in enumerate(tape.ops):
            inputs = op.inputs()
            last.update((ref.index, position) for ref in inputs)
            if any(ref.index in moving for ref in inputs):
                if all(labels.is_weight(ref) for ref in op.results()):
                    moving.update(ref.index for ref in op.results())
                else:
                    made.append(position)
        samples_axis = resolve(axis)
        if not isinstance(samples_axis, Atom):
            raise RamifyError(
                "the forward cuts the batch in pieces, and the samples cannot be told apart: give "
                "the model whole batches"
            )
        numbers = {
            position: [groups[atom] for atom in atoms_of(found) if atom in groups]
            for position, found in terms.items()
        }
        parts = parts_of(tape, at, self._names, numbers)
        values = {ref.index for ref in at.values()}.union(*(part.values for part in parts))
        return Reads(at, terms, made, parts, values, last, samples_axis, groups)

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
        self, reads: Reads, changes: Mapping[int, Even], gradients: Mapping[int, Tensor]
    ) -> dict[int, Tensor]:
        sums: dict[int, Tensor] = {}
        for position, gradient in gradients.items():
            if (change := changes.get(position)) is not None:
                for number, part in self._dots(reads, position, change, gradient):
                    sums[number] = sums[number] + part if number in sums else part
        return sums

    def _dots(
        self, reads: Reads, position: int, change: Even, gradient: Tensor
    ) -> Iterator[tuple[int, Tensor]]:
        """⟨change, gradient⟩ by sample and channel, for each target that lies in a read."""
        for (right, *parts), terms in _pieces((gradient, *change.parts), reads.terms[position]):
            channels = [(d, reads.groups[t]) for d, t in enumerate(terms) if t in reads.groups]
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
