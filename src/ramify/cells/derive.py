"""Derive an architecture from a supernet, by mixing weights or by the loss.

Shape letters: `E` edges of a cell, `O` operations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ramify.cells.genotype import Genotype, States
from ramify.cells.networks import FixedCell, Network
from ramify.cells.supernet import MixedCell, Supernet
from ramify.errors import RamifyError

if TYPE_CHECKING:
    from ramify.cells.space import Space


def derive(space: Space, supernet: Supernet) -> Genotype:
    """The architecture with the largest mixing weights; see `Space.derive`."""
    if set(supernet.alphas) != set(space.kinds):
        raise RamifyError(
            f"the supernet is of space {supernet.space.name}, not of {space.name}: derive with "
            "its own space."
        )
    cells = []
    for kind, mixing in supernet.mixing().items():
        shape = len(space.edges), len(space.operations)
        if mixing.shape != shape:
            raise RamifyError(
                f"the {kind} cells of the supernet have logits of shape {tuple(mixing.shape)}, "
                f"those of space {space.name} have {shape}: derive with its own space."
            )
        if not mixing.isfinite().all():
            raise RamifyError(
                f"the logits of the {kind} cells are not finite: go back to an earlier state, and "
                "lower the learning rate of the logits."
            )
        cells.append((kind, strongest(space, mixing)))
    return Genotype(space.name, space.inputs, tuple(cells))


def strongest(space: Space, strength: Tensor) -> States:
    """The strongest operation of each edge, and the strongest edges of each state.

    Args:
        space: defines which operations are never chosen and how many edges are kept.
        strength: (E, O).

    Returns:
        The states of a cell.
    """
    names = list(space.operations)
    columns = [number for number, name in enumerate(names) if name not in space.never]
    rows = strength.detach().tolist()
    best = []  # for each edge: (strength, operation)
    for row in rows:
        column = max(columns, key=lambda number: row[number])  # the first if several are equal
        best.append((row[column], names[column]))
    states = []
    for target in range(space.inputs, space.inputs + space.states):
        mine = [
            (source, *best[number])
            for number, (source, reader) in enumerate(space.edges)
            if reader == target
        ]
        if space.keep is not None:
            mine = sorted(mine, key=lambda edge: -edge[1])[: space.keep]
        states.append(tuple((name, source) for source, _, name in mine))
    return tuple(states)


def inherit(supernet: Supernet, genotype: Genotype) -> Network:
    """The network of a genotype with weights copied from a supernet.

    Its norms have no weights and its pools are followed by norms, as in the supernet: its output
    equals that of the supernet with mixing weights of one on the genotype's edges and zero
    elsewhere. To train an architecture from scratch, use `Space.network`.

    Args:
        supernet: the source of the weights.
        genotype: a genotype of the same space.

    Returns:
        The network.

    Raises:
        RamifyError: The genotype does not fit the space, or the supernet has partial channels.

    Example:
        >>> from ramify.cells import NATS, one_hot
        >>> supernet, x = NATS.supernet(channels=4, cells=1).eval(), torch.randn(2, 3, 8, 8)
        >>> genotype = NATS.derive(supernet)
        >>> y = supernet(x, one_hot(NATS, genotype))
        >>> torch.allclose(inherit(supernet, genotype)(x), y, atol=1e-5)
        True
    """
    if supernet.partial > 1:
        raise RamifyError(
            f"operations of a supernet with partial={supernet.partial} have too few channels for a "
            "network: inherit from a supernet with partial=1, or train with Space.network."
        )
    space = supernet.space
    network = Network(space, space.check(genotype), supernet.plan, drop_path=0.0)
    network.to(supernet.arch_parameters()[0])
    for name in ("stems", "head"):
        getattr(network, name).load_state_dict(getattr(supernet, name).state_dict())
    for mine, theirs in zip(network.layers, supernet.layers, strict=True):
        if isinstance(mine, FixedCell) and isinstance(theirs, MixedCell):
            _copy_cell(mine, theirs, genotype, space.inputs)
        else:
            mine.load_state_dict(theirs.state_dict())
    return network.train(supernet.training)


def _copy_cell(mine: FixedCell, theirs: MixedCell, genotype: Genotype, inputs: int) -> None:
    mine.prepare.load_state_dict(theirs.prepare.state_dict())
    for number, (operations, edges) in enumerate(
        zip(mine.states, genotype[theirs.kind], strict=True)
    ):
        for operation, (name, source) in zip(operations, edges, strict=True):  # type: ignore[call-overload]
            edge = theirs.targets[source].index(inputs + number)
            operation.load_state_dict(theirs.mixtures[source].state_of(name, edge))


def one_hot(space: Space, genotype: Genotype) -> dict[str, Tensor]:
    """The mixing weights that turn a supernet into a genotype's network: ones on its edges.

    Args:
        space: the space of the genotype.
        genotype: the genotype.

    Returns:
        (E, O) of zeros and ones for each kind of cell.

    Example:
        >>> from ramify.cells import NATS
        >>> text = "|none~0|+|nor_conv_1x1~0|none~1|+|none~0|none~1|skip_connect~2|"
        >>> one_hot(NATS, NATS.parse(text))["cell"][1]
        tensor([0., 0., 1., 0., 0.])
    """
    names = list(space.operations)
    weights = {}
    for kind, states in genotype.cells:
        weights[kind] = torch.zeros(len(space.edges), len(names))
        for target, edges in enumerate(states, start=space.inputs):
            for name, source in edges:
                weights[kind][space.edges.index((source, target)), names.index(name)] = 1
    return weights


def random_genotype(space: Space, seed: int) -> Genotype:
    """A random architecture, derived from strengths drawn from a uniform distribution.

    All operations that derivation may choose are equally likely on every edge, and so are all sets
    of edges that it may keep.

    Args:
        space: the space.
        seed: seed of the draw.

    Returns:
        The genotype.

    Example:
        >>> from ramify.cells import NATS
        >>> random_genotype(NATS, 0) == random_genotype(NATS, 0) != random_genotype(NATS, 1)
        True
    """
    draw = torch.Generator().manual_seed(seed)
    shape = len(space.edges), len(space.operations)
    cells = tuple(
        (kind, strongest(space, torch.rand(shape, generator=draw))) for kind in space.kinds
    )
    return Genotype(space.name, space.inputs, cells)
