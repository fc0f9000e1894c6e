r"""Reads: the input of every reader of a network's channels, and the gradient of its own read.

A *reader* is an operation that sums over channels: a convolution, a linear layer, a product of
activations such as q·kᵀ. What reader k reads of a channel, :math:`a_k`, is the channel after the
norms, activations, pools and reshapes in between. With :math:`g_k` the gradient of one sample's
loss with respect to that reader's **own** read (not to a tensor that several readers share, which
would count a residual path twice), the effect of an edit on the loss is
:math:`\sum_k \langle \Delta a_k, g_k \rangle` to first order.

* :func:`reads` gives the values and the gradients of one batch at once.
* :func:`visit_reads` shows the values of any number of batches one read at a time: it needs no
labels, and no more memory than the forward pass.
* :func:`first_order` sums value times gradient by sample and channel.

Shape letters: `S` samples, `W` channels of a group, `N` positions along the dimension that is
summed over, `K` positions of one channel.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ramify.edit.plan import check_current
from ramify.errors import RamifyError
from ramify.probe.loss import Loss, checked_loss, each_batch
from ramify.probe.replay import decomposed, replay
from ramify.tracing import ChannelGraph, ChannelGroup
from ramify.tracing.contraction import Contraction
from ramify.tracing.dims import Atom, atoms_of, leaves, resolve
from ramify.tracing.flow import DimFlow
from ramify.tracing.indexing import owners
from ramify.tracing.propagate import propagate
from ramify.tracing.recorder import Op, Ref, Tape, call, record, tensors_of

__all__ = ["Read", "ReadChannels", "first_order", "reads", "visit_reads"]


@dataclass(frozen=True, eq=False)
class ReadChannels:
    """The positions of one group's channels in a read.

    Attributes:
        group: the group.
        dim: the dimension of the value that the reader sums over.
        owner: (N,), the channel at each position along `dim`, or -1 if the position belongs to
            another group (after a `cat`), or to a size that no edit changes.

    Example:
        >>> import ramify
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 1))
        >>> x = torch.randn(4, 1, 4, 4)
        >>> loss = lambda model, x: model(x).square().squeeze(1)
        >>> (read,) = reads(ramify.trace(net, x), loss, x)
        >>> read.channels[0].positions
        tensor([[0, 1, 2, 3],
                [4, 5, 6, 7]])
        >>> read.channels[0].sum_positions(read.value).shape  # one number per sample and channel
        torch.Size([4, 2])
    """

    group: ChannelGroup
    dim: int
    owner: Tensor

    @property
    def positions(self) -> Tensor:
        """(W, K): the positions of each channel along `dim`; K is 1 except after a flattening."""
        held = torch.argsort(self.owner, stable=True)[int((self.owner < 0).sum()) :]
        return held.reshape(self.group.width, -1)

    def sum_positions(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over the positions of each channel.

        Args:
            tensor: shape (S, N).

        Returns:
            Shape (S, W).
        """
        width = self.group.width
        owner = torch.where(self.owner < 0, width, self.owner).to(tensor.device)
        return tensor.new_zeros(len(tensor), width + 1).index_add(1, owner, tensor)[:, :-1]


@dataclass(frozen=True, eq=False)
class Read:
    """One reader, and its input on one batch.

    Attributes:
        number: the number of the operation on the tape; the same for every batch that runs the same
            operations.
        operation: its name, such as ``aten::convolution``, ``aten::addmm`` or ``aten::bmm``.
        module: the name of the module that runs it; empty for the model's own forward.
        weight: the consumer parameter that it multiplies by, unchanged, transposed or sliced; None
            if the weight is computed from parameters, or is an activation.
        bias: the parameter that it adds; None if there is none.
        parameters: all parameters that the weight is computed from; none for a product of two
            activations.
        arguments: the other arguments of the operation, by name: for a convolution ``stride``,
            ``padding``, ``dilation``, ``transposed``, ``output_padding`` and ``groups``.
        channels: the groups in the read tensor, in the order of their positions.
        value: the tensor that is read.
        gradient: the gradient of each sample's loss, in the rows of that sample (that is, of the
            sum of the losses), of the value's shape; None if only values were requested.

    Example:
        >>> import ramify
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 3, 3, stride=2))
        >>> x = torch.randn(4, 1, 7, 7)
        >>> (read,) = reads(ramify.trace(net, x), lambda model, x: model(x).sum((1, 2, 3)), x)
        >>> read.operation, read.weight, read.bias, read.arguments["stride"]
        ('aten::convolution', '1.weight', '1.bias', [2, 2])
    """

    number: int
    operation: str
    module: str
    weight: str | None
    bias: str | None
    parameters: tuple[str, ...]
    arguments: Mapping[str, Any]
    channels: tuple[ReadChannels, ...]
    value: Tensor = field(repr=False)
    gradient: Tensor | None = field(default=None, repr=False)


