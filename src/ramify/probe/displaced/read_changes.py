"""How splitting or removing every channel at once changes the input of each consumer.

Channel c of a group is replaced by two copies whose producers' kernels are θ_c + v_c and θ_c − v_c,
each read with half the weight. With every producer's input fixed, the read of consumer k changes by

    Δa_k = ½ [σ_k(y_k + Σ_j v_j * x_j) + σ_k(y_k − Σ_j v_j * x_j)] − σ_k(y_k)

On a path conv-norm-ReLU this costs one forward convolution and one convolution for the kernel's
gradient, in addition to the two of the recorded pass.

Shape letters: `S` samples, `W` channels of a group.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ramify.errors import RamifyError, module_in_words
from ramify.probe.displaced.along_tape import ReadChange, read_changes
from ramify.probe.displaced.components import TargetSet, components_of, read_values
from ramify.probe.displaced.even import EvenPart, EvenTensor
from ramify.probe.displaced.product import ProductChange, alpha_of, factors_of
from ramify.probe.reads import follow_dimensions, sums_over
from ramify.probe.recorded_pass import RecordedPass
from ramify.probe.replay import decomposed
from ramify.probe.targets import Target, independent_sets
from ramify.tracing import ChannelGraph
from ramify.tracing.dims import Atom, Prod, Sum, Term, atoms_of, resolve
from ramify.tracing.flow import DimFlow
from ramify.tracing.recorder import Op, Ref, Tape


@dataclass(frozen=True)
class LabelledReads:
    """The reads of the probed groups on a labelled tape.

    Attributes:
        sets: the sets of groups that are followed together, and their reads.
        reads: operation -> the tensor it reads or, for a product of activations, its output; of all
            sets.
        made: operations in which a probed kernel is applied to an activation.
        values: the tensors whose values are needed.
        last: tensor -> the last operation that reads it.
        samples: the axis of the samples.
    """

    sets: Sequence[TargetSet]
    reads: dict[int, Ref]
    made: list[int]
    values: set[int]
    last: dict[int, int]
    samples: Atom


class ReadChanges:
    """Finds the readers of some groups of a model, and the changes of their reads by edits.

    Args:
        graph: the traced model.
        targets: the groups to follow.

    Attributes:
        sets: the targets that are followed together, by number.
    """

    def __init__(self, graph: ChannelGraph, targets: Sequence[Target]) -> None:
        self._graph = graph
        self._targets = targets
        self.sets = independent_sets(graph, targets)
        self._known: tuple[Any, list[Op], LabelledReads] | None = None

    def record(self, run: Callable[[], Tensor], batch: Any) -> RecordedPass:
        """One run of the loss, with all values and gradients that are needed.

        Args:
            run: gives the losses, shape (S,).
            batch: the batch that the run uses.

        Returns:
            The recorded pass. If a product of queries and keys is itself read, attention runs as
            plain operations, one of which gives the product.
        """
        names = dict.fromkeys(kernel.name for target in self._targets for kernel in target.kernels)
        multiplied = any(target.multiplied for target in self._targets)
        with decomposed(self._graph.model) if multiplied else contextlib.nullcontext():
            return RecordedPass(self._graph.model, run, batch, list(names))

    def label(self, tape: Tape, samples: int) -> LabelledReads:
        """The reads on a tape; labelled once for tapes with the same operations.

        Args:
            tape: the tape of a recorded pass.
            samples: S.

        Returns:
            The reads.

        Raises:
            RamifyError: the samples or the groups cannot be identified, or a product of activations
                is fused with later operations.
        """
        ops = [(op.func, op.args, op.kwargs, op.outputs) for op in tape.ops]
        key = (samples, ops, tape.shapes, tape.names)
        if self._known is None or self._known[0] != key:
            self._known = (key, tape.ops, self._label(tape, samples))
        # Equal operations already have their arguments and results labelled.
        tape.ops = self._known[1]
        return self._known[2]

    def split(
        self,
        recorded: RecordedPass,
        labelled: LabelledReads,
        gradients: Mapping[int, Tensor],
        displacements: Sequence[Mapping[str, Tensor]],
    ) -> Iterator[dict[int, Tensor]]:
        """p_s of a binary split of every channel, differentiable in the displacements.

        The results of each component come together: backpropagate through them before requesting
        the next, to free their memory.

        Args:
            recorded: one batch.
            labelled: its reads.
            gradients: the gradients of each sample's loss at each read.
            displacements: for each set: producer parameter -> displacement v, of its shape.

        Yields:
            Number of a target -> Σ_k ⟨Δa_k, g_k⟩ by sample and channel, (S, W); absent if zero.
        """
        for together, own in zip(labelled.sets, displacements, strict=True):
            for changes in read_changes(recorded, together, labelled.last, own):
                yield self._sums(labelled, together, changes, gradients)

    def removed(
        self, recorded: RecordedPass, labelled: LabelledReads, gradients: Mapping[int, Tensor]
    ) -> dict[int, Tensor]:
        """p_s of removing each channel, Δa_k = −a_k.

        Args:
            recorded: one batch.
            labelled: its reads.
            gradients: the gradients of each sample's loss at each read.

        Returns:
            Number of a target -> p_s, as from :meth:`split`.
        """
        found: dict[int, Tensor] = {}
        for together in labelled.sets:
            now = {n: _read_now(recorded, together, n) for n in together.reads if n in gradients}
            sums = self._sums(labelled, together, now, gradients)
            found.update((number, -part) for number, part in sums.items())
        return found

    def _label(self, tape: Tape, samples: int) -> LabelledReads:
        axis = Atom(samples)
        flow, groups = follow_dimensions(self._graph, tape, [t.group for t in self._targets], axis)
        sets = [
            self._set(flow, {atom: n for atom, n in groups.items() if n in numbers})
            for numbers in self.sets
        ]
        samples_axis = resolve(axis)
        if not isinstance(samples_axis, Atom):
            raise RamifyError(
                "the forward divides the batch into parts, and its samples cannot be told apart: "
                "let it run on whole batches"
            )
        # What all sets together need from the recorded pass.
        reads: dict[int, Ref] = {}
        values: set[int] = set()
        for together in sets:
            reads.update(together.reads)
            values.update(*(read_values(tape.ops[n], ref) for n, ref in together.reads.items()))
            values.update(*(component.values for component in together.components))
        last = {ref.index: n for n, op in enumerate(tape.ops) for ref in op.inputs()}
        return LabelledReads(sets, reads, self._made(flow), values, last, samples_axis)

    def _made(self, flow: DimFlow) -> list[int]:
        """The operations in which a probed kernel is applied to an activation."""
        names = _names(self._targets)
        # Kernels may be moved, scaled or concatenated before that.
        moving = {i for i, name in flow.tape.names.items() if name in names}
        made = []
        for position, op in enumerate(flow.tape.ops):
            if any(ref.index in moving for ref in op.inputs()):
                if all(flow.is_weight(ref) for ref in op.results()):
                    moving.update(ref.index for ref in op.results())
                else:
                    made.append(position)
        return made

    def _set(self, flow: DimFlow, groups: dict[Atom, int]) -> TargetSet:
        """The reads of the groups that are followed together."""
        tape, reads, terms, products = flow.tape, {}, {}, {}
        for read, axes in sums_over(flow, groups):
            op, seen = tape.ops[read.op], read.source
            reads[read.op] = seen
            if not read.names:  # a product of activations is read at its output
                factors = factors_of(op)
                if factors is None:
                    raise RamifyError(self._fused(op, groups[axes[0]]))
                reads[read.op], seen = op.results()[0], factors[0]
                products[read.op] = factors
            terms[read.op] = [resolve(term) for term in flow.dims(seen)]
        # The groups in the read tensor, which the reader joins into one component.
        inside = {
            position: [groups[atom] for atom in atoms_of(found) if atom in groups]
            for position, found in terms.items()
        }
        names = _names([self._targets[number] for number in groups.values()])
        return TargetSet(reads, products, terms, components_of(tape, reads, names, inside), groups)

    def _fused(self, op: Op, number: int) -> str:
        where = module_in_words(op.module)
        return (
            f"{op.name} in {where} sums over the channels of "
            f"'{self._targets[number].group.name}' and does more in the same operation, so that "
            "the effect of each is not known: let the forward leave the choice of the attention "
            "kernel to torch, or write the product out"
        )

    def _sums(
        self,
        labelled: LabelledReads,
        together: TargetSet,
        changes: Mapping[int, ReadChange],
        gradients: Mapping[int, Tensor],
    ) -> dict[int, Tensor]:
        """Σ_k ⟨change, gradient⟩ by sample and channel, for each target."""
        sums: dict[int, Tensor] = {}
        for position, gradient in gradients.items():
            if (change := changes.get(position)) is not None:
                dots = self._dots(labelled, together, position, *change.against(gradient))
                for number, part in dots:
                    sums[number] = sums[number] + part if number in sums else part
        return sums

    def _dots(
        self,
        labelled: LabelledReads,
        together: TargetSet,
        position: int,
        change: EvenPart,
        gradient: Tensor,
    ) -> Iterator[tuple[int, Tensor]]:
        """⟨change, gradient⟩ by sample and channel, for each target in a read."""
        groups, whole = together.groups, (gradient, *change.made_of)
        for (right, *made_of), terms in _pieces(whole, together.terms[position]):
            channels = [(d, groups[t]) for d, t in enumerate(terms) if t in groups]
            if not channels:
                continue
            rows = [d for d, term in enumerate(terms) if term is labelled.samples]
            self._check(rows, [number for _, number in channels], labelled.samples.size)
            dim, number = channels[0]
            piece = type(change)(tuple(made_of))
            yield number, piece.dot(right, rows[0] if rows else None, dim)

    def _check(self, rows: Sequence[int], numbers: Sequence[int], samples: int) -> None:
        name = self._targets[numbers[0]].group.name
        if len(numbers) > 1:
            raise RamifyError(
                f"one layer sums over the channels of '{name}' or "
                f"'{self._targets[numbers[1]].group.name}' and carries the other, so that their "
                "effects cannot be told apart: use another method, such as ramify.RandomSplit"
            )
        if len(rows) > 1 or (not rows and samples > 1):
            raise RamifyError(
                f"a layer that reads '{name}' mixes the samples, or takes only some of them as an "
                "expert does, so that the effect on one sample is not known: let every tensor of a "
                "batch have the samples first, or use a method that does not tell samples apart, "
                "such as ramify.Auto"
            )


def _read_now(recorded: RecordedPass, together: TargetSet, position: int) -> ReadChange:
    """The read in the unedited network."""
    factors = together.products.get(position)
    if factors is None:
        return EvenTensor((recorded.value(together.reads[position], position),))
    left, right = (recorded.value(ref, position) for ref in factors)
    return ProductChange(((alpha_of(recorded.tape.ops[position]), left, right),))


def _names(targets: Sequence[Target]) -> frozenset[str]:
    return frozenset(kernel.name for target in targets for kernel in target.kernels)


def _pieces(
    tensors: tuple[Tensor, ...], terms: Sequence[Term]
) -> Iterator[tuple[tuple[Tensor, ...], Sequence[Term]]]:
    """Tensors of one layout, cut and unflattened until every dimension is one axis."""
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
