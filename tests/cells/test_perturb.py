"""Selection by perturbation against a literal reading, on losses that are known."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from ramify.cells import DARTS, NATS, Space
from ramify.cells.derive import random_genotype
from ramify.cells.perturb import derive_by_perturbation


@pytest.mark.parametrize("space", [DARTS, NATS], ids=lambda space: space.name)
@pytest.mark.parametrize("seed", range(3))
def test_what_is_missed_most_is_chosen(space: Space, seed: int) -> None:
    """The loss falls by an operation's worth times its weight, and rises by it when it goes."""
    torch.manual_seed(seed)
    net = space.supernet(channels=2, cells=3)
    with torch.no_grad():
        for alpha in net.arch_parameters():
            alpha.normal_()
    worth = {
        kind: torch.rand(len(space.edges), len(space.operations)).double() for kind in space.kinds
    }
    calls = []

    def loss(mixing: Mapping[str, Tensor]) -> float:
        calls.append(1)
        return -sum(float((worth[kind] * mixing[kind].double()).sum()) for kind in worth)

    before = {name: value.clone() for name, value in net.state_dict().items()}
    found = derive_by_perturbation(net, loss)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    names, mixing = list(space.operations), net.mixing()
    for kind, states in found.cells:
        drop = worth[kind] * mixing[kind].detach().double()
        for target, edges in enumerate(states, start=space.inputs):
            best = {}
            for row, (source, reader) in enumerate(space.edges):
                if reader == target:
                    allowed = [c for c, name in enumerate(names) if name not in space.never]
                    column = max(allowed, key=lambda c: float(drop[row, c]))
                    best[source] = (float(worth[kind][row, column]), names[column])
            ranked = sorted(best, key=lambda source: -best[source][0])
            kept = ranked[: space.keep] if space.keep else list(best)
            assert edges == tuple((best[source][1], source) for source in kept)
    per_kind = len(space.edges) * (len(names) - len(space.never))
    per_kind += len(space.edges) if space.keep else 0
    assert len(calls) == per_kind * len(space.kinds)


def test_it_can_differ_from_the_mixing_weights() -> None:
    net = NATS.supernet(channels=2, cells=1)
    skip = list(NATS.operations).index("skip_connect")
    with torch.no_grad():
        net.arch_parameters()[0][:, skip] = 5.0
    assert set(NATS.derive(net).operations) == {"skip_connect"}
    conv = list(NATS.operations).index("nor_conv_3x3")
    found = derive_by_perturbation(net, lambda mixing: -float(mixing["cell"][:, conv].sum()))
    assert set(found.operations) == {"nor_conv_3x3"}


def test_random_architectures_are_spread_evenly() -> None:
    drawn = [random_genotype(NATS, seed) for seed in range(400)]
    for name in NATS.operations:
        share = sum(genotype.share(name) for genotype in drawn) / len(drawn)
        assert share == pytest.approx(1 / 5, abs=0.025)  # 2400 edges: 3 sd
    sources = [
        s
        for seed in range(400)
        for edges in random_genotype(DARTS, seed)["normal"]
        for _, s in edges
    ]
    assert sources.count(0) / 400 == pytest.approx(1 + 2 / 3 + 2 / 4 + 2 / 5, abs=0.2)
    assert "none" not in {n for seed in range(50) for n in random_genotype(DARTS, seed).operations}
