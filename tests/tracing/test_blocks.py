"""Blocks: what is found, of which kind, and why one cannot go."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import ramify
from ramify import RamifyError
from ramify.tracing.blocks import find_block
from ramify.tracing.branch_ends import End
from tests.block_nets import Basic, ResNet, Shared, made

FOUND = {
    "resnet": "layer1.0 layer1.1 -layer2.0 layer2.1 layer2.2 -layer3.0",
    "preactivation": "0 1 2 -3",
    "flat vgg": "-0 3 7 -11",
    "nested vgg": "-0 1 2 -4",
    "convnext": "-0 1 2 3",
    "vit": "-0 1 2 3 -4",
    "encoder": "layers.0 layers.1 layers.2",
    "post-norm encoder": "layers.0 layers.1 layers.2",
    "linked": "down.0 down.1 down.2",
    "named": "first second",
}
PLAIN = {"flat vgg", "nested vgg"}


@pytest.mark.parametrize("name", FOUND)
def test_blocks_are_found_in_forward_order(name: str) -> None:
    graph = ramify.trace(*made(name))
    found = [("" if block.can_drop else "-") + block.name for block in graph.blocks]
    assert " ".join(found) == FOUND[name]
    kinds = {block.kind for block in graph.blocks if block.can_drop}
    assert kinds == {"plain" if name in PLAIN else "residual"}


def test_what_changes_the_shape_says_so() -> None:
    graph = ramify.trace(*made("resnet"))
    block = find_block(graph.blocks, "layer2.0")
    assert block.why == "it changes the shape of its stream from (2, 4, 8, 8) to (2, 8, 4, 4)"
    assert not block.can_insert


def test_cost_is_that_of_its_parameters_and_operations() -> None:
    graph = ramify.trace(*made("resnet"))
    block = find_block(graph.blocks, "layer1.1")
    module = graph.model.get_submodule("layer1.1")
    assert block.cost.params == sum(p.numel() for p in module.parameters())
    norms = 2 * 2 * 4 * 8 * 8
    assert block.cost.macs == 2 * 2 * 4 * 4 * 9 * 8 * 8 + norms
    assert block.cost.by_kind["norm"] == norms


def test_tied_parameters_are_not_the_blocks_own() -> None:
    model, x = made("preactivation")
    model[1].conv.weight = model[0].conv.weight
    graph = ramify.trace(model, x)
    own = sum(p.numel() for p in model[0].parameters()) - model[0].conv.weight.numel()
    assert [block.cost.params for block in graph.blocks[:2]] == [own, own]


def test_the_ends_of_branches() -> None:
    of = {name: ramify.trace(*made(name)).blocks for name in ("resnet", "convnext", "vit")}
    assert of["resnet"][0].ends == (End("layer1.0.bn2.weight"), End("layer1.0.bn2.bias"))
    assert of["convnext"][1].ends == (End("1.gamma"),)
    names = {end.name for end in of["vit"][1].ends}
    assert names == {
        f"1.{each}.{kind}" for each in ("proj", "mlp.2") for kind in ("weight", "bias")
    }


def test_a_shared_module_stays() -> None:
    graph = ramify.trace(Shared().eval(), torch.randn(2, 3, 4, 4))
    block = find_block(graph.blocks, "blocks.1")
    assert block.why == "it is shared, and runs 2 times in one forward"
    assert not block.can_drop
    assert not block.can_insert


def test_the_only_one_of_a_list_stays() -> None:
    graph = ramify.trace(ResNet((1, 2, 1)).eval(), torch.randn(2, 3, 8, 8))
    block = find_block(graph.blocks, "layer1.0")
    assert block.why == "it is the only block of 'layer1'"
    assert block.can_insert


class Inner(nn.Module):
    """Returns its stream and what it was made of."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor]:
        made = self.linear(x) if before is None else before
        return x + torch.relu(self.linear(x)), made


class Passing(nn.Module):
    """The first block makes what all others are given."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Inner() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        bias = None
        for layer in self.layers:
            x, bias = layer(x, bias)
        assert bias is not None
        return x * torch.sigmoid(bias)


def test_what_others_read_stays() -> None:
    graph = ramify.trace(Passing().eval(), torch.randn(2, 4))
    assert [block.can_drop for block in graph.blocks] == [False, True, True]
    assert graph.blocks[0].why == "besides its stream it makes what the model's own forward reads"
    assert graph.blocks[1].outputs == (0, 1)


def test_parallel_branches_are_no_blocks() -> None:
    class Parallel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branches = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            return sum(branch(x) for branch in self.branches)

    assert ramify.trace(Parallel(), torch.randn(1, 3, 4, 4)).blocks == []


def test_an_unknown_name() -> None:
    graph = ramify.trace(*made("resnet"))
    with pytest.raises(RamifyError, match="no block 'layer1.3': did you mean 'layer1.1'"):
        find_block(graph.blocks, "layer1.3")
    with pytest.raises(RamifyError, match="but got a int"):
        find_block(graph.blocks, 3)
    graph = ramify.trace(nn.Linear(2, 3), torch.randn(1, 2))
    with pytest.raises(RamifyError, match="nor any other"):
        find_block(graph.blocks, "layer1.3")


def test_a_name_inside_a_span_means_it() -> None:
    graph = ramify.trace(*made("flat vgg"))
    assert find_block(graph.blocks, "4") is find_block(graph.blocks, "3")
    assert find_block(graph.blocks, "3").members == ("3", "4", "5")
    assert repr(find_block(graph.blocks, "3")) == "Block('3', plain, can=drop+insert)"


def test_a_block_with_a_norm_behind_its_sum_takes_no_copy() -> None:
    block = ramify.trace(*made("post-norm encoder")).blocks[0]
    assert block.can_drop
    assert not block.can_insert
    assert "follows its sum" in block.why


def test_a_shortcut_with_weights_makes_no_residual_block() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), Basic(4, 4), Basic(4, 4)).eval()
    model[1].shortcut = nn.Conv2d(4, 4, 1)
    kinds = [block.kind for block in ramify.trace(model, torch.randn(1, 3, 4, 4)).blocks]
    assert kinds == ["plain", "plain", "residual"]


class Collected(nn.Module):
    """Joins what every layer of a list makes, as the C2f of YOLO does."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Half() for _ in range(2))
        self.head = nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        made = [x]
        made.extend(layer(made[-1]) for layer in self.layers)
        return self.head(torch.cat(made, 1))


class Half(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.linear(x).relu()


def test_a_list_whose_outputs_are_all_read_takes_no_copy() -> None:
    model, x = Collected().double().eval(), torch.randn(3, 4, dtype=torch.float64)
    graph = ramify.trace(model, x)
    assert [(b.name, b.can_drop, b.can_insert) for b in graph.blocks] == [
        ("layers.0", True, False),
        ("layers.1", True, False),
    ]
    assert "reads its output beside its input" in graph.blocks[0].why
    first = model.layers[1](x)
    ramify.apply(graph, [ramify.Drop("layers.0")])
    assert torch.equal(model(x), model.head(torch.cat([x, x, first], 1)))
