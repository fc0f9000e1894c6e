"""Baselines: what they propose is what happens; all of them by one interface."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import ramify
from ramify import Prune, RamifyError, Split, TopFraction
from ramify.methods import (
    L1,
    BNScale,
    Boosting,
    Expansion,
    LineSearch,
    Method,
    Net2Net,
    NewNeuron,
    RandomSplit,
    SplittingDescent,
    Taylor,
)
from ramify.methods.boosting import outgoing_gradients
from ramify.methods.draws import producer_kernels
from ramify.methods.measured import best_length
from ramify.methods.new_neurons import additions
from ramify.probe.loss import Loss
from ramify.tracing.indexing import kernels, positions
from ramify.tracing.recorder import tensors_of
from tests.checks import snapshot
from tests.methods.networks import KINDS, Batch, build, halved
from tests.nets import per_sample, prepared
from tests.structures import STRUCTURES

CHANCE = [RandomSplit(), RandomSplit(copies=3), Net2Net(), NewNeuron()]
METHODS: list[Method] = [
    *CHANCE,
    Boosting(steps=2),
    LineSearch(points=2, rounds=1, channels=(0, 1)),
    Expansion(steps=2, channels=(0, 1)),
    SplittingDescent(),
    L1(),
    BNScale(),
    Taylor(),
]
LOOPED = ["conv-bn-softplus", "residual", "depthwise", "transformer", "attention", "vit"]
name_of: Callable[[Method], str] = lambda method: type(method).__name__  # noqa: E731


def mean_loss(net: nn.Module, batch: Batch) -> float:
    with torch.no_grad():
        return float(per_sample(net, batch).mean())


@pytest.mark.parametrize("kind", LOOPED)
@pytest.mark.parametrize("method", METHODS, ids=name_of)
def test_every_method_by_one_loop(kind: str, method: Method) -> None:
    """Propose, select, apply; in train mode, with a frozen layer, and all is left as it was."""
    net, batch = build(kind)
    net, batch = net.float().train(), (batch[0].float(), batch[1])
    next(iter(net.parameters())).requires_grad_(False)
    graph = ramify.trace(net, batch[0][:2])
    before = snapshot(net)
    proposals = method.propose(graph, per_sample, halved(batch))
    assert snapshot(net) == before
    values = [proposal.value for proposal in proposals]
    assert values == sorted(values, reverse=True)
    for group in graph.groups:
        channels = [p.edit.channel for p in proposals if p.edit.group == group.name]
        assert len(set(channels)) == len(channels)
    chosen = [replace(p, score=p.value) for p in proposals]  # a gain below zero is tried as well
    chosen = TopFraction(0.2).select(chosen)
    assert chosen
    width = sum(group.width for group in graph.groups)
    edited = ramify.apply(graph, [proposal.edit for proposal in chosen])
    more = sum(len(p.edit.weights) - 1 if isinstance(p.edit, Split) else -1 for p in chosen)
    assert sum(group.width for group in edited.groups) == width + more
    assert torch.isfinite(per_sample(net, batch)).all()


@pytest.mark.parametrize("method", METHODS, ids=name_of)
def test_costs_are_those_of_the_edit_alone(method: Method) -> None:
    net, batch = prepared("depthwise")
    graph = ramify.trace(net, batch[0][:2])
    best = method.propose(graph, per_sample, [batch])[0]
    before = sum(p.numel() for p in net.parameters())
    ramify.apply(graph, [best.edit])
    assert best.cost.params == sum(p.numel() for p in net.parameters()) - before
    assert (best.cost.params < 0) == isinstance(best.edit, Prune)


@pytest.mark.parametrize("method", CHANCE, ids=name_of)
@pytest.mark.parametrize("kind", KINDS)
def test_chance_offers_every_channel_and_repeats_by_seed(kind: str, method: Method) -> None:
    net, batch = build(kind)
    graph = ramify.trace(net, batch[0][:2])
    first = method.propose(graph, per_sample, [])
    assert len(first) == sum(group.width for group in graph.groups if group.can_split)
    assert all(p.gain == 0 and p.pays for p in first)
    again = method.propose(graph, per_sample, [])
    assert [p.edit.channel for p in again] == [p.edit.channel for p in first]
    for one, two in zip(first, again, strict=True):
        assert one.score == two.score
        assert all(torch.equal(one.edit.offsets[n], two.edit.offsets[n]) for n in one.edit.offsets)
    other = replace(method, seed=1).propose(graph, per_sample, [])
    assert {p.score for p in other}.isdisjoint(p.score for p in first)


def test_draws_differ_from_one_shape_to_the_next() -> None:
    net, batch = build("perceptron")
    graph = ramify.trace(net, batch[0])
    first = RandomSplit().propose(graph, per_sample, [])
    graph = ramify.apply(graph, [first[0].edit])
    assert {p.score for p in RandomSplit().propose(graph, per_sample, [])}.isdisjoint(
        p.score for p in first
    )


@pytest.mark.parametrize("copies", [2, 3, 4])
def test_random_splits_move_by_the_step_over_all_producers(copies: int) -> None:
    net, batch = prepared("residual")
    graph = ramify.trace(net, batch[0][:2])
    for proposal in RandomSplit(step=0.3, copies=copies).propose(graph, per_sample, []):
        split = proposal.edit
        assert set(split.offsets) == set(graph[split.group].producers)
        moves = torch.cat([part.reshape(copies, -1) for part in split.offsets.values()], dim=1)
        assert float(moves.norm(dim=1).max()) == pytest.approx(0.3)
        assert moves.sum(0).abs().max() < 1e-12
        assert split.weights == (1 / copies,) * copies
        if copies == 2:
            assert torch.allclose(moves[0], -moves[1])


def test_net2net_keeps_one_copy_and_moves_the_other_by_the_noise() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(50, 40), nn.Tanh(), nn.Linear(40, 2))
    graph = ramify.trace(net, torch.randn(2, 50))
    splits = [p.edit for p in Net2Net(noise=0.1).propose(graph, per_sample, [])]
    offsets = torch.stack([split.offsets["0.weight"] for split in splits])
    assert not offsets[:, 0].any()
    ratio = float(
        offsets[:, 1].square().mean().sqrt() / net[0].weight.detach().square().mean().sqrt()
    )
    assert ratio == pytest.approx(0.1, rel=0.05)
    assert all(split.weights == (0.5, 0.5) for split in splits)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", [NewNeuron(), Boosting(steps=1)], ids=name_of)
def test_new_neurons_leave_the_output(kind: str, method: Method) -> None:
    net, batch = build(kind)
    graph = ramify.trace(net, batch[0][:2])
    before = per_sample(net, batch)
    old = copy.deepcopy(net)
    edits = [proposal.edit for proposal in method.propose(graph, per_sample, [batch])]
    edited = ramify.apply(graph, edits)
    assert (per_sample(net, batch) - before).abs().max() < 1e-14
    group = next(g for g in graph.groups if g.can_split)
    new, name = edited[group.name], group.producers[0]
    assert new.width == 2 * group.width
    now, was = tensors_of(net)[name], tensors_of(old)[name]
    slot = next(slot for slot in new.slots if slot.name == name)
    rows = kernels(now.detach(), slot.dim, edited.positions(new, slot))[group.width :]
    moved = rows.norm() / was.norm().detach()
    assert 0.2 < float(moved) < 5  # of the size of the layer's own weights


def test_new_neurons_have_the_size_of_their_layer() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(50, 40), nn.Tanh(), nn.Linear(40, 2))
    graph = ramify.trace(net, torch.randn(2, 50))
    splits = [p.edit for p in NewNeuron(scale=2.0).propose(graph, per_sample, [])]
    fresh = torch.stack([s.offsets["0.weight"][1] + net[0].weight[s.channel] for s in splits])
    ratio = float((fresh.square().mean() / net[0].weight.detach().square().mean()).sqrt())
    assert ratio == pytest.approx(2.0, rel=0.05)
    assert all(s.weights == (1.0, 0.0) and not s.offsets["0.weight"][0].any() for s in splits)


def outgoing_gradient(net: nn.Module, batch: Batch, split: Split, loss: Loss = per_sample) -> float:
    """The norm of the gradient to the new neuron's outgoing weights, after a real edit."""
    twin = copy.deepcopy(net)
    old = ramify.trace(twin, batch[0][:2])
    width = old[split.group].width
    graph = ramify.apply(old, [split])
    group = graph[split.group]
    twin.zero_grad()
    loss(twin, batch).mean().backward()
    total = 0.0
    for slot in group.slots:
        if slot.role == "consumer":
            own = graph.dims[slot.name][slot.dim]
            where = positions(own, group.atom)
            slope = tensors_of(twin)[slot.name].grad
            total += float(kernels(slope, slot.dim, where)[width].square().sum())
    return total**0.5