Visit = Callable[[Read], None]
Forward = Callable[[nn.Module, Any], Any]  # runs the model on one batch, as a loss does too


def reads(
    graph: ChannelGraph,
    loss: Loss,
    batch: Any,
    groups: Sequence[ChannelGroup] | None = None,
) -> list[Read]:
    r"""The input of every reader of every channel on a batch, and the gradient of its own read.

    Attention runs as plain operations, so that q·kᵀ is a read, of its first factor. All values and
    gradients are kept at once; for values only, :func:`visit_reads` keeps one at a time.

    Args:
        graph: the traced model, which is run in eval mode and left unchanged.
        loss: `loss(model, batch)` -> (S,), one number per sample.
        batch: one batch.
        groups: the groups whose channels are read; None for all of the graph.

    Returns:
        The reads, in forward order.

    Raises:
        RamifyError: the loss is not per sample or not finite, or it concatenates or slices
            channels.

    Example:
        >>> import ramify
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> x = torch.randn(16, 4)
        >>> loss = lambda model, x: model(x).square().squeeze(1)
        >>> (read,) = reads(ramify.trace(net, x), loss, x)
        >>> read.weight, read.channels[0].group.name, tuple(read.value.shape)
        ('2.weight', '0', (16, 3))
        >>> torch.allclose(read.value, net[:2](x))
        True
        >>> torch.allclose(read.gradient, 2 * net(x) * net[2].weight)
        True
    """
    found, copies, losses = _with_autograd(graph, loss, batch, groups)
    gradients = _gradients(copies, losses, torch.ones_like(losses))
    return [
        replace(
            read,
            value=copies[read.number].detach(),
            gradient=gradients.get(read.number, torch.zeros_like(copies[read.number])).detach(),
        )
        for read, _ in found
    ]


def visit_reads(
    graph: ChannelGraph,
    batches: Iterable[Any],
    visit: Visit,
    *,
    forward: Forward | None = None,
    groups: Sequence[ChannelGroup] | None = None,
) -> None:
    """Pass every read by a weight to a function, batch by batch.

    Each batch is run twice without gradients: once to find its reads, once to visit them. A read's
    value is the network's own tensor, which later operations may modify in place: keep a clone, or
    what you compute from it.

    Args:
        graph: the traced model, which is run in eval mode and left unchanged.
        batches: model inputs, each as `ramify.trace` takes them; no labels are needed.
        visit: called with each read just before its reader runs, in forward order.
        forward: `forward(model, batch)` runs the model, if batches are not its bare inputs.
        groups: the groups whose channels are read; None for all of the graph.

    Raises:
        RamifyError: a forward concatenates or slices channels, or runs differently the second time.

    Example:
        >>> import ramify
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
        >>> images = torch.randn(8, 1, 6, 6)
        >>> squares = torch.zeros(4)
        >>> def visit(read):
        ...     squares.add_(read.value.square().sum((0, 2, 3)))  # one number a channel
        >>> visit_reads(ramify.trace(net, images), images.split(4), visit)
        >>> torch.allclose(squares, net[:2](images).square().sum((0, 2, 3)))
        True
    """
    check_current(graph)
    model = graph.model
    known: tuple[Any, list[tuple[Read, Ref]]] | None = None
    for batch in each_batch(batches):
        run = functools.partial(call if forward is None else forward, model, batch)
        tape = record(model, run, batch)
        key = [(op.func, op.args, op.kwargs, op.outputs) for op in tape.ops], tape.shapes
        if known is None or known[0] != key:  # labelled once for tapes with the same operations
            known = key, [each for each in _found(graph, tape, groups) if each[0].parameters]
        shown = _Shown(tape, known[1], visit)
        record(model, run, batch, watch=shown.after, before=shown.before)


class _Shown:
    """Visits reads while a recorded run is repeated; tensors are kept until their last read."""

    def __init__(self, tape: Tape, found: Sequence[tuple[Read, Ref]], visit: Visit) -> None:
        self._tape, self._visit = tape, visit
        self._reads = {read.number: (read, source) for read, source in found}
        self._last = {source.index: read.number for read, source in found}
        self._held: dict[int, Tensor] = {}
        self._position = 0

    def before(self, position: int, written: Sequence[Tensor]) -> None:
        """Visit the reads of the next operation."""
        if position in self._reads:
            read, source = self._reads[position]
            self._visit(replace(read, value=self._held[source.index]))
            if self._last[source.index] == position:
                del self._held[source.index]

    def after(self, op: Op, results: Sequence[Tensor]) -> None:
        """Keep the output of an operation, if it is read later."""
        known = self._tape.ops
        if self._position >= len(known) or known[self._position].func is not op.func:
            raise RamifyError(
                "the forward ran other operations when it was run again on the same batch, so that "
                "its reads are not known: make it depend on its inputs alone"
            )
        for ref, tensor in zip(op.results(), results, strict=True):
            if self._last.get(ref.index, -1) > self._position:
                self._held[ref.index] = tensor
        self._position += 1


