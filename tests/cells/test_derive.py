"""Derivation equals a slow literal reading of §3.1.3 of the thesis."""

from __future__ import annotations

import math

import pytest
import torch

import ramify
from ramify.cells import DARTS, NATS, Space, Supernet
from tests.cells.spaces import ODD


def literal(space: Space, alpha: list[list[float]]) -> tuple[tuple[tuple[str, int], ...], ...]:
    """Softmax, the operation of each edge, then the two edges i1, i2: all by comparing in turn."""
    names = list(space.operations)
    states = []
    row = 0
    for target in range(space.inputs, space.inputs + space.states):
        edges = []  # (score, name, source)
        for source in range(target):
            total = sum(math.exp(a) for a in alpha[row])
            score, name = -1.0, ""
            for k, a in enumerate(alpha[row]):
                if names[k] not in space.never and math.exp(a) / total > score:
                    score, name = math.exp(a) / total, names[k]
            edges.append((score, name, source))
            row += 1
        if space.keep is not None:
            chosen = []
            for _ in range(space.keep):
                best = None
                for edge in edges:
                    if edge not in chosen and (best is None or edge[0] > best[0]):
                        best = edge
                chosen.append(best)
            edges = chosen
        states.append(tuple((name, source) for _, name, source in edges))
    return tuple(states)


@pytest.mark.parametrize("space", [DARTS, NATS, ODD], ids=lambda space: space.name)
@pytest.mark.parametrize("ties", [False, True])
def test_derive_is_the_literal_reading(space: Space, ties):
    supernet = space.supernet(channels=2, cells=3).double()
    for _ in range(100):
        for alpha in supernet.arch_parameters():
            drawn = torch.randint(0, 2, alpha.shape) if ties else torch.randn(alpha.shape)
            alpha.data = math.log(2) * drawn.double()  # exp gives 1 and 2, so that ties are exact
        genotype = space.derive(supernet)
        for kind, alpha in supernet.alphas.items():
            assert genotype[kind] == literal(space, alpha.tolist())


def set_alphas(supernet: Supernet, kind: str, rows: dict[int, dict[int, float]]) -> None:
    with torch.no_grad():
        for row, values in rows.items():
            for column, value in values.items():
                supernet.alphas[kind][row, column] = value


def test_none_is_never_derived_in_darts_and_counts_in_the_softmax():
    supernet = DARTS.supernet(channels=2, cells=3)
    for alpha in supernet.arch_parameters():
        alpha.data.zero_()
    # Of state 2: edge 0 has the larger logit, but `none` takes most of its softmax. Of state 3 only
    # `none` stands out.
    set_alphas(supernet, "normal", {0: {0: 9.0, 4: 5.0}, 1: {4: 1.0}, 2: {0: 9.0}})
    cell = DARTS.derive(supernet)["normal"]
    assert cell[0] == (("sep_conv_3x3", 1), ("sep_conv_3x3", 0))
    assert cell[1] == (("max_pool_3x3", 1), ("max_pool_3x3", 2))


def test_none_is_derived_in_nats():
    supernet = NATS.supernet(channels=2, cells=1)
    supernet.arch_parameters()[0].data.zero_()
    assert NATS.derive(supernet).share("none") == 1


def test_logits_that_are_not_finite_are_refused():
    supernet = NATS.supernet(channels=2, cells=1)
    supernet.arch_parameters()[0].data[0, 0] = float("nan")
    with pytest.raises(ramify.RamifyError, match="logits of the cell cells are not finite"):
        NATS.derive(supernet)


def test_supernets_of_other_spaces_are_refused():
    with pytest.raises(ramify.RamifyError, match="derive with its own space"):
        DARTS.derive(NATS.supernet(channels=2, cells=1))
    with pytest.raises(ramify.RamifyError, match="derive with its own space"):
        DARTS(states=3).derive(DARTS.supernet(channels=2, cells=3))
