"""Edits on every structure: splits keep the outputs, prunes are masks, and they compose."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ramify
from ramify import ChannelGraph, Prune, RamifyError, Split
from tests.checks import ability, call, distance, mask, outputs
from tests.structures import STRUCTURES

NAMES = sorted(STRUCTURES)
WEIGHTS = [(0.5, 0.5), (1.3, -0.3), (0.2, 0.3, 0.5)]


def traced(name: str) -> tuple[ChannelGraph, Any]:
    graph = STRUCTURES[name].graph()
    return graph, graph.inputs


def able(name: str, *kinds: str) -> list[str]:
    return [key for key, what in STRUCTURES[name].groups.items() if what.split()[1] in kinds]


def described(graph: ChannelGraph) -> list[Any]:
    return [(g.name, ability(g), g.producers, g.carriers, g.consumers) for g in graph.groups]


# ------------------------------------------------------------------------------- exactness


@pytest.mark.parametrize("name", NAMES)
def test_split_without_offsets_keeps_the_outputs(name: str) -> None:
    for key in able(name, "split", "one"):
        for weights in WEIGHTS:
            graph, inputs = traced(name)
            before = outputs(STRUCTURES[name].make()[0], inputs)
            chosen = range(0, graph[key].width, 2)
            edited = ramify.apply(graph, [Split(key, channel, weights) for channel in chosen])
            assert distance(before, outputs(graph.model, inputs)) <= 1e-12
            copies = [c for c in chosen for _ in weights[1:]]
            assert edited.origin[key] == [*range(graph[key].width), *copies]


@pytest.mark.parametrize("name", NAMES)
def test_prune_equals_the_channel_zeroed_where_it_is_read(name: str) -> None:
    for key in able(name, "split", "prune"):
        for channels in ([0], [graph_width(name, key) - 1]):
            graph, inputs = traced(name)
            mask(graph, graph[key], channels)
            expected = outputs(graph.model, inputs)
            graph, inputs = traced(name)
            edited = ramify.apply(graph, [Prune(key, channel) for channel in channels])
            assert distance(expected, outputs(graph.model, inputs)) <= 1e-12
            if graph[key].width > 2:  # an axis of one channel may not be told from none
                kept = [c for c in range(graph[key].width) if c not in channels]
                assert edited.origin[key] == kept


def graph_width(name: str, key: str) -> int:
    return int(STRUCTURES[name].groups[key].split()[0])


@pytest.mark.parametrize("name", [n for n in NAMES if able(n, "inexact")])
def test_inexact_prune_runs_forward_and_backward(name: str) -> None:
    for key in able(name, "inexact"):
        graph, inputs = traced(name)
        ramify.apply(graph, [Prune(key, 1)])
        graph.model.train()
        sum(out.sum() for out in call(graph.model, inputs)).backward()  # type: ignore[union-attr]
        assert all(p.grad is None or p.grad.shape == p.shape for p in graph.model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_split_then_prune_of_the_copy_restores_every_bit(name: str) -> None:
    for key in able(name, "split", "one"):
        graph, _ = traced(name)
        before = {n: t.clone() for n, t in graph.model.state_dict().items()}
        width = graph[key].width
        edited = ramify.apply(graph, [Split(key, 0, (1.0, 0.0))])
        edited = ramify.apply(edited, [Prune(key, width)])
        assert described(edited) == described(graph)
        after = graph.model.state_dict()
        for name_, tensor in before.items():
            if any(place[0] == name_ for place in edited.indexing.scaled_rows):  # √(4/3) · √(3/4)
                torch.testing.assert_close(after[name_], tensor, rtol=1e-15, atol=0)
            else:
                assert torch.equal(after[name_], tensor)


@pytest.mark.parametrize("name", NAMES)
def test_the_graph_after_an_edit_is_what_a_new_trace_finds(name: str) -> None:
    for key in able(name, "split", "prune", "inexact"):
        graph, inputs = traced(name)
        edit = Split(key, 1) if graph[key].can_split else Prune(key, 1)
        edited = ramify.apply(graph, [edit])
        assert described(edited) == described(ramify.trace(graph.model, inputs))


@pytest.mark.parametrize("name", NAMES)
def test_every_group_can_be_pruned_to_its_last_channels(name: str) -> None:
    for key in able(name, "split", "prune", "inexact"):
        graph, inputs = traced(name)
        width, least = graph[key].width, graph[key].least
        ramify.apply(graph, [Prune(key, channel) for channel in range(least, width)])
        assert all(torch.isfinite(out).all() for out in outputs(graph.model, inputs))


def test_what_is_known_of_a_group_survives_the_end_of_its_neighbour() -> None:
    """With one group left, the axis of groups is gone; what counts its channels still does."""

    class Counted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 8, 1, groups=2)
            self.c = nn.Conv2d(8, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.tanh(self.a(x)) / self.b.weight.size(1)
            return self.c(torch.tanh(self.b(x)))

    model, x = Counted().double(), torch.randn(1, 3, 2, 2, dtype=torch.float64)
    graph = ramify.trace(model, x)
    assert [ability(graph[name]) for name in ("a:0", "a:1")] == ["2 split", "3 inexact"]
    graph = ramify.apply(graph, [Prune("a:0", 0)])
    assert ability(graph["a"]) == "3 inexact"


@pytest.mark.parametrize("name", ["ResidualStream", "Depthwise", "Conv3d", "PixelShuffle"])
def test_edited_networks_train(name: str) -> None:
    graph, inputs = traced(name)
    optimizer = torch.optim.SGD(graph.model.parameters(), lr=1e-3, momentum=0.9)
    losses = []
    for step in range(6):
        graph.model.train()
        loss = sum(out.square().mean() for out in call(graph.model, inputs))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[union-attr]
        optimizer.step()
        losses.append(loss.item())  # type: ignore[union-attr]
        if step == 2:
            key = able(name, "split")[0]
            graph = ramify.apply(graph, [Split(key, 0), Prune(key, 1)], optimizer=optimizer)
    assert losses[-1] < losses[2] < losses[0]


# --------------------------------------------------------------------- several edits at once


class Chain(nn.Module):
    """Convolutions with norms, a residual join, a flatten and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.n = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.b, self.c = nn.Conv2d(4, 3, 3, padding=1), nn.Conv2d(3, 4, 1)
        self.d, self.e = nn.Linear(4 * 9, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.n(self.a(x)))
        x = x + self.c(torch.tanh(self.b(x)))
        return self.e(torch.tanh(self.d(x.flatten(1))))