@pytest.mark.parametrize("kind", KINDS)
def test_boosting_scores_are_the_gradients_to_outgoing_weights(kind: str) -> None:
    net, batch = build(kind)
    graph = ramify.trace(net, batch[0][:2])
    start = Boosting(steps=1, lr=1e-9).propose(graph, per_sample, halved(batch))
    trained = Boosting(steps=15).propose(graph, per_sample, halved(batch))
    assert len(trained) == sum(group.width for group in graph.groups if group.can_split)
    for proposal in (trained[0], trained[-1]):
        assert proposal.score == pytest.approx(outgoing_gradient(net, batch, proposal.edit))
    channels = {(p.edit.group, p.edit.channel): p.score for p in start}
    better = [p.score / channels[p.edit.group, p.edit.channel] for p in trained]
    assert min(better) >= 1 - 1e-6
    assert sum(better) / len(better) > 1.3


@pytest.mark.parametrize("name", ["Grouped", "Depthwise"])
def test_boosting_counts_no_other_new_neuron(name: str) -> None:
    """Channels within convolution groups, and the groups, are two axes of one dimension."""
    net, inputs = STRUCTURES[name].make()

    def squared(model: nn.Module, batch: Batch) -> Tensor:
        return model(batch[0]).square().flatten(1).mean(1)

    batch = (inputs, torch.zeros(len(inputs)))
    graph = ramify.trace(net, inputs)
    for proposal in Boosting(steps=1).propose(graph, squared, [batch]):
        expected = outgoing_gradient(net, batch, proposal.edit, squared)
        assert proposal.score == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_boosting_climbs_the_true_gradient(kind: str) -> None:
    """Against finite differences, each channel with its own, though all move at once."""
    net, batch = build(kind)
    graph = ramify.trace(net, batch[0][:2])
    groups = [group for group in graph.groups if group.can_split]
    held = [producer_kernels(graph, group) for group in groups]
    fresh, along = (
        [{n: torch.randn_like(k) for n, k in kernel.items()} for kernel in held] for _ in range(2)
    )

    def squares(step: float) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
        moved = [{n: r[n] + step * a[n] for n in r} for r, a in zip(fresh, along, strict=True)]
        edits = additions(groups, held, moved)
        return outgoing_gradients(graph, groups, edits, per_sample, halved(batch))

    (up, _), (down, _), (_, slopes) = squares(1e-5), squares(-1e-5), squares(0.0)
    for high, low, slope, way in zip(up, down, slopes, along, strict=True):
        expected = (high - low) / 2e-5
        found = sum((slope[n] * way[n]).reshape(len(expected), -1).sum(1) for n in way)
        assert torch.allclose(found, expected, rtol=1e-5, atol=1e-9)
        assert expected.abs().max() > 1e-7


