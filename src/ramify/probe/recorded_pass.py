"""One forward and one backward pass of the user's loss, recording all that a probe needs.

A plain training step takes three convolutions for each one of the network: forward, gradient of the
input, gradient of the weight. A recorded pass takes the first two.
"""

from __future__ import annotations

import bisect
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node

from ramify.errors import derivatives
from ramify.probe.loss import check_follows
from ramify.probe.replay import replay
from ramify.tracing.kept_state import giving_back
from ramify.tracing.recorder import Op, Ref, Tape, record, tensors_of
from ramify.tracing.writes import storage_of

ReceiveGradient = Callable[[int, Tensor], None]
"""Receives the number of an operation and the gradient at its read."""


class RecordedPass:
    """The values of all tensors in one run of the loss, and the gradients at chosen reads.

    Args:
        model: the network; it is in eval mode for the run, so that norms keep their statistics.
        run: gives the losses, shape (S,).
        batch: the batch that the run uses.
        names: parameters whose effect is probed: autograd records from them on.
    """

    def __init__(
        self, model: nn.Module, run: Callable[[], Tensor], batch: Any, names: Sequence[str]
    ) -> None:
        self._values: dict[int, Tensor] = {}
        self._memory: dict[int, list[int]] = {}
        self._overwritten: dict[int, list[tuple[int, Tensor]]] = {}
        self._nodes: list[Node | None] = []
        self._fresh: Tensor | None = None
        tensors = tensors_of(model)
        self.constants = {name: tensor.detach() for name, tensor in tensors.items()}
        asked = [tensors[name] for name in names if not tensors[name].requires_grad]
        steps = [("a flag", partial(parameter.requires_grad_, False)) for parameter in asked]
        with giving_back(lambda: steps):
            for parameter in asked:  # frozen networks are probed too
                parameter.requires_grad_()
            self.tape = record(
                model, run, batch, watch=self._after, before=self._before, draws=True, grad=True
            )
        self._settle()
        self._losses = self.tape.results[0]
        self.losses = self._losses.detach()
        for index, name in self.tape.names.items():
            self._values[index] = self.constants[name]
        self._values.update(self.tape.constants)

    # Callbacks of the recorder, before and after each operation.

    def _before(self, position: int, written: Sequence[Tensor]) -> None:
        self._settle()
        for memory in {storage_of(tensor) for tensor in written}:
            for index in self._memory.get(memory, []):
                old = self._overwritten.setdefault(index, [])
                old.append((position, self._values[index].detach().clone()))

    def _after(self, op: Op, results: Sequence[Tensor]) -> None:
        for ref, tensor in zip(op.results(), results, strict=True):
            if ref.index not in self._values:
                self._memory.setdefault(storage_of(tensor), []).append(ref.index)
            self._values[ref.index] = tensor
        self._nodes.append(None)
        self._fresh = results[0] if results else None

    def _settle(self) -> None:
        """Autograd sets a result's node after the operation has returned, so it is read later."""
        if self._fresh is not None:
            self._nodes[-1] = self._fresh.grad_fn
            self._fresh = None

    def keep(self, indices: Collection[int]) -> None:
        """Free all other values, so that the backward pass frees their memory as it proceeds."""
        for held in (self._values, self._overwritten):
            for index in held.keys() - indices:
                del held[index]

    def value(self, ref: Ref, position: int) -> Tensor:
        """A tensor's value as this operation found it, or only its shape if it was not kept."""
        old = self._overwritten.get(ref.index)
        if old is not None:
            place = bisect.bisect_left(old, position, key=lambda entry: entry[0])
            if place < len(old):
                return old[place][1]
        known = self._values.get(ref.index)
        if known is None:
            shape, dtype = self.tape.shapes[ref.index], self.tape.dtypes[ref.index]
            return torch.empty(shape, dtype=dtype, device="meta")
        return known.detach()

    def shared(self, ref: Ref) -> list[int]:
        """The other tensors of the tape in the same memory, which a write would change too."""
        together = self._memory.get(storage_of(self._values[ref.index]), [])
        return [index for index in together if index != ref.index]

    def gradients(
        self, reads: Mapping[int, Ref], made: Sequence[int], take: ReceiveGradient | None = None
    ) -> dict[int, Tensor]:
        """The gradient of each sample's loss at each consumer's own read; the graph is consumed.

        Args:
            reads: operation -> the tensor that it reads, or one that it outputs, which is then read
                by all later operations.
            made: the operations from which on something is probed.
            take: receives each operation with its gradient as soon as it is computed, so that they
                need not all be kept.

        Returns:
            Operation -> gradient, shaped as the read; absent if the loss does not depend on it, the
            read is zero, or `take` received it.
        """
        edges = [GradientEdge(node, 0) for p in made if (node := self._nodes[p]) is not None]
        if not reads:
            return {}
        hooked = {p: node for p, ref in reads.items() if (node := self._own_node(p, ref))}
        found: dict[int, Tensor] = {}
        take = take or found.__setitem__
        if len(edges) < len(made) or len(hooked) < len(reads):
            for position, gradient in self._replayed(reads).items():
                take(position, gradient)
            return found
        check_follows(self._losses)
        handles = []
        for position, node in hooked.items():
            place = _argument(self.tape.ops[position], reads[position])

            def keep(
                inputs: Sequence[Tensor | None],
                outputs: Sequence[Tensor | None],
                position: int = position,
                place: int | None = place,
            ) -> None:
                gradient = outputs[0] if place is None else inputs[place]
                if gradient is not None:
                    take(position, gradient.detach())

            handles.append(node.register_hook(keep))
        try:
            total = torch.ones_like(self._losses)  # their sum: a new one would need grad mode
            with derivatives():
                torch.autograd.grad(self._losses, edges, total, allow_unused=True)
        finally:
            for handle in handles:
                handle.remove()
        return found

    def _own_node(self, position: int, read: Ref) -> Node | None:
        """The operation's own node: one edge per tensor argument, one of them to the read."""
        node, op = self._nodes[position], self.tape.ops[position]
        if node is None or len(node.next_functions) != len(_tensor_arguments(op)):
            return None
        place = _argument(op, read)
        if place is None:
            return node
        # A read that depends on no parameter has no edge; if it is zero (the first state of a
        # recurrence) its gradient is not needed.
        linked = node.next_functions[place][0] is not None
        return node if linked or not bool(self.value(read, position).any()) else None

    def _replayed(self, reads: Mapping[int, Ref]) -> dict[int, Tensor]:
        """The same for operations without their own node (custom autograd functions)."""
        gradients = read_gradients(self.tape, self.constants, reads)
        return {p: gradient * len(self.losses) for p, gradient in gradients.items()}