def chain() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(1)
    model = Chain().double().eval()
    model.n.running_mean.normal_()
    return model, torch.randn(2, 2, 3, 3, dtype=torch.float64)


def offsets(model: nn.Module, names: list[str], copies: int) -> dict[str, Tensor]:
    tensors = dict(model.named_parameters())
    return {n: torch.randn(copies, *tensors[n].shape[1:], dtype=torch.float64) for n in names}


def test_edits_in_one_call_equal_edits_one_after_another() -> None:
    """Downstream first, so that every offset still has the shape it has in the one call."""
    model, x = chain()
    edits = [
        Split("d", 4, (0.3, 0.7), offsets(model, ["d.weight", "d.bias"], 2)),
        Prune("d", 0),
        Split("b", 1, (0.2, 0.3, 0.5), offsets(model, ["b.weight", "b.bias"], 3)),
        Split("b", 2, offsets=offsets(model, ["b.weight"], 2)),
        Split("a", 3, (1.5, -0.5), offsets(model, ["a.weight", "c.bias"], 2)),
        Prune("a", 1),
        Split("a", 0),
    ]
    ramify.apply(ramify.trace(model, x), edits)
    other, _ = chain()
    graph = ramify.trace(other, x)
    now: dict[str, list[int]] = {}
    for edit in edits:
        here = now.setdefault(edit.group, list(range(graph[edit.group].width)))
        at = here.index(edit.channel)
        if isinstance(edit, Split):
            graph = ramify.apply(graph, [Split(edit.group, at, edit.weights, edit.offsets)])
        else:
            graph = ramify.apply(graph, [Prune(edit.group, at)])
        now[edit.group] = [here[old] for old in graph.origin[edit.group]]
    expected = other.state_dict()
    for key, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, expected[key], rtol=1e-14, atol=1e-14)