def test_boosted_neurons_stay_within_their_ball() -> None:
    net, batch = prepared("residual")
    graph = ramify.trace(net, batch[0][:2])

    def lengths(method: Method) -> dict[tuple[str, int], float]:
        out = {}
        for proposal in method.propose(graph, per_sample, [batch]):
            split = proposal.edit
            held = producer_kernels(graph, graph[split.group])
            fresh = [(held[n][split.channel] + o[1]).flatten() for n, o in split.offsets.items()]
            out[split.group, split.channel] = float(torch.cat(fresh).norm())
        return out

    start, end = lengths(Boosting(steps=1, lr=1e-9)), lengths(Boosting(steps=20, lr=0.5))
    assert all(end[key] <= start[key] * (1 + 1e-9) for key in start)


@pytest.mark.parametrize("kind", ["perceptron", "conv-bn-softplus", "residual", "depthwise"])
def test_line_search_gains_what_it_says(kind: str) -> None:
    net, batch = build(kind)
    graph = ramify.trace(net, batch[0][:2])
    proposals = LineSearch().propose(graph, per_sample, halved(batch))
    assert len(proposals) == sum(group.width for group in graph.groups if group.can_split)
    exact = SplittingDescent(eigen="exact").propose(graph, per_sample, [batch])
    indices = {(p.edit.group, p.edit.channel): p.splitting_index for p in exact}
    radius = max(abs(index) for index in indices.values())
    for proposal in proposals:
        index = indices[proposal.edit.group, proposal.edit.channel]
        assert proposal.splitting_index == pytest.approx(index, abs=2e-3 * radius)
    before = mean_loss(net, batch)
    best = proposals[0]
    ramify.apply(graph, [best.edit])
    assert before - mean_loss(net, batch) == pytest.approx(best.gain, abs=1e-12)
    assert best.gain > 0


