"""Growth where width is scarce: needs against brute force, and which proposals are returned."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ramify
from ramify import Bottlenecks, GradMax, RandomSplit


def loss(model: nn.Module, x: Tensor) -> Tensor:
    return (model(x) - x[:, :3]).square().sum(1)


def network(widths: tuple[int, ...] = (12, 3, 6)) -> tuple[nn.Sequential, Tensor]:
    """A perceptron that has learned to repeat three of its inputs through a narrow layer."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    before = 4
    for width in widths:
        layers += [nn.Linear(before, width), nn.Tanh()]
        before = width
    net, x = nn.Sequential(*layers, nn.Linear(before, 3)).double(), torch.randn(64, 4).double()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        loss(net, x).mean().backward()
        optimizer.step()
    return net, x


def by_zeroing(net: nn.Sequential, x: Tensor, number: int, channels: list[int]) -> float:
    """The mean rise of the loss when one output of a layer is zero behind its activation."""
    before, rises = loss(net, x).mean(), []
    for channel in channels:
        weight = net[number + 2].weight
        kept = weight.detach().clone()
        with torch.no_grad():
            weight[:, channel] = 0
            rises.append(float(loss(net, x).mean() - before))
            weight.copy_(kept)
    return max(0.0, sum(rises) / len(rises))


def test_needs_are_mean_rises_by_the_relative_cost_of_a_channel() -> None:
    net, x = network()
    graph = ramify.trace(net, x)
    method, batches = Bottlenecks(channels=100), [x[:20], x[20:]]
    worths, needs = method.worths(graph, loss, batches), method.needs(graph, loss, batches)
    macs = {"0": 4 + 3, "2": 12 + 6, "4": 3 + 3}  # incoming and outgoing weights; a bias is added
    widths = {"0": 12, "2": 3, "4": 6}
    assert needs.keys() == worths.keys() == macs.keys()
    params = sum(p.numel() for p in net.parameters())
    total = sum(p.numel() for p in net.parameters() if p.dim() > 1)
    for name, need in needs.items():
        rise = by_zeroing(net, x, int(name), list(range(widths[name])))
        assert max(0.0, worths[name]) == pytest.approx(rise, rel=1e-9)
        cost = (macs[name] + 1) / params + macs[name] / total
        assert need == pytest.approx(rise / cost, rel=1e-9)


def test_channels_that_are_removed_are_spread_over_the_group() -> None:
    net, x = network()
    worths = Bottlenecks(channels=3).worths(ramify.trace(net, x), loss, [x])
    assert worths["0"] == pytest.approx(by_zeroing(net, x, 0, [0, 6, 11]), rel=1e-9)


def test_only_the_first_batches_are_measured() -> None:
    net, x = network()
    graph, seen = ramify.trace(net, x), list[int]()

    def counted(model: nn.Module, batch: tuple[int, Tensor]) -> Tensor:
        seen.append(batch[0])
        return loss(model, batch[1])

    parts = list(enumerate(x.split(16)))
    needs = Bottlenecks(samples=20).needs(graph, counted, parts)
    assert set(seen) == {0, 1}
    assert needs == Bottlenecks().needs(graph, loss, [x[:16], x[16:32]])


def test_prunes_are_returned_too() -> None:
    net, x = network()
    graph, method = ramify.trace(net, x), ramify.L1()
    found = Bottlenecks(method, share=1.0).propose(graph, loss, [x])
    assert [one.edit for one in found] == [one.edit for one in method.propose(graph)]


@pytest.mark.parametrize("method", [GradMax(), RandomSplit()])
def test_proposals_of_the_groups_in_need_are_returned_unchanged(method: Any) -> None:
    net, x = network()
    graph = ramify.trace(net, x)
    every = method.propose(graph, loss, [x])
    needs = Bottlenecks().needs(graph, loss, [x])
    for share in (0.0, 0.1, 0.5, 1.0):
        found = Bottlenecks(method, share=share).propose(graph, loss, iter([x]))
        scarce = {name for name, need in needs.items() if need >= share * max(needs.values())}
        expected = [(p.edit.group, p.gain) for p in every if p.edit.group in scarce]
        assert [(p.edit.group, p.gain) for p in found] == expected
    assert {p.edit.group for p in found} == {max(needs, key=lambda name: needs[name])}


def test_bottlenecks_are_chosen_among_the_groups_that_may_become_wider() -> None:
    net, x = network((12, 2, 6))
    graph = ramify.trace(net, x)
    method = Bottlenecks(RandomSplit(), share=1.0)
    assert {p.edit.group for p in method.propose(graph, loss, [x])} == {"2"}
    some = Bottlenecks(RandomSplit(), share=1.0, groups=("0", "4"))
    assert some.needs(graph, loss, [x]).keys() == {"0", "4"}
    assert len({p.edit.group for p in some.propose(graph, loss, [x])} & {"0", "4"}) == 1
    # A run takes them from its bounds.
    for bounds in ({"groups": ["4"]}, {"ceiling": {"0": 12, "2": 2}}):
        net, x = network((12, 2, 6))
        training = ramify.Training(epochs=1, lr=0.01)
        ramify.grow(net, x, loss, [x], method=method, training=training, rounds=1, **bounds)
        assert [net[0].out_features, net[2].out_features, net[4].out_features] == [12, 2, 12]


def test_the_narrow_layer_is_the_one_in_need() -> None:
    net, x = network((12, 2, 12))
    needs = Bottlenecks().needs(ramify.trace(net, x), loss, [x])
    assert max(needs, key=lambda name: needs[name]) == "2"


def test_a_layer_of_one_channel_is_grown_though_its_need_is_not_known() -> None:
    net, x = network((8, 1, 8))
    graph = ramify.trace(net, x)
    method = Bottlenecks(RandomSplit(), share=1.0)
    assert "2" not in method.needs(graph, loss, [x])
    assert "2" in {p.edit.group for p in method.propose(graph, loss, [x])}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"share": 1.5}, "share must be from 0 to 1"),
        ({"channels": 0}, "channels must be"),
        ({"samples": 0}, "samples must be"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ramify.RamifyError, match=said):
        Bottlenecks(**settings)
