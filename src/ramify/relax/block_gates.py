"""Which blocks can have a gate, and what it multiplies: the last parameters of their branches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from torch import Tensor

from ramify.arguments import each_of
from ramify.errors import RamifyError
from ramify.relax.gated import Factor
from ramify.tracing import ChannelGraph
from ramify.tracing.blocks import Block, find_block
from ramify.tracing.recorder import tensors_of


def gated_blocks(graph: ChannelGraph, asked: bool | Iterable[str | Block]) -> list[Block]:
    """The blocks to gate.

    Args:
        graph: the traced model.
        asked: names or blocks; True for all that can have a gate, False for none.

    Returns:
        The blocks, each once, in the order given.

    Raises:
        RamifyError: a block does not exist or cannot have a gate, with the reason.
    """
    if isinstance(asked, bool):
        every = [block for block in graph.blocks if asked and not _why_not(block)]
        if asked and not every:
            raise RamifyError(
                "there is no block to gate: graph.blocks lists the blocks, and a gate goes on the "
                "branch of a residual one that can be dropped"
            )
        return every
    named = [asked] if isinstance(asked, Block) else each_of(asked, "blocks", "blocks")
    found = list(dict.fromkeys(find_block(graph.blocks, name) for name in named))
    for block in found:
        if why := _why_not(block):
            raise RamifyError(f"block '{block.name}' cannot be gated: {why}")
    return found


def block_factors(graph: ChannelGraph, block: Block) -> dict[str, list[Factor]]:
    """What the gate of a block multiplies: each whole parameter that ends one of its branches.

    Args:
        graph: the traced model.
        block: one of its residual blocks.

    Returns:
        Tensor name -> factors.
    """
    tensors = tensors_of(graph.model)
    rows = {end.name: (*tensors[end.name].shape, 1)[0] for end in block.ends}
    return {name: [Factor(0, np.zeros(count, int), 1)] for name, count in rows.items()}


def of_channels(scores: Mapping[str, Tensor], graph: ChannelGraph) -> dict[str, Tensor]:
    """The gates of channels, without those of blocks.

    Args:
        scores: group or block name -> its gates, as `ramify.fold` returns them.
        graph: the graph of the model after `fold`.

    Returns:
        Group name -> its gates (W,).
    """
    names = {block.name for block in graph.blocks}
    return {name: own for name, own in scores.items() if not (name in names and len(own) == 1)}


def _why_not(block: Block) -> str:
    """Why a block cannot have a gate; empty if it can."""
    if not block.can_drop:
        return block.why
    if not block.ends:
        return "no weight was found whose factor is one of its whole branch"
    if any(end.value for end in block.ends):
        return "its branch ends in a norm that multiplies by more than its weight"
    if shared := [end.name for end in block.ends if end.name not in block.own]:
        return f"'{shared[0]}', in which its branch ends, is read elsewhere too"
    return ""