def first_order(
    graph: ChannelGraph,
    loss: Loss,
    batch: Any,
    groups: Sequence[ChannelGroup] | None = None,
) -> dict[str, Tensor]:
    r"""The first-order change of every sample's loss if a channel is zero wherever it is read.

    .. math:: p_s = -\sum_k \langle a_k, g_k \rangle

    Args:
        graph: the traced model.
        loss: `loss(model, batch)` -> (S,).
        batch: one batch.
        groups: the groups whose channels are used; None for all that can be pruned.

    Returns:
        For each group that is read, by name: p of shape (S, W).

    Raises:
        RamifyError: the loss is not per sample or not finite, or it concatenates or slices
            channels.

    Example:
        >>> import ramify
        >>> from torch import nn
        >>> net, x = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1)), torch.randn(16, 4)
        >>> loss = lambda model, x: model(x).squeeze(1)  # linear, so that first order is exact
        >>> change = first_order(ramify.trace(net, x), loss, x)["0"]
        >>> torch.allclose(change, -net[0](x) * net[1].weight)
        True
    """
    chosen = [group for group in graph.groups if group.can_prune] if groups is None else groups
    found, copies, losses = _with_autograd(graph, loss, batch, chosen)
    each = [(read.number, channels) for read, _ in found for channels in read.channels]
    samples = len(losses)
    one = torch.eye(samples, dtype=losses.dtype, device=losses.device)

    def products(weights: Tensor) -> dict[int, Tensor]:
        slopes = _gradients(copies, losses, weights)
        return {n: (copies[n] * slope).detach() for n, slope in slopes.items()}

    # The samples' positions are found from what the first and the last loss depend on.
    ends = products(one[0]), products(one[-1])
    views = [_samples_apart(number, channels.dim, ends, samples) for number, channels in each]
    out: dict[str, Tensor] = {}
    if samples > 1 and all(views):  # one backward pass gives every sample its own gradient
        every = products(torch.ones_like(losses))
        for (number, channels), view in zip(each, views, strict=True):
            if view is not None and number in every:
                rows = _rows(every[number], channels.dim, view)
                _subtract(out, channels, channels.sum_positions(rows))
        return out
    for sample in range(samples):  # in the general case, one backward pass per sample
        alone = products(one[sample])
        for number, channels in each:
            if number in alone:
                product = alone[number].movedim(channels.dim, 0)
                row = channels.sum_positions(product.reshape(len(product), -1).sum(1)[None])
                _subtract(out, channels, row * one[sample][:, None].to(row))
    return out


def _subtract(out: dict[str, Tensor], channels: ReadChannels, product: Tensor) -> None:
    name = channels.group.name
    out[name] = out[name] - product if name in out else -product


# How reads are found ----------------------------------------------------------------------


def follow_dimensions(
    graph: ChannelGraph, tape: Tape, groups: Sequence[ChannelGroup], samples: Atom | None = None
) -> tuple[DimFlow, dict[Atom, int]]:
    """Label each dimension of each tensor of a tape with the axes of the graph's groups.

    Args:
        graph: the traced model.
        tape: the tape of a run of the model.
        groups: some of its groups.
        samples: the axis of the samples, if they must be told apart.

    Returns:
        The labels of the tape, and for the axis of each group its position in `groups`.

    Raises:
        RamifyError: the run concatenates or slices the channels of a group.
    """
    traced = graph.flow
    flow = DimFlow(traced.param_shapes, traced.aliases)
    # The run may change its own axes: it is followed on a copy, and the graph's stay unchanged.
    old = [group.atom for group in groups]
    flow.param_dims, atoms = copy.deepcopy((traced.param_dims, old))
    propagate(flow, tape, samples)
    axes: dict[Atom, int] = {}
    for number, (group, atom) in enumerate(zip(groups, atoms, strict=True)):
        term = resolve(atom)
        if not isinstance(term, Atom) or term in axes:
            raise RamifyError(
                f"the loss concatenates or slices the channels of '{group.name}', so that the "
                "effect of each on it is not known: leave operations on weights out of the loss"
            )
        axes[term] = number
    return flow, axes


def sums_over(flow: DimFlow, axes: Container[Atom]) -> Iterator[tuple[Contraction, list[Atom]]]:
    """Every operation that sums an activation over some of these axes, with those axes."""
    for contraction in flow.contractions:
        own = [atom for atom in atoms_of(contraction.read) if atom in axes]
        if own and not flow.is_weight(contraction.source):
            yield contraction, own


