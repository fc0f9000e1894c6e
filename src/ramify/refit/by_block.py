"""Block sensitivity: the measured rise of the loss without each block, and its influence.

Legend: `S` samples, `T` tokens, `C` channels of a stream.
"""

from __future__ import annotations

import contextlib
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from ramify import distributed
from ramify.arguments import each_of
from ramify.cost import Cost, graph_cost
from ramify.edit import Drop
from ramify.edit.bypass import at_ends, bypassed, stream_made
from ramify.edit.plan import check_current
from ramify.errors import RamifyError
from ramify.probe.loss import Loss, mean_loss
from ramify.refit.block_takeover import refit_without
from ramify.refit.outcome import borrowed, samples
from ramify.tracing import ChannelGraph
from ramify.tracing.blocks import Block, find_block
from ramify.tracing.untouched import untouched


@dataclass(frozen=True)
class BlockRow:
    """The result of one tried block.

    Attributes:
        block: the name of the block.
        kind: "residual" or "plain".
        loss: the mean loss without it.
        rise: the rise of the mean loss over that of the full model.
        influence: how far it turns its stream: one minus the cosine of the angle between the stream
            before and after it.
        saved: the cost that is saved without it.

    Example:
        >>> row = BlockRow("layers.3", "residual", 0.75, 0.25, 0.1, Cost(100, 2000))
        >>> row.edit, row.gain, row.cost.macs
        (Drop(block='layers.3'), -0.25, -2000)
    """

    block: str
    kind: str
    loss: float
    rise: float
    influence: float
    saved: Cost

    @property
    def edit(self) -> Drop:
        """The edit that drops the block."""
        return Drop(self.block)

    @property
    def gain(self) -> float:
        """The decrease of the mean loss, in the unit of :class:`ramify.Proposal`."""
        return -self.rise

    @property
    def cost(self) -> Cost:
        """What the drop adds to the cost, in the unit of :class:`ramify.Proposal`."""
        return Cost(0, 0) - self.saved


@dataclass(frozen=True)
class BlockSensitivity:
    """The rise of the loss without each block.

    Attributes:
        loss: the mean loss of the full model.
        rows: the blocks, in forward order.

    Example:
        >>> row = BlockRow("layers.3", "residual", 0.75, 0.25, 0.1, Cost(100, 2000))
        >>> print(BlockSensitivity(0.5, [row]))
        The mean loss is 0.5, and rises by this without one block alone:
        block      rise  influence  saves params  saves MACs
        layers.3  +0.25        0.1           100       2,000
    """

    loss: float
    rows: Sequence[BlockRow]

    def __str__(self) -> str:
        """A table with one row per block."""
        lines = [["block", "rise", "influence", "saves params", "saves MACs"]]
        lines += [
            [
                row.block,
                f"{row.rise:+.3g}",
                f"{row.influence:.3g}",
                f"{row.saved.params:,}",
                f"{row.saved.macs:,}",
            ]
            for row in self.rows
        ]
        sizes = [max(map(len, column)) for column in zip(*lines, strict=True)]
        table = [
            "  ".join([line[0].ljust(sizes[0]), *map(str.rjust, line[1:], sizes[1:])])
            for line in lines
        ]
        said = f"The mean loss is {self.loss:.4g}, and rises by this without one block alone:"
        return "\n".join([said, *table])