def _tensor_arguments(op: Op) -> list[Any]:
    """The arguments that autograd makes edges for, including absent optional tensors."""
    found: list[Any] = []
    for place, name, single in _tensor_places(op.func):
        value = op.kwargs.get(name, op.args[place] if place < len(op.args) else None)
        found += value if not single and isinstance(value, (tuple, list)) else [value]
    return found


@functools.cache
def _tensor_places(func: Any) -> list[tuple[int, str, bool]]:
    """The tensor parameters of an operation: position, name, and whether it is one tensor."""
    kinds = [(a.name, str(a.type)) for a in func._schema.arguments]
    return [
        (place, name, kind in ("Tensor", "Optional[Tensor]"))
        for place, (name, kind) in enumerate(kinds)
        if "Tensor" in kind
    ]


def _argument(op: Op, ref: Ref) -> int | None:
    """The position of a tensor among an operation's tensor arguments; None: it is the result."""
    arguments = _tensor_arguments(op)
    return arguments.index(ref) if ref in arguments else None


def read_gradients(
    tape: Tape, tensors: Mapping[str, Tensor], reads: Mapping[int, Ref]
) -> dict[int, Tensor]:
    """The gradient of the mean loss at each consumer's own read, by replaying the tape.

    Args:
        tape: of the losses, shape (S,).
        tensors: parameters and buffers by name.
        reads: operation -> the tensor that it reads, or outputs.

    Returns:
        Operation -> gradient.
    """
    leaves: dict[int, Tensor] = {}

    def watch(position: int, tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        own = tensor.clone() if tensor.requires_grad else tensor.detach().clone().requires_grad_()
        leaves[position] = own
        made = reads[position] not in tape.ops[position].inputs()
        return own.clone() if made else own  # later operations may modify the output in place

    with torch.enable_grad():
        env = replay(tape, tensors, reads, watch)
        total = env[tape.outputs[0].index].mean()
        if not leaves or not total.requires_grad:
            return {}
        with derivatives():
            gradients = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    named = zip(leaves, gradients, strict=True)
    return {position: g.detach() for position, g in named if g is not None}