def test_line_search_moves_along_the_smallest_eigenvector() -> None:
    net, batch = prepared("residual")
    graph = ramify.trace(net, batch[0][:2])
    method = LineSearch(tolerance=1e-8, groups=("stem",), channels=(2,))
    (proposal,) = method.propose(graph, per_sample, [batch])
    matrix = ramify.splitting_matrix(graph, "stem", per_sample, [batch])[2]
    lowest = torch.linalg.eigh(matrix).eigenvectors[:, 0]
    move = torch.cat([part[0].flatten() for part in proposal.edit.offsets.values()])
    assert abs(float(move @ lowest)) == pytest.approx(float(move.norm()), rel=1e-6)


def test_best_length_finds_the_largest_decrease() -> None:
    seen = []

    def decrease(t: float) -> float:
        seen.append(t)
        return -((t - 0.37) ** 2)

    t, value = best_length(decrease, 1e-3, 10.0, 9, 6)
    assert t == pytest.approx(0.37, rel=0.02)
    assert value == decrease(t)
    assert len(seen) <= 9 + 2 * 6 + 1
    beyond, _ = best_length(lambda t: t if t < 100 else -1.0, 1e-3, 1.0, 4, 2)
    assert beyond > 1.0


@pytest.mark.parametrize("kind, channels", [("perceptron", (0, 1)), ("depthwise", (2,))])
def test_the_oracle_gains_what_it_says_and_beats_the_line_search(
    kind: str, channels: tuple[int, ...]
) -> None:
    net, batch = build(kind)
    graph = ramify.trace(net, batch[0][:2])
    first = next(group.name for group in graph.groups if group.can_split)
    chosen = {"groups": (first,), "channels": channels}
    line = LineSearch(**chosen).propose(graph, per_sample, [batch])
    oracle = Expansion(steps=200, lr=5e-2, **chosen).propose(graph, per_sample, [batch])
    best = {p.edit.channel: p.gain for p in oracle}
    assert set(best) == set(channels)
    assert all(best[p.edit.channel] > p.gain for p in line)
    before = mean_loss(net, batch)
    ramify.apply(graph, [oracle[0].edit])
    assert before - mean_loss(net, batch) == pytest.approx(oracle[0].gain, abs=1e-12)


def test_no_neuron_is_added_where_no_weight_would_read_it() -> None:
    net, batch = prepared("sums")  # products of activations read all of its channels
    graph = ramify.trace(net, batch[0][:2])
    assert not any(group.consumers for group in graph.groups if group.can_split)
    assert Boosting().propose(graph, per_sample, [batch]) == []


def test_the_oracle_moves_copies_apart_and_holds_everything_else() -> None:
    net, batch = prepared("depthwise")
    graph = ramify.trace(net, batch[0][:2])
    (proposal,) = Expansion(steps=5, groups=("p",), channels=(3,)).propose(
        graph, per_sample, [batch]
    )
    split = proposal.edit
    assert (split.group, split.channel, split.weights) == ("p", 3, (0.5, 0.5))
    for part in split.offsets.values():
        assert torch.equal(part[0], -part[1])
        assert part.any()


class Overflowing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b((20 * self.a(x)).exp())


def test_steps_beyond_what_numbers_hold_are_no_gain() -> None:
    net = Overflowing()
    batch = (torch.randn(8, 3), torch.randint(0, 2, (8,)))
    graph = ramify.trace(net, batch[0])
    before = snapshot(net)
    for method in (LineSearch(longest=1e3), Expansion(steps=5, lr=1e3)):
        for proposal in method.propose(graph, per_sample, [batch]):
            assert -1e30 < proposal.gain < 1e30
            assert all(torch.isfinite(o).all() for o in proposal.edit.offsets.values())
    assert snapshot(net) == before


