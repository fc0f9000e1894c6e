"""Edits of depth: checks which blocks are dropped or duplicated before anything changes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from ramify.errors import RamifyError
from ramify.tracing import ChannelGraph
from ramify.tracing.blocks import Block, find_block


@dataclass(frozen=True)
class Drop:
    """Remove a block, so that its input stream passes through unchanged.

    Args:
        block: one of `graph.blocks`, or its name.

    Example:
        >>> import ramify, torch
        >>> from torch import nn
        >>> layers = [nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(3)]
        >>> net = nn.Sequential(*layers).eval()
        >>> graph = ramify.trace(net, torch.randn(1, 5, 8))
        >>> graph = ramify.apply(graph, [ramify.Drop("1")])
        >>> len(net), net[1] is layers[2]
        (2, True)
    """

    block: Block | str


@dataclass(frozen=True)
class Insert:
    """Insert a copy of a block after it; the copy has no effect on the outputs until it is trained.

    In the copy of a residual block, the weights that end the branches are zero. The copy of a plain
    layer (a convolution or linear layer, optionally a batch norm, and ReLU) computes the identity.

    Args:
        after: one of `graph.blocks`, or its name.

    Example:
        >>> import ramify, torch
        >>> from torch import nn
        >>> layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
        >>> net, x = nn.Sequential(layer).eval(), torch.randn(1, 5, 8)
        >>> before = net(x)
        >>> graph = ramify.apply(ramify.trace(net, x), [ramify.Insert(after="0")])
        >>> len(net), torch.allclose(net(x), before, atol=1e-6)
        (2, True)

    Source: Net2DeeperNet of T. Chen, I. Goodfellow, J. Shlens, "Net2Net: accelerating learning via
    knowledge transfer", ICLR 2016.
    """

    after: Block | str


BlockEdit: TypeAlias = Drop | Insert


@dataclass
class ListPlan:
    """The edits of the members of one module list, or of one attribute.

    Attributes:
        container: the name of the list; None for an attribute.
        drops: the blocks to drop.
        inserts: the blocks to duplicate, once for each copy.
    """

    container: str | None
    drops: list[Block] = field(default_factory=list)
    inserts: list[Block] = field(default_factory=list)

    @property
    def depth(self) -> int:
        """The number of modules that enclose the list or attribute."""
        [block, *_] = [*self.drops, *self.inserts]
        path = block.name if self.container is None else self.container
        return path.count(".") + bool(path)

    def source(self, keys: Sequence[str]) -> list[int]:
        """For each new member of the list, the index of the old member that it is or copies."""
        before = len(self.container) + 1 if self.container else 0
        places = {
            block: [keys.index(member[before:]) for member in block.members]
            for block in (*self.drops, *self.inserts)
        }
        gone = {place for block in self.drops for place in places[block]}
        order = []
        for place in range(len(keys)):
            order += [place] if place not in gone else []
            for block in self.inserts:
                order += places[block] if places[block][-1] == place else []
        return order


def plan_blocks(graph: ChannelGraph, edits: Iterable[BlockEdit]) -> list[ListPlan]:
    """Check edits of depth against the graph.

    Args:
        graph: the traced model.
        edits: the edits of blocks.

    Returns:
        The plan of each list, inner lists first; nothing has changed yet.

    Raises:
        RamifyError: an edit is impossible; the message gives the reason.
    """
    drops: list[Block] = []
    inserts: list[Block] = []
    for edit in edits:
        drop = isinstance(edit, Drop)
        block = find_block(graph.blocks, edit.block if isinstance(edit, Drop) else edit.after)
        if drop and not block.can_drop:
            raise RamifyError(f"block '{block.name}' cannot be dropped: {block.why}")
        if not drop and not block.can_insert:
            raise RamifyError(f"no copy of block '{block.name}' can be inserted: {block.why}")
        if drop and block in drops:
            raise RamifyError(f"block '{block.name}' is dropped twice in one call: name it once")
        (drops if drop else inserts).append(block)
    _check_apart(drops, inserts)
    plans: dict[str, ListPlan] = {}
    for block in (*drops, *inserts):
        key = block.name if block.container is None else f"{block.container}."
        plan = plans.setdefault(key, ListPlan(block.container))
        (plan.drops if block in drops else plan.inserts).append(block)
    for plan in plans.values():
        _check_left(graph, plan)
    return sorted(plans.values(), key=lambda plan: -plan.depth)


def _check_apart(drops: Sequence[Block], inserts: Sequence[Block]) -> None:
    """Check that no edited block lies inside a block that another edit drops or duplicates."""
    for gone in drops:
        for other in (*drops, *inserts):
            if other is gone and other in inserts:
                raise RamifyError(
                    f"block '{gone.name}' is dropped and doubled in one call: do one of both"
                )
            if _lies_in(other, gone):
                raise RamifyError(
                    f"block '{other.name}' lies in '{gone.name}', which is dropped in the same "
                    "call: leave its edit out"
                )
    for doubled in inserts:
        for other in (*drops, *inserts):
            if _lies_in(other, doubled):
                raise RamifyError(
                    f"block '{other.name}' lies in '{doubled.name}', of which a copy is put in in "
                    "the same call: edit the one that lies inside first, in a call of its own"
                )


def _lies_in(inner: Block, outer: Block) -> bool:
    return any(inner.name.startswith(f"{member}.") for member in outer.members)


def _check_left(graph: ChannelGraph, plan: ListPlan) -> None:
    if plan.container is not None and plan.drops:
        keys = list(graph.model.get_submodule(plan.container)._modules)
        if not plan.source(keys):
            raise RamifyError(
                f"these drops would leave '{plan.container}' without a block: keep at least one of "
                f"its {len(keys)}"
            )
