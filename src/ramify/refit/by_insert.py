"""Where a new block would learn fastest, by the gradient of its copy's zero parameters.

Legend: `S` samples.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ramify.arguments import each_of
from ramify.cost import Cost, graph_cost
from ramify.edit import Insert
from ramify.edit.depth import blocks_edited
from ramify.edit.plan import check_current
from ramify.errors import RamifyError
from ramify.methods.new_neurons import reader_gradients
from ramify.methods.trial import differentiable
from ramify.probe.loss import Loss
from ramify.refit.outcome import samples
from ramify.tracing import ChannelGraph
from ramify.tracing.blocks import Block, find_block
from ramify.tracing.recorder import evaluating
from ramify.tracing.unharmed import unharmed
from ramify.tracing.untouched import alone, untouched


@dataclass(frozen=True)
class InsertGain:
    """The expected result of an insert.

    Attributes:
        block: the name of the block after which the copy would be inserted.
        gain: the expected decrease of the mean loss by one gradient step of the copy.
        cost: the cost that the copy adds.

    Example:
        >>> row = InsertGain("layers.3", 0.02, Cost(100, 2000))
        >>> row.edit
        Insert(after='layers.3')
    """

    block: str
    gain: float
    cost: Cost

    @property
    def edit(self) -> Insert:
        """The edit that inserts the copy."""
        return Insert(self.block)


def insert_gains(
    graph: ChannelGraph,
    loss: Loss,
    batches: Iterable[Any],
    *,
    blocks: Iterable[Block | str] | None = None,
    lr: float = 0.01,
) -> list[InsertGain]:
    r"""The expected decrease of the loss if a copy is inserted after each block and takes one step.

    A copy that changes nothing (:class:`ramify.Insert`) still has a gradient at its zero
    parameters. To first order, one gradient step of its parameters :math:`\theta` lowers the mean
    loss by

    .. math:: \eta\,\lVert \partial L / \partial\theta \rVert^2 ,

    in the same unit as the gains of :class:`ramify.GradMax`. Each copy is actually inserted and
    then removed. In the copy of a plain layer, the zeros of the stream are at the kink of its ReLU,
    where torch's gradient is 0 and a step may gain more.

    Args:
        graph: the traced model; it is left unchanged.
        loss: `loss(model, batch)` -> (S,), one number per sample.
        batches: the sample.
        blocks: the names of the blocks to try; by default all after which a copy can be inserted.
        lr: η, the learning rate of the step.

    Returns:
        One row per block, largest gain first.

    Raises:
        RamifyError: no batch, or a block of which no copy can be inserted.

    Example:
        >>> import ramify, torch
        >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
        <torch...>
        >>> make = lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
        >>> net, x = nn.Sequential(make(), make()), torch.randn(16, 5, 8)
        >>> loss = lambda model, x: model(x).square().mean((1, 2))
        >>> rows = ramify.insert_gains(ramify.trace(net, x[:1]), loss, [x])
        >>> [row.gain > 0 for row in rows], len(net)
        ([True, True], 2)
    """
    check_current(graph)
    sample, _ = samples(batches, None)
    tried = [block for block in graph.blocks if block.can_insert]
    if blocks is not None:
        tried = [find_block(graph.blocks, name) for name in each_of(blocks, "blocks", "blocks")]
    now, rows = graph_cost(graph), []
    before = {id(parameter) for parameter in graph.model.parameters()}
    with alone(), unharmed(graph.model, written=True):
        for block in tried:
            with contextlib.ExitStack() as stack:
                try:
                    stack.enter_context(blocks_edited(graph, [Insert(block)]))
                except RamifyError:  # the model's output changes with a copy there
                    if blocks is not None:
                        raise
                    continue
                new = [one for one in graph.model.parameters() if id(one) not in before]
                gain = lr * _squared_gradient(graph.model, new, loss, sample)
            rows.append(InsertGain(block.name, gain, graph_cost(graph, [Insert(block)]) - now))
    return sorted(rows, key=lambda row: -row.gain)


def _squared_gradient(
    model: nn.Module, parameters: Sequence[Tensor], loss: Loss, sample: Sequence[Any]
) -> float:
    """The squared norm of the gradient of the mean loss with respect to a copy's parameters."""
    with untouched(model), evaluating(model), differentiable(parameters):
        means = reader_gradients(model, parameters, loss, sample)
    return float(sum(mean.double().square().sum() for mean in means))
