"""Derivation by the loss: the value of an operation is the rise of the loss on its removal.

A large mixing weight need not mean an important operation; this method measures how much worse the
supernet is without the operation.

Shape letters: `E` edges of a cell, `O` operations.

Source: R. Wang, M. Cheng, X. Chen, X. Tang and C.-J. Hsieh, "Rethinking architecture selection in
differentiable NAS", ICLR 2021; without its fine-tuning of the supernet after each choice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ramify.cells.genotype import Genotype, States
from ramify.cells.supernet import Supernet

Loss = Callable[[Mapping[str, Tensor]], float]


@torch.no_grad()
def derive_by_perturbation(supernet: Supernet, loss: Loss) -> Genotype:
    """The architecture of the operations and edges whose removal raises the loss most.

    For one edge after another, the mixing weight of each operation is set to zero in turn; the
    operation whose removal raises the loss most is kept, alone and with weight one. Then, for one
    state after another, each edge is removed in turn, and those whose removal raises the loss most
    are kept, the strongest first. Operations that the space never derives are not chosen.

    Args:
        supernet: a trained supernet, which is not changed.
        loss: the mean loss of the supernet for given mixing weights: (E, O) for each kind of cell.

    Returns:
        The genotype.

    Example:
        >>> from ramify.cells import NATS
        >>> supernet, x = NATS.supernet(channels=4, cells=1), torch.randn(2, 3, 8, 8)
        >>> genotype = derive_by_perturbation(
        ...     supernet, lambda mixing: supernet(x, mixing).square().mean().item()
        ... )
        >>> len(genotype.operations)
        6
    """
    space = supernet.space
    # On each edge keep the operation whose removal raises the loss most, with weight one.
    mixing = {kind: weights.clone() for kind, weights in supernet.mixing().items()}
    names = list(space.operations)
    columns = [column for column, name in enumerate(names) if name not in space.never]
    for weights in mixing.values():
        for row in range(len(space.edges)):
            kept = max(columns, key=lambda column: _without(loss, mixing, weights[row], [column]))
            weights[row] = 0.0
            weights[row, kept] = 1.0
    # For each state keep the edges whose removal raises the loss most.
    cells = []
    for kind, weights in mixing.items():
        states: list[tuple[tuple[str, int], ...]] = []
        for target in range(space.inputs, space.inputs + space.states):
            rows = [row for row, edge in enumerate(space.edges) if edge[1] == target]
            if space.keep is not None:
                every = list(range(len(names)))
                missed = {row: _without(loss, mixing, weights[row], every) for row in rows}
                for row in (ranked := sorted(rows, key=lambda row: -missed[row]))[space.keep :]:
                    weights[row] = 0.0
                rows = ranked[: space.keep]
            states.append(
                tuple((names[int(weights[row].argmax())], space.edges[row][0]) for row in rows)
            )
        found: States = tuple(states)
        cells.append((kind, found))
    return Genotype(space.name, space.inputs, tuple(cells))


def _without(loss: Loss, mixing: Mapping[str, Tensor], row: Tensor, columns: list[int]) -> float:
    """The loss with these weights of a row of the mixing set to zero temporarily."""
    before = row.clone()
    row[columns] = 0.0
    value = loss(mixing)
    row.copy_(before)
    return value