def block_sensitivity(
    graph: ChannelGraph,
    loss: Loss,
    batches: Iterable[Any],
    *,
    blocks: Iterable[Block | str] | None = None,
    refit: bool = False,
    held: Iterable[Any] | None = None,
) -> BlockSensitivity:
    r"""The rise of the loss without each block alone, measured by one pass per block.

    A tried block runs, but its output is replaced by its own input stream, which has the same
    effect as :class:`ramify.Drop`. Its influence is

    .. math:: 1 - \mathbb{E}\,\frac{x \cdot y}{\lVert x\rVert\,\lVert y\rVert}

    over its stream x before and y after it: the mean over tokens of (S, T, C), or over samples for
    any other stream.

    Args:
        graph: the traced model; it is left unchanged.
        loss: `loss(model, batch)` -> (S,), one number per sample.
        batches: the samples to measure the influence on, and to refit on.
        blocks: the names of the blocks to try; by default all that can be dropped.
        refit: whether to refit the remaining blocks for each trial, as `ramify.cut(depth=True)`
            does: this takes two passes and all least-squares solutions of the network per block.
        held: the samples to measure the loss on; by default `batches`.

    Returns:
        The report: `print` it, or pass `row.edit` of some rows to `ramify.apply`.

    Raises:
        RamifyError: no batch, or a block that cannot be dropped.

    Example:
        >>> import ramify, torch
        >>> from torch import nn
        >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
        <torch...>
        >>> make = lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
        >>> net, x = nn.Sequential(make(), make(), make()), torch.randn(16, 5, 8)
        >>> loss = lambda model, x: model(x).square().mean((1, 2))
        >>> report = ramify.block_sensitivity(ramify.trace(net, x[:1]), loss, [x])
        >>> [row.block for row in report.rows], all(row.influence > 0 for row in report.rows)
        (['0', '1', '2'], True)

    Source: the influence is that of X. Men and others, "ShortGPT: layers in large language models
    are more redundant than you expect", 2024.
    """
    check_current(graph)
    sample, measured_on = samples(batches, held)
    tried = _tried(graph, blocks)
    # A model may count or observe its own runs, in eval mode too.
    with untouched(graph.model), _angles(graph.model, tried) as cosines:
        start = mean_loss(graph.model, loss, sample)
    if measured_on is not sample:
        with untouched(graph.model):
            start = mean_loss(graph.model, loss, measured_on)
    rows, now = [], graph_cost(graph)
    for block in tried:
        with untouched(graph.model), borrowed(graph.model):
            if refit:
                refit_without(graph, [block], loss, sample)
            after = loss_without(graph.model, [block], loss, measured_on)
        rows.append(
            BlockRow(
                block=block.name,
                kind=block.kind,
                loss=after,
                rise=after - start,
                influence=1.0 - _mean(cosines[block]),
                saved=now - graph_cost(graph, [Drop(block)]),
            )
        )
    return BlockSensitivity(start, rows)


def loss_without(
    model: nn.Module, blocks: Sequence[Block], loss: Loss, batches: Sequence[Any]
) -> float:
    """The mean loss with some blocks bypassed.

    Args:
        model: the traced model.
        blocks: the blocks that are bypassed, together.
        loss: `loss(model, batch)` -> (S,).
        batches: the samples to measure on.

    Returns:
        The mean over the samples of all ranks; infinity if it is not finite.
    """
    with bypassed(model, blocks):
        try:
            return mean_loss(model, loss, batches)
        except RamifyError:  # a loss that is not finite
            return math.inf


def _tried(graph: ChannelGraph, blocks: Iterable[Block | str] | None) -> list[Block]:
    """The blocks to try.

    Returns:
        The blocks in forward order.

    Raises:
        RamifyError: one of them cannot be dropped.
    """
    if blocks is None:
        return [block for block in graph.blocks if block.can_drop]
    asked = [find_block(graph.blocks, name) for name in each_of(blocks, "blocks", "blocks")]
    for block in asked:
        if not block.can_drop:
            raise RamifyError(f"block '{block.name}' cannot be dropped: {block.why}")
    return [block for block in graph.blocks if block in asked]


@contextlib.contextmanager
def _angles(model: nn.Module, blocks: Sequence[Block]) -> Iterator[dict[Block, list[Tensor]]]:
    """Record the cosines between the streams before and after each block, for all runs inside."""
    found: dict[Block, list[Tensor]] = defaultdict(list)

    def note(block: Block, stream: Tensor, output: Any) -> None:
        pair = [each.detach().double() for each in (stream, stream_made(output))]
        one, other = (each if each.dim() == 3 else each.flatten(1) for each in pair)
        found[block].append(cosine_similarity(one, other, dim=-1).flatten())

    with at_ends(model, blocks, note):
        yield found


def _mean(cosines: Sequence[Tensor]) -> float:
    """The mean over the runs of all ranks."""
    each = torch.cat(list(cosines)).cpu()
    [total] = distributed.all_sum(
        [torch.stack([each.sum(), torch.tensor(float(len(each))).double()])]
    )
    return float(total[0] / total[1])