def _found(
    graph: ChannelGraph, tape: Tape, groups: Sequence[ChannelGroup] | None
) -> list[tuple[Read, Ref]]:
    """Every read of these groups, without its value, and the tensor that is read."""
    chosen = graph.groups if groups is None else groups
    flow, axes = follow_dimensions(graph, tape, chosen)
    out = []
    for contraction, atoms in sums_over(flow, axes):
        source = contraction.source
        terms = [resolve(term) for term in flow.dims(source)]
        channels = []
        for atom in atoms:
            dim = next((d for d, term in enumerate(terms) if atom in leaves(term)), None)
            if dim is not None:
                owner = torch.from_numpy(owners(terms[dim], atom))
                channels.append(ReadChannels(chosen[axes[atom]], dim, owner))
        channels.sort(key=lambda each: (each.dim, int((each.owner >= 0).nonzero()[0])))
        if channels and tape.dtypes[source.index].is_floating_point:
            out.append((_unvalued(tape, contraction, channels), source))
    return out


def _unvalued(tape: Tape, contraction: Contraction, channels: Sequence[ReadChannels]) -> Read:
    op, names = tape.ops[contraction.op], sorted(contraction.names)
    given = {name: value for name, value in op.named().items() if not isinstance(value, Ref)}
    return Read(
        number=contraction.op,
        operation=op.name,
        module=op.module,
        weight=names[0] if len(names) == 1 and contraction.moved else None,
        bias=min(contraction.bias_names, default=None),
        parameters=tuple(names),
        arguments=given,
        channels=tuple(channels),
        value=torch.empty(tape.shape(contraction.source), device="meta"),
    )


# Values and gradients by autograd ---------------------------------------------------------


def _with_autograd(
    graph: ChannelGraph, loss: Loss, batch: Any, groups: Sequence[ChannelGroup] | None
) -> tuple[list[tuple[Read, Ref]], dict[int, Tensor], Tensor]:
    """The reads, a separate tensor for each of them by operation, and the losses (S,)."""
    check_current(graph)
    run = lambda: checked_loss(loss, graph.model, batch)  # noqa: E731
    with decomposed(graph.model):
        tape = record(graph.model, run, batch, draws=True)
    found = _found(graph, tape, groups)
    copies: dict[int, Tensor] = {}

    def at_read(position: int, tensor: Tensor) -> Tensor:
        own = tensor.clone() if tensor.requires_grad else tensor.clone().requires_grad_()
        copies[position] = own
        return own

    constants = {name: t.detach() for name, t in tensors_of(graph.model).items()}
    sources = {read.number: source for read, source in found}
    with torch.enable_grad():
        losses = replay(tape, constants, sources, at_read)[tape.outputs[0].index]
    return found, copies, losses


def _gradients(copies: Mapping[int, Tensor], losses: Tensor, weights: Tensor) -> dict[int, Tensor]:
    """The gradient of a weighted sum of the losses at each read that it depends on."""
    if not copies or not losses.requires_grad:
        return {}
    slopes = torch.autograd.grad(
        losses, list(copies.values()), weights, retain_graph=True, allow_unused=True
    )
    return {n: slope for n, slope in zip(copies, slopes, strict=True) if slope is not None}


# Positions of samples ---------------------------------------------------------------------


@dataclass(frozen=True)
class _View:
    """Samples along `axis`: as whole blocks (outer), or interleaved in every block."""

    axis: int
    samples: int
    outer: bool

    def apart(self, tensor: Tensor) -> Tensor:
        """(S, positions along the axis of one sample, *the other dimensions)."""
        moved, count = tensor.movedim(self.axis, 0), tensor.shape[self.axis] // self.samples
        if self.outer:
            return moved.unflatten(0, (self.samples, count))
        return moved.unflatten(0, (count, self.samples)).transpose(0, 1)


def _samples_apart(
    number: int, dim: int, ends: Sequence[Mapping[int, Tensor]], samples: int
) -> _View | None:
    """The positions of the samples in a read, found from the first and the last loss."""
    first, last = (end.get(number) for end in ends)
    if first is None or last is None or not bool(first.any()) or not bool(last.any()):
        return None
    for axis in range(first.dim()):
        if axis == dim or first.shape[axis] % samples:
            continue
        for outer in (True, False):
            view = _View(axis, samples, outer)
            if not bool(view.apart(first)[1:].any()) and not bool(view.apart(last)[:-1].any()):
                return view
    return None


def _rows(product: Tensor, dim: int, view: _View) -> Tensor:
    """(S, positions along `dim`): summed over everything else."""
    apart = view.apart(product)
    place = 2 + (dim if dim < view.axis else dim - 1)
    front = apart.movedim(place, 1)
    return front.reshape(*front.shape[:2], -1).sum(2)