def test_weights_of_half_the_precision() -> None:
    net, batch = prepared("conv-bn-softplus")
    net, batch = net.bfloat16(), (batch[0].bfloat16(), batch[1])
    graph = ramify.trace(net, batch[0][:2])

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return cross_entropy(model(batch[0]).float(), batch[1], reduction="none")

    for method in METHODS:
        proposals = method.propose(graph, loss, [batch])
        assert all(torch.isfinite(torch.tensor(p.value)) for p in proposals)
        ramify.apply(ramify.trace(copy.deepcopy(net), batch[0][:2]), [proposals[0].edit])


class Rectified(nn.Module):
    """In-place activations, and attention in its fused form."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.act, self.b = nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 6)
        self.out, self.c = nn.Linear(2, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.b(self.act(self.a(x))).split(2, -1)
        x = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.c(self.act(self.out(x)).mean(1))


def test_inplace_activations_and_fused_attention_under_autocast() -> None:
    torch.manual_seed(0)
    net = Rectified()
    batch = (torch.randn(8, 4, 3), torch.randint(0, 2, (8,)))
    graph = ramify.trace(net, batch[0][:2])

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return cross_entropy(model(batch[0]).float(), batch[1], reduction="none")

    before = snapshot(net)
    for method in METHODS:
        if isinstance(method, BNScale):
            continue
        plain = {key(p): p.value for p in method.propose(graph, per_sample, [batch])}
        found = {key(p): p.value for p in method.propose(graph, loss, [batch])}
        assert found.keys() == plain.keys()
        largest = max(abs(value) for value in plain.values())
        if not isinstance(method, (SplittingDescent, LineSearch, Expansion)):  # noisier than this
            assert all(abs(found[k] - plain[k]) < 0.1 * largest for k in plain)
    assert snapshot(net) == before


def key(proposal: ramify.Proposal) -> tuple[str, int]:
    return proposal.edit.group, proposal.edit.channel


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: RandomSplit(step=0), "step must be positive"),
        (lambda: LineSearch(surrogate=0.0), "surrogate must be positive"),
        (lambda: RandomSplit(copies=1), "at least 2"),
        (lambda: Net2Net(noise=-1), "0 or more"),
        (lambda: NewNeuron(scale=0), "scale must be positive"),
        (lambda: Boosting(steps=0), "steps must be positive"),
        (lambda: Boosting(lr=0), "lr must be positive"),
        (lambda: LineSearch(shortest=2.0, longest=1.0), "shortest must be positive and below"),
        (lambda: LineSearch(points=1), "points must be at least 2"),
        (lambda: Expansion(start=0), "start must be positive"),
    ],
)
def test_settings_are_checked(make: Callable[[], Method], message: str) -> None:
    with pytest.raises(RamifyError, match=message):
        make()


@pytest.mark.parametrize("method", [LineSearch, Expansion])
def test_what_cannot_be_split_is_not_searched(method: type[LineSearch] | type[Expansion]) -> None:
    net, batch = prepared("perceptron")
    graph = ramify.trace(net, batch[0])
    with pytest.raises(RamifyError, match="'c' cannot be split by this method: it is an output"):
        method(groups=("c",)).propose(graph, per_sample, [batch])
    with pytest.raises(RamifyError, match="'b' has channels 0 to 2, but channel 4"):
        method(channels=(4,)).propose(graph, per_sample, [batch])


def test_boosting_needs_a_batch() -> None:
    net, batch = prepared("perceptron")
    graph = ramify.trace(net, batch[0])
    with pytest.raises(RamifyError, match="no batch to find new neurons on"):
        Boosting().propose(graph, per_sample, [])
    with pytest.raises(RamifyError, match="can be gone through again"):
        Boosting().propose(graph, per_sample, iter([batch]))


@pytest.mark.parametrize("method", [Boosting(steps=2), Expansion(steps=2)])
def test_what_is_learned_in_float16_is_refused(method: Method) -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).half()
    x = torch.randn(5, 4).half()
    with pytest.raises(RamifyError, match="'0.weight' is of float16, in which displacements"):
        method.propose(ramify.trace(net, x), lambda model, x: model(x).square().mean(1), [x])