def test_a_displaced_kernel_follows_the_edits_of_its_inputs() -> None:
    """b's displaced copy reads a's two copies with a's weights, and not a's pruned channel."""
    model, x = chain()
    move = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    old = model.b.weight.detach().clone()
    edits = [
        Split("b", 1, offsets={"b.weight": move}),
        Split("a", 0, (0.25, 0.75)),
        Prune("a", 2),
    ]
    ramify.apply(ramify.trace(model, x), edits)
    first, second = old[1] + move[0], old[1] + move[1]
    for row, kernel in ((1, first), (3, second)):
        expected = torch.stack([0.25 * kernel[0], kernel[1], kernel[3], 0.75 * kernel[0]])
        torch.testing.assert_close(model.b.weight[row], expected)


@pytest.mark.parametrize(
    "name", ["Grouped", "GroupedTransposed", "Depthwise", "ViT", "PixelShuffle"]
)
def test_offsets_of_channels_in_several_places(name: str) -> None:
    """A channel that lies at k rows has offsets (copies, k, ...), in the order of the rows."""
    for key in able(name, "split"):
        graph, _ = traced(name)
        group = graph[key]
        producer = next(s for s in group.slots if s.role == "producer")
        weight = dict(graph.model.named_parameters())[producer.name]
        rows = graph.positions(group, producer)[1]
        kernel = weight.detach().movedim(producer.dim, 0)[torch.from_numpy(rows)].clone()
        kernel = kernel.squeeze(0) if len(rows) == 1 else kernel
        move = torch.randn(2, *kernel.shape, dtype=torch.float64)
        copies = []
        for offsets in ({}, {producer.name: move}):
            graph, _ = traced(name)
            edited = ramify.apply(graph, [Split(key, 1, offsets=offsets)])
            weight = dict(graph.model.named_parameters())[producer.name]
            where = edited.positions(edited[key], producer)[[1, group.width]]
            rows = weight.detach().movedim(producer.dim, 0)[torch.from_numpy(where)]
            copies.append(rows.reshape(move.shape))
        # Rows that take the copies' shares where no weight reads take the displacement's too.
        share = copies[0] / kernel
        torch.testing.assert_close(copies[1], share * (kernel + move), rtol=1e-12, atol=1e-14)


PER_HEAD = {
    "NamedSizes": ("qkv:1", "qkv:2"),
    "WrittenOut": ("q:0", "q:1"),
    "GroupedAttributes": ("q:0", "q:2"),
    "ViT": ("att.qkv:1", "att.qkv:2"),
}


@pytest.mark.parametrize("name", PER_HEAD)
def test_each_head_may_lose_a_channel_of_its_own(name: str) -> None:
    """It equals the same channels zeroed in every tensor that makes them."""
    graph, inputs = traced(name)
    heads, group = (graph[key] for key in PER_HEAD[name])
    chosen = [tuple((n + 1) % group.width for n in range(heads.width))]
    for slot in group.slots:
        if slot.role == "producer":
            tensor = dict(graph.model.named_parameters())[slot.name]
            of_head = graph.positions(heads, next(s for s in heads.slots if s.name == slot.name))
            for each in chosen:
                for head, channel in enumerate(each):
                    rows = np.intersect1d(of_head[head], graph.positions(group, slot)[channel])
                    tensor.data.index_fill_(slot.dim, torch.from_numpy(rows), 0)
    expected = outputs(graph.model, inputs)
    graph, inputs = traced(name)
    graph = ramify.apply(graph, [Prune(group.name, each) for each in chosen])
    assert graph[group.name].width == group.width - 1
    assert distance(expected, outputs(graph.model, inputs)) < 1e-12


