"""The search stage of shrinking: what trains, and what scores the channels."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

import ramify
from ramify.errors import RamifyError
from ramify.relax import Pairs
from ramify.train.epoch import Training, cross_entropy, optimizer_over
from ramify.train.rounds import Choice, edit_event, measured_edit
from ramify.train.scored import Scores, search_widths
from ramify.train.width_search import PLAIN, WidthSearch


def problem() -> tuple[nn.Module, Pairs, torch.Tensor]:
    torch.set_default_dtype(torch.float64)
    x, y = torch.randn(32, 3), torch.randint(2, (32,))
    net = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 2))
    net[1].weight.data.uniform_(0.5, 1.5)
    halves = [[(x[i : i + 8], y[i : i + 8]) for i in (start, start + 8)] for start in (0, 16)]
    return net, Pairs(*halves), x[:1]


def searched(
    net: nn.Module, pairs: Pairs, inputs: torch.Tensor, optimizer: str = "sgd", **given: Any
) -> Any:
    rate = 0.1 if optimizer == "sgd" else 0.01
    training = Training(optimizer=optimizer, lr=rate, weight_decay=0.01, schedule="constant")
    return search_widths(
        net,
        inputs,
        cross_entropy,
        pairs,
        search=WidthSearch(epochs=3, **given),
        training=training,
        probe=pairs.a,
    )


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_slimming_without_penalty_is_plain_training(optimizer: str) -> None:
    net, pairs, inputs = problem()
    other = copy.deepcopy(net)
    searched(net, pairs, inputs, optimizer, searcher="bn", gamma=0.0)
    searched(other, pairs, inputs, optimizer, searcher="l1")
    for one, two in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


def test_a_step_of_network_slimming() -> None:
    """SGD on the mean loss of both batches with the subgradient γ sign(scale), by hand."""
    net, pairs, inputs = problem()
    pairs = Pairs(pairs.a[:1], pairs.p[:1])
    by_hand = copy.deepcopy(net)
    training = Training(lr=0.1, momentum=0.0, weight_decay=0.01, schedule="constant")
    search = WidthSearch("bn", epochs=1, gamma=0.3)
    search_widths(
        net, inputs, cross_entropy, pairs, search=search, training=training, probe=pairs.a
    )
    loss = sum(cross_entropy(by_hand, batch).mean() for batch in (*pairs.a, *pairs.p)) / 2
    (loss + 0.3 * by_hand[1].weight.abs().sum()).backward()
    optimizer_over(by_hand.parameters(), training).step()
    for one, two in zip(net.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("searcher", ["bn", "joint"])
def test_a_step_of_a_penalty_that_is_weighted_by_cost(searcher: str) -> None:
    """What a channel costs over the mean of all, by hand."""
    _, pairs, inputs = problem()
    pairs = Pairs(pairs.a[:1], pairs.p[:1])
    net = nn.Sequential(
        nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 2), nn.BatchNorm1d(2),
        nn.Tanh(), nn.Linear(2, 2),
    )  # fmt: skip
    training = Training(lr=0.1, momentum=0.0, weight_decay=0.0, schedule="constant")
    found = {}
    for by in (None, "params"):
        search = WidthSearch(searcher, epochs=1, gamma=0.3, penalty_by=by)
        searched_net = copy.deepcopy(net)
        scored = search_widths(
            searched_net, inputs, cross_entropy, pairs, search=search, training=training,
            probe=pairs.a,
        )  # fmt: skip
        if searcher == "bn":
            found[by] = [searched_net[1].weight.detach(), searched_net[4].weight.detach()]
        else:
            values = {(p.edit.group, p.edit.channel): -p.value for p in scored.proposals}
            found[by] = [
                torch.tensor([values[name, c] for c in range(count)])
                for name, count in (("0", 6), ("3", 2))
            ]
    costs = [4 + 2 + 2, 7 + 2 + 2]  # own weights and bias, norm, what reads the channel
    mean = (6 * costs[0] + 2 * costs[1]) / 8
    # A step of the rate 0.1 down γ times each weight, where the plain penalty has 1.
    for plain, weighted, cost in zip(found[None], found["params"], costs, strict=True):
        expected = plain - 0.1 * 0.3 * (cost / mean - 1)
        torch.testing.assert_close(weighted, expected)


def test_a_penalty_by_an_unknown_resource_is_refused() -> None:
    with pytest.raises(RamifyError, match="penalty_by is 'time'; give one of params, macs"):
        WidthSearch("bn", penalty_by="time")


def test_learning_rates_fall_over_the_whole_search() -> None:
    net, pairs, inputs = problem()
    gates = ramify.gate(ramify.trace(net, inputs))
    search = WidthSearch("rarts", epochs=2, arch_lr=0.4)
    searcher = search.make(net, gates, cross_entropy, Training(lr=0.1), steps=4)
    rates: dict[str, list[float]] = {"weights": [], "auxiliary": [], "arch": []}
    for pair in [*pairs(0), *pairs(1)]:
        for role, seen in rates.items():
            seen.append(searcher.optimizers[role].param_groups[0]["lr"])
        searcher.step(*pair)
    factors = [Training().factor(step, 4) for step in range(4)]
    assert rates["weights"] == rates["auxiliary"] == pytest.approx([0.1 * f for f in factors])
    assert rates["arch"] == pytest.approx([0.4 * f for f in factors])
    assert searcher.optimizers["arch"].param_groups[0]["weight_decay"] == 0


def test_gates_are_folded_and_their_sizes_are_the_scores() -> None:
    net, pairs, inputs = problem()
    scored = searched(net, pairs, inputs, searcher="milenas", gamma=0.1, arch_lr=0.5)
    assert not hasattr(net, "ramify_gates")
    values = [proposal.value for proposal in scored.proposals]
    assert len(values) == 6
    assert values == sorted(values, reverse=True)
    assert values[0] != -1
    expected = net.eval()(inputs)
    least = scored.proposals[0].edit.channel
    with torch.no_grad():
        net[3].weight[:, least] = 0
    zeroed = net(inputs)
    graph = ramify.cut(
        scored.graph,
        cross_entropy,
        pairs.a,
        rule=ramify.Threshold(most=1),
        method=Scores.of(scored.proposals),
        refit=False,
    )
    assert graph["0"].width == 5
    torch.testing.assert_close(net(inputs), zeroed)
    assert not torch.equal(expected, zeroed)


def test_the_origin_of_a_group_that_an_edit_divides_is_left_out() -> None:
    """In Swin, a head of one channel leaves queries and keys as two groups."""
    net, _, inputs = problem()
    graph = ramify.apply(ramify.trace(net, inputs), [ramify.Prune("0", 1)])
    after = measured_edit(graph, 0.5)
    before = {**after, "widths": {"0": 6}}
    assert graph.origin == {"0": [0, 2, 3, 4, 5], "3": [0, 1]}
    event = edit_event(graph, [], Choice(), before, after)
    assert event["origin"] == {"0": [0, 2, 3, 4, 5]}


def test_scores_are_kept_as_plain_rows_and_propose_the_same() -> None:
    net, pairs, inputs = problem()
    scored = searched(net, pairs, inputs, searcher="taylor")
    scores = Scores.of(scored.proposals)
    again = scores.propose(scored.graph, None, ())
    assert [(p.edit, p.value, p.cost) for p in again] == [
        (p.edit, p.value, p.cost) for p in scored.proposals
    ]


@pytest.mark.parametrize("searcher", PLAIN)
def test_plain_searchers_take_plain_batches(searcher: str) -> None:
    net, pairs, inputs = problem()
    scored = search_widths(
        net,
        inputs,
        cross_entropy,
        [*pairs.a, *pairs.p],
        search=WidthSearch(searcher, epochs=1),
        training=Training(lr=0.1),
        probe=pairs.a,
    )
    assert {proposal.edit.group for proposal in scored.proposals} == {"0"}
    assert [event["event"] for event in scored.history] == ["epoch", "stop"]


@pytest.mark.parametrize("searcher", ["rarts", "bn"])
def test_searchers_that_learn_need_two_halves(searcher: str) -> None:
    net, pairs, inputs = problem()
    with pytest.raises(RamifyError, match=f"{searcher} learns on two halves of the data"):
        search_widths(
            net,
            inputs,
            cross_entropy,
            pairs.a,
            search=WidthSearch(searcher, epochs=1),
            training=Training(lr=0.1),
            probe=pairs.a,
        )


def test_without_norm_scales_bn_is_refused() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    batch = (torch.ones(2, 2), torch.ones(2).long())
    with pytest.raises(RamifyError, match="which is what bn learns: take another searcher"):
        search_widths(
            net,
            torch.ones(1, 2),
            cross_entropy,
            Pairs([batch], [batch]),
            search=WidthSearch("bn", epochs=1),
            training=Training(),
            probe=[batch],
        )


def test_a_search_that_fails_leaves_a_plain_network() -> None:
    net, pairs, inputs = problem()
    names = list(net.state_dict())
    x, y = pairs.p[1]
    pairs = Pairs(pairs.a, [pairs.p[0], (x[:1], y[:1])])
    with pytest.raises(RamifyError, match="cannot train on a batch of one sample.*drop_last=True"):
        searched(net, pairs, inputs, searcher="rarts")
    assert list(net.state_dict()) == names
    assert ramify.trace(net, inputs)["0"].can_prune
