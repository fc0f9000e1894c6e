"""Drops and inserts that cannot be: each is refused in a sentence, and nothing is changed."""

from __future__ import annotations

import copy
import threading
from typing import Any

import pytest
import torch
from torch import nn

import ramify
from ramify import Drop, Insert, Prune, RamifyError
from tests.block_nets import Linked, PreActivation, ResNet, Shared, lively, made, steps
from tests.checks import snapshot

REFUSED: list[tuple[str, Any, list[Any], str]] = [
    ("shape", ResNet, [Drop("layer2.0")], "cannot be dropped: it changes the shape of its stream"),
    (
        "no shape",
        ResNet,
        [Insert("layer2.0")],
        "no copy of block 'layer2.0' can be ins",
    ),
    ("shared", Shared, [Drop("blocks.1")], "it is shared, and runs 2 times in one forward"),
    ("insert shared", Shared, [Insert("blocks.1")], "it is shared, and runs 2 times"),
    ("last", lambda: ResNet((1, 1, 1)), [Drop("layer1.0")], "it is the only block of 'layer1'"),
    ("all", ResNet, [Drop("layer1.0"), Drop("layer1.1")], "would leave 'layer1' without a block"),
    ("unknown", ResNet, [Drop("layer1.2")], "no block 'layer1.2': did you mean 'layer2.2'"),
    ("twice", ResNet, [Drop("layer1.0"), Drop("layer1.0")], "'layer1.0' is dropped twice"),
    ("both", ResNet, [Drop("layer1.0"), Insert("layer1.0")], "is dropped and doubled"),
    ("no block", ResNet, [Drop(None)], "but got a NoneType"),  # type: ignore[arg-type]
    ("insert breaks", Linked, [Insert("down.0")], "taken back, as the edited model computes some"),
    ("channel", ResNet, [Drop("layer1.0"), Prune("layer1.0.conv1", 9)], "has channels 0 to 3"),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case[0])
def test_a_refusal_is_one_sentence_and_changes_nothing(
    case: tuple[str, Any, list[Any], str],
) -> None:
    _, build, edits, said = case
    torch.manual_seed(0)
    model, x = lively(build()), torch.randn(2, 3, 8, 8)
    optimizer, average = torch.optim.Adam(model.parameters()), copy.deepcopy(model)
    steps(model, x, optimizer, 1)
    table = dict(copy.deepcopy(model).state_dict())
    graph = ramify.trace(model, x)
    before = snapshot(model, optimizer, average, table)
    with pytest.raises(RamifyError) as error:
        ramify.apply(graph, edits, optimizer=optimizer, followers=[average, table])
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert snapshot(model, optimizer, average, table) == before
    assert not graph.superseded


def test_what_fails_at_the_end_takes_channels_back_too() -> None:
    model, x = lively(Linked()), torch.randn(2, 3, 8, 8)
    optimizer, average = torch.optim.Adam(model.parameters()), copy.deepcopy(model)
    steps(model, x, optimizer, 1)
    graph = ramify.trace(model, x, edit_outputs=True)
    group = next(group for group in graph.groups if group.can_prune)
    before = snapshot(model, optimizer, average)
    edits = [Prune(group.name, 0), Insert("down.0")]
    with pytest.raises(RamifyError):
        ramify.apply(graph, edits, optimizer=optimizer, followers=average)
    assert snapshot(model, optimizer, average) == before
    assert not graph.superseded
    ramify.apply(graph, [Prune(group.name, 0)], optimizer=optimizer, followers=average)


def test_a_follower_without_the_block_is_refused() -> None:
    model, x = made("convnext")
    other = nn.Sequential(nn.Linear(2, 2))
    graph, before = ramify.trace(model, x), snapshot(model)
    with pytest.raises(RamifyError, match="'' of this Sequential has other members"):
        ramify.apply(graph, [Drop("2")], followers=other)
    assert snapshot(model) == before