def test_channels_of_heads_that_share_a_table_go_together() -> None:
    graph, _ = traced("Rotary")
    with pytest.raises(RamifyError, match="heads"):
        ramify.apply(graph, [Prune("q:2", (0, 1))])
    graph, _ = traced("WrittenOut")
    with pytest.raises(RamifyError, match="one for each head .* it has 2 heads"):
        ramify.apply(graph, [Prune("q:1", (0, 1, 2))])
    stream, _ = traced("ResidualStream")
    with pytest.raises(RamifyError, match="it has no heads"):
        ramify.apply(stream, [Prune("stem", (0, 1))])
    with pytest.raises(RamifyError, match="split in one call"):
        ramify.apply(graph, [Prune("q:1", (0, 1)), Split("q:1", 2)])


def test_a_layer_that_reads_its_own_channels() -> None:
    graph, _ = traced("CalledTwice")
    move = torch.randn(2, 6, dtype=torch.float64)
    old = graph.model.a.weight.detach().clone()  # type: ignore[union-attr]
    ramify.apply(graph, [Split("stem", 2, (0.3, 0.7), {"a.weight": move})])
    new = graph.model.a.weight.detach()  # type: ignore[union-attr]
    kernel = old[2] + move[1]
    expected = torch.cat([kernel, 0.7 * kernel[2:3]])
    expected[2] *= 0.3
    torch.testing.assert_close(new[6], expected)


# ------------------------------------------------------------------------- what is kept


def test_dtype_memory_format_and_requires_grad_are_kept() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3)).bfloat16()
    model.to(memory_format=torch.channels_last)
    model[0].weight.requires_grad_(False)
    parameters = list(model.parameters())
    ramify.apply(ramify.trace(model, torch.randn(1, 3, 8, 8).bfloat16()), [Split("0", 1)])
    assert list(map(id, parameters)) == list(map(id, model.parameters()))
    assert model[0].weight.shape == (9, 3, 3, 3)
    assert not model[0].weight.requires_grad
    assert model[2].weight.requires_grad
    assert all(p.dtype == torch.bfloat16 for p in parameters)
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert model[2].weight.is_contiguous(memory_format=torch.channels_last)


def test_module_attributes_follow() -> None:
    graph, _ = traced("Grouped")
    ramify.apply(graph, [Split("a:0", 0), Split("a:1", 1), Split("b", 2)])
    a, b, c = graph.model.a, graph.model.b, graph.model.c
    assert (a.in_channels, a.out_channels, a.groups) == (3, 12, 1)
    assert (b.in_channels, b.out_channels, b.groups) == (12, 15, 3)
    assert (c.in_channels, c.out_channels) == (15, 2)
    graph, _ = traced("GroupNorm")
    ramify.apply(graph, [Split("a:0", 0), Prune("d", 0)])
    assert (graph.model.n.num_groups, graph.model.n.num_channels) == (3, 9)
    assert (graph.model.o.num_groups, graph.model.o.num_channels) == (1, 4)
    graph, _ = traced("LayerAndRMSNorm")
    ramify.apply(graph, [Prune("a", 0), Prune("b", 0), Prune("d", 0)])
    model = graph.model
    assert [n.normalized_shape for n in (model.n, model.m, model.o)] == [(5,), (4,), (3,)]
    assert (model.b.in_features, model.b.out_features) == (5, 4)
    graph, _ = traced("InstanceNorm")
    ramify.apply(graph, [Split("a", 0), Split("b", 0), Split("d", 0)])
    assert [getattr(graph.model, n).num_features for n in "nmo"] == [5, 6, 4]
    graph, _ = traced("TiedEmbedding")
    ramify.apply(graph, [Prune("table:1", 0)])
    assert graph.model.table.embedding_dim == graph.model.head.in_features == 3
    graph, _ = traced("Activations")
    ramify.apply(graph, [Split("a", 0)])
    assert graph.model.p.num_parameters == 5


