"""Trials against what `ramify.apply` really does, their gradients against finite differences."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import ramify
from ramify import ChannelGraph, ChannelGroup, Prune, RamifyError, Split
from ramify.edit.plan import kernel_shape
from ramify.methods import RandomSplit
from ramify.methods.trial import Trial, binary_split
from tests.checks import snapshot
from tests.methods.networks import KINDS, build, halved
from tests.nets import per_sample
from tests.structures import STRUCTURES


def random_move(graph: ChannelGraph, group: ChannelGroup, size: float = 1.5) -> dict[str, Tensor]:
    slots = [slot for slot in group.slots if slot.role == "producer"]
    return {s.name: size * torch.randn(kernel_shape(graph, group, s)).double() for s in slots}


def really(net: nn.Module, batch: tuple[Tensor, Tensor], edits: list[ramify.Edit]) -> float:
    twin = copy.deepcopy(net)
    ramify.apply(ramify.trace(twin, batch[0][:2]), edits)
    with torch.no_grad():
        return float((per_sample(net, batch) - per_sample(twin, batch)).mean())


def splittable(graph: ChannelGraph) -> Iterator[ChannelGroup]:
    found = [group for group in graph.groups if group.can_split]
    assert found
    yield from found


@pytest.mark.parametrize("kind", KINDS)
def test_a_trial_equals_the_edit(kind: str) -> None:
    net, batch = build(kind)
    graph = ramify.trace(net, batch[0][:2])
    trial, largest, together = Trial(graph, per_sample, halved(batch)), 0.0, []
    for group in splittable(graph):
        channel = group.width - 1
        split = binary_split(group.name, channel, random_move(graph, group))
        together.append(split)
        for edit in (split, Prune(group.name, channel)):
            true = really(net, batch, [edit])
            assert abs(trial.decrease([edit]) - true) < 1e-12
            largest = max(largest, abs(true))
    assert abs(trial.decrease(together) - really(net, batch, together)) < 1e-12
    assert largest > 1e-3  # edits without effect would prove nothing


@pytest.mark.parametrize(
    "name",
    ["DenseConcat", "SwiGLU", "HandWrittenCell", "CalledTwice", "PixelShuffle", "WeightNorm"],
)
def test_a_trial_equals_the_edit_of_other_structures(name: str) -> None:
    net, inputs = STRUCTURES[name].make()

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return model(batch).square().reshape(len(batch), -1).mean(1)

    graph = ramify.trace(net, inputs)
    trial = Trial(graph, loss, [inputs])
    splits = [p.edit for p in RandomSplit(0.5, copies=3).propose(graph, loss, [])]
    edits: list[ramify.Split | Prune] = [split for split in splits if split.channel == 0]
    edits += [Prune(group.name, 0) for group in graph.groups if group.can_prune]
    assert edits
    for edit in edits:
        twin = copy.deepcopy(net)
        ramify.apply(ramify.trace(twin, inputs), [edit])
        with torch.no_grad():
            true = float((loss(net, inputs) - loss(twin, inputs)).mean())
        assert trial.decrease([edit]) == pytest.approx(true, rel=1e-11, abs=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_slopes_are_the_gradient_of_the_edited_network(kind: str) -> None:
    net, batch = build(kind)
    graph = ramify.trace(net, batch[0][:2])
    trial = Trial(graph, per_sample, halved(batch))
    for group in splittable(graph):
        moves = three_moves(graph, group)
        along = three_moves(graph, group)
        split, up, down = (
            Split(group.name, 0, (0.5, 0.8, -0.3), {n: moves[n] + t * along[n] for n in moves})
            for t in (0.0, 1e-5, -1e-5)
        )
        decrease, slopes = trial.slopes(split)
        assert decrease == pytest.approx(trial.decrease([split]), abs=1e-14)
        expected = (trial.decrease([down]) - trial.decrease([up])) / 2e-5
        found = sum(float((slopes[name] * along[name]).sum()) for name in slopes)
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-9)
        assert abs(expected) > 1e-6


def three_moves(graph: ChannelGraph, group: ChannelGroup) -> dict[str, Tensor]:
    each = [random_move(graph, group, 0.7) for _ in range(3)]
    return {name: torch.stack([move[name] for move in each]) for name in each[0]}


def test_attention_heads_that_cannot_be_split_are_pruned_in_a_trial() -> None:
    net, batch = build("transformer")
    graph = ramify.trace(net, batch[0][:2])
    trial = Trial(graph, per_sample, [batch])
    groups = [group for group in graph.groups if group.can_prune and not group.can_split]
    assert groups
    for group in groups:
        edit = Prune(group.name, 1)
        assert abs(trial.decrease([edit]) - really(net, batch, [edit])) < 1e-12


@pytest.mark.parametrize("training", [True, False])
def test_a_trial_leaves_everything_as_it_was(training: bool) -> None:
    net, batch = build("conv-bn-softplus")
    graph = ramify.trace(net, batch[0][:2])
    net.train(training)
    net.a.weight.requires_grad_(False)
    optimizer = torch.optim.Adam(net.parameters())
    per_sample(net, batch).mean().backward()
    optimizer.step()
    trial = Trial(graph, per_sample, [batch])
    edit = binary_split("a", 0, random_move(graph, graph["a"]))
    before = snapshot(net, optimizer)
    trial.decrease([edit])
    _, slopes = trial.slopes(edit)
    assert snapshot(net, optimizer) == before
    assert slopes["a.weight"].abs().max() > 0  # frozen for the user, not for the trial


def test_a_trial_runs_in_eval_mode() -> None:
    net, batch = build("conv-bn-softplus")
    graph = ramify.trace(net, batch[0][:2])
    edit = binary_split("a", 0, random_move(graph, graph["a"]))
    expected = Trial(graph, per_sample, [batch]).decrease([edit])
    net.train()
    trial = Trial(graph, per_sample, [batch])
    assert trial.decrease([edit]) == trial.slopes(edit)[0] == expected


def test_a_trial_that_fails_leaves_the_model_alone() -> None:
    net, batch = build("perceptron")
    graph = ramify.trace(net, batch[0])
    before = snapshot(net)
    trial = Trial(graph, narrow_only, [batch])
    for measure in (lambda edit: trial.decrease([edit]), trial.slopes):
        with pytest.raises(RuntimeError, match="too wide"):
            measure(binary_split("a", 0, {"a.weight": torch.ones(4).double()}))
    assert snapshot(net) == before


def narrow_only(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    if model.a.out_features > 5:
        raise RuntimeError("too wide")
    return per_sample(model, batch)


def test_weights_cast_by_autocast_are_cast_anew() -> None:
    net, batch = build("perceptron")
    net, batch = net.float(), (batch[0].float(), batch[1])
    graph = ramify.trace(net, batch[0])
    edit = binary_split("a", 1, {"a.weight": torch.full((4,), 2.0)})

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return cross_entropy(model(batch[0]).float(), batch[1], reduction="none")

    with torch.autocast("cpu", torch.bfloat16):
        net(batch[0])
        trial = Trial(graph, loss, [batch])
        found = trial.decrease([edit])
    assert found == pytest.approx(Trial(graph, loss, [batch]).decrease([edit]), abs=0.02)
    assert abs(found) > 0.04


def test_batches_must_last() -> None:
    net, batch = build("perceptron")
    graph = ramify.trace(net, batch[0])
    with pytest.raises(RamifyError, match="there is no batch"):
        Trial(graph, per_sample, [])
    trial = Trial(graph, per_sample, iter([batch]))
    with pytest.raises(RamifyError, match="again and again"):
        trial.decrease([Split("a", 0)])