def test_a_stranger_among_the_optimizers_is_refused() -> None:
    model, x = made("convnext")
    other = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
    graph, before = ramify.trace(model, x), snapshot(model)
    with pytest.raises(RamifyError, match="holds no parameter of the model"):
        ramify.apply(graph, [Drop("2")], optimizer=other)
    assert snapshot(model) == before


def test_a_plain_layer_that_cannot_be_the_identity() -> None:
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.GELU()) for _ in range(2)]
    graph = ramify.trace(nn.Sequential(*layers), torch.randn(1, 3, 4, 4))
    with pytest.raises(RamifyError, match="neither residual nor a layer with ReLU"):
        ramify.apply(graph, [Insert("0")])
    convs = [nn.Conv2d(3, 3, (2, 3), padding=(0, 1)), nn.ZeroPad2d((0, 0, 1, 0)), nn.ReLU()]
    graph = ramify.trace(nn.Sequential(nn.Sequential(*convs)), torch.randn(1, 3, 4, 4))
    assert [block.can_insert for block in graph.blocks] in ([], [False])


class Locked(PreActivation):
    """Holds what cannot be copied."""

    def __init__(self) -> None:
        super().__init__(3)
        self.lock = threading.Lock()


def test_what_cannot_be_copied() -> None:
    model = nn.Sequential(Locked(), Locked())
    graph = ramify.trace(model, torch.randn(1, 3, 4, 4))
    with pytest.raises(RamifyError, match="no copy of this Locked can be made"):
        ramify.apply(graph, [Insert("0")])
    assert len(model) == 2


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 6)

    def forward(self, x):
        return x + self.fc(x)


class Outer(nn.Module):
    """A layer with two residual parts, each an attribute of one class."""

    def __init__(self):
        super().__init__()
        self.one, self.two = Inner(), Inner()

    def forward(self, x):
        return x + 0.5 * self.two(self.one(x))


class Stack(nn.Module):
    """A residual block with a list of residual blocks in it, and a layer that ends its branch."""

    def __init__(self):
        super().__init__()
        self.inner, self.end = nn.Sequential(Inner(), Inner(), Inner()), nn.Linear(6, 6)

    def forward(self, x):
        return x + self.end(self.inner(x))


def nested(parts):
    torch.manual_seed(0)
    members = [Outer() if parts else Stack() for _ in range(3)]
    net = nn.Sequential(*members).double().eval()
    return net, torch.randn(4, 6, dtype=torch.float64)


@pytest.mark.parametrize(("parts", "inner"), [(True, "1.two"), (False, "1.inner.1")])
def test_lists_within_lists_are_edited_by_the_names_of_the_graph(parts, inner):
    net, x = nested(parts)
    full = copy.deepcopy(net)
    graph = ramify.trace(net, x)
    ramify.apply(graph, [ramify.Drop("0"), ramify.Drop(inner)])
    gone = full.get_submodule(inner)
    gone.forward = lambda x: x
    wanted = full[2](full[1](x))
    assert torch.allclose(net(x), wanted, rtol=0, atol=1e-12)


def test_edits_within_a_block_that_is_doubled_are_refused():
    net, x = nested(parts=False)
    graph = ramify.trace(net, x)
    before = net(x)
    for inner in (ramify.Drop("1.inner.1"), ramify.Insert("1.inner.1")):
        with pytest.raises(ramify.RamifyError, match=r"'1.inner.1' lies in '1', of which a copy"):
            ramify.apply(graph, [ramify.Insert("1"), inner])
    assert torch.equal(net(x), before)


def test_a_block_that_is_none_once_its_channels_are_edited_is_refused_with_that_reason() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv1d(2, 3, 1), nn.Conv1d(3, 3, 1), nn.Conv1d(3, 2, 1))
    x = torch.randn(1, 2, 4)
    graph, before = ramify.trace(net.eval(), x), net(x)
    with pytest.raises(RamifyError, match="channels are edited first, and then .* '1'"):
        ramify.apply(graph, [Drop("1"), Prune("0", 0)])
    assert torch.equal(net(x), before)
    ramify.apply(graph, [Drop("1")])
    assert len(net) == 2