def test_an_old_loss_and_hooks_survive_an_edit() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    x = torch.randn(5, 3)
    seen: list[torch.Size] = []
    model[0].weight.register_hook(lambda grad: seen.append(grad.shape))
    model[0].weight.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.shape))
    old_loss = model(x).sum()
    old_loss.backward(retain_graph=True)
    model.zero_grad()
    graph = ramify.trace(model, x)
    old_loss.backward(retain_graph=True)  # a trace changes nothing for a graph made before it
    assert model[0].weight.grad is not None
    model.zero_grad()
    seen.clear()
    ramify.apply(graph, [Split("0", 1), Prune("0", 0), Split("0", 2, (0.2, 0.3, 0.5))])
    model(x).sum().backward()
    assert old_loss.requires_grad
    assert [tuple(p.grad.shape) for p in model.parameters() if p.grad is not None] == [
        (6, 3),
        (6,),
        (2, 6),
        (2,),
    ]
    assert seen == [(6, 3), (6, 3)]


def test_gradients_follow_as_if_the_copies_had_always_been_there() -> None:
    model, x = chain()
    other, _ = chain()
    edits = [Split("a", 1, (0.3, 0.7)), Split("d", 0, (1.4, -0.4)), Prune("b", 1)]
    for net, first in ((model, False), (other, True)):
        if first:
            ramify.apply(ramify.trace(net, x), edits[:2])
        net(x).square().sum().backward()
        if not first:
            ramify.apply(ramify.trace(net, x), edits[:2])
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-10, atol=1e-12)


def test_one_follower_need_not_stand_in_a_list() -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    average = copy.deepcopy(net)
    ramify.apply(ramify.trace(net, torch.randn(1, 4)), Prune("0", 0), followers=average)
    assert average[0].out_features == 5


class Counts(nn.Module):
    """A number that one channel less leaves as it is, and five less do not."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 10), nn.Linear(10, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        return self.b(x / (x.shape[1] // 4))


def test_channels_whose_number_the_forward_reads_are_not_zeros_without_a_word() -> None:
    torch.manual_seed(0)
    model, x = Counts(), torch.randn(3, 4)
    graph = ramify.trace(model, x)
    assert graph["a"].prune_exact  # as far as one channel shows
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graph = ramify.apply(graph, [Prune("a", 3), Prune("a", 5)])  # eight remain: still // 4 = 2
    with pytest.warns(UserWarning, match="fewer channels of 'a' .* depends on the number") as said:
        ramify.apply(graph, [Prune("a", 0), Split("a", 1), Prune("a", 2)])
    assert said[0].filename == __file__


# ------------------------------------------------------------------------------- computed weights


@pytest.mark.parametrize(
    "hooked",
    [
        lambda layer: nn.utils.weight_norm(layer),
        lambda layer: nn.utils.spectral_norm(layer),
        lambda layer: nn.utils.prune.l1_unstructured(layer, "weight", 0.3),
    ],
    ids=["weight norm", "spectral norm", "mask"],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_a_weight_that_a_hook_computes_is_right_before_the_next_run(hooked: Any) -> None:
    net = nn.Sequential(hooked(nn.Linear(4, 8)), nn.ReLU(), hooked(nn.Linear(8, 2))).eval()
    x = torch.randn(3, 4)
    ramify.apply(ramify.trace(net, x), [Prune("0", 1)])
    before = [net[0].weight.clone(), net[2].weight.clone()]
    net(x)
    assert net[0].weight.shape == (7, 4)
    assert torch.equal(before[0], net[0].weight)
    assert torch.equal(before[1], net[2].weight)
