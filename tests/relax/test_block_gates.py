"""Gates on blocks: a branch times a number, folded exactly, and at zero the block is not there."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import ramify
from ramify import Drop, RamifyError
from tests.block_nets import PreActivation, lively, made
from tests.checks import distance, outputs

EXACT = 1e-12  # in double precision
BLOCKS = [
    ("resnet", "layer1.0"),
    ("resnet", "layer2.2"),
    ("preactivation", "1"),
    ("convnext", "2"),
    ("vit", "1"),
    ("encoder", "layers.2"),
    ("linked", "down.1"),
    ("named", "first"),
]


@pytest.mark.parametrize("name, block", BLOCKS)
def test_a_gate_of_zero_is_a_drop(name: str, block: str) -> None:
    model, x = made(name)
    before, plain = outputs(model, x), copy.deepcopy(model)
    gates = ramify.gate(ramify.trace(model, x), [], blocks=[block])
    assert [(key, tuple(alpha.shape)) for key, alpha in gates.items()] == [(block, (1,))]
    assert distance(outputs(model, x), before) == 0
    gates[block].data.zero_()
    ramify.apply(ramify.trace(plain, x), [Drop(block)])
    assert distance(outputs(model, x), outputs(plain, x)) < EXACT


@pytest.mark.parametrize("name, block", [("preactivation", "1"), ("convnext", "2")])
def test_a_gate_multiplies_the_branch(name: str, block: str) -> None:
    model, x = made(name)
    graph = ramify.trace(model, x)
    inner = model.get_submodule(block)
    stream = torch.randn(2, 3 if name == "preactivation" else 4, 8, 8, dtype=x.dtype)
    branch = inner(stream.clone()) - stream
    ramify.gate(graph, [], blocks=[block])[block].data.fill_(-0.3)
    assert distance(inner(stream.clone()), stream - 0.3 * branch) < EXACT


@pytest.mark.parametrize("name, block", BLOCKS)
def test_folding_is_exact_and_gives_the_names_back(name: str, block: str) -> None:
    model, x = made(name)
    names = [key for key, _ in model.named_parameters()]
    graph = ramify.trace(model, x)
    gates = ramify.gate(graph, blocks=True)  # with those of channels
    assert block in dict(gates.items())
    assert len(gates) > 1
    with torch.no_grad():
        for number, alpha in enumerate(gates):
            alpha.copy_(0.5 + torch.rand(alpha.shape) + number / 10)
    expected = outputs(model, x)
    scores = ramify.fold(model)
    assert distance(outputs(model, x), expected) < EXACT
    assert [key for key, _ in model.named_parameters()] == names
    # Scores of channels rank channels, beside those of blocks.
    proposals = ramify.relax.GateScale(scores).propose(graph)
    assert block not in {proposal.edit.group for proposal in proposals}
    ramify.apply(graph, [Drop(block)])


def test_its_gradient_is_that_of_the_branch() -> None:
    model, x = made("vit")
    gates = ramify.gate(ramify.trace(model, x), [], blocks=["2"])

    def loss() -> Tensor:
        value: Tensor = model(x).square().mean()
        return value

    [slope] = torch.autograd.grad(loss(), [gates["2"]])
    step = 1e-5
    with torch.no_grad():
        gates["2"].add_(step)
        more = loss()
        gates["2"].sub_(2 * step)
        assert float(slope) == pytest.approx(float(more - loss()) / (2 * step), rel=1e-6)


def test_a_search_learns_them_under_a_penalty() -> None:
    torch.manual_seed(0)
    model, x = made("preactivation", torch.float32)
    expected = model(x).detach()
    with torch.no_grad():  # the last block does nothing that the loss asks for
        model[2].conv.weight.mul_(1e-3), model[2].conv.bias.zero_()
    gates = ramify.gate(ramify.trace(model, x), [], blocks=True)
    searcher = ramify.relax.Joint(
        model,
        arch=gates,
        loss=lambda model, batch: (model(batch) - expected).square().mean((1, 2, 3)),
        gamma=0.01,
        penalty=ramify.relax.L1(),
        weight_optimizer=partial(torch.optim.SGD, lr=0.0),
        arch_optimizer=partial(torch.optim.SGD, lr=0.5),
    )
    for _ in range(200):
        searcher.step(x, x)
    sizes = {name: float(alpha.abs()) for name, alpha in gates.items()}
    assert min(sizes, key=sizes.__getitem__) == "2"
    assert sizes["2"] < 0.1 * min(sizes["0"], sizes["1"])


@pytest.mark.parametrize(
    "name, block, said",
    [
        ("resnet", "layer2.0", "cannot be gated: it changes the shape of its stream"),
        ("flat vgg", "3", "cannot be gated: no weight was found whose factor is one of its whole"),
        ("resnet", "layer9", "no block"),
    ],
)
def test_what_takes_no_gate_says_why(name: str, block: str, said: str) -> None:
    model, x = made(name)
    with pytest.raises(RamifyError, match=said):
        ramify.gate(ramify.trace(model, x), [], blocks=[block])
    assert not hasattr(model, "ramify_gates")


def test_penalties_by_cost_and_what_remains_know_blocks() -> None:
    model, x = made("preactivation")
    graph = ramify.trace(model, x)
    gates = ramify.gate(graph, blocks=True)
    costs = ramify.relax.channel_costs(gates, graph, "params")
    named = dict(zip((names[0] for names in gates.groups), costs, strict=True))
    assert named["1"].tolist() == [graph.blocks[1].cost.params]
    with pytest.raises(RamifyError, match="no resource 'size'"):
        ramify.relax.channel_costs(gates, graph, "size")
    scores = ramify.fold(model)
    graph = ramify.apply(graph, [Drop("1")])
    assert set(ramify.relax.remaining(scores, graph)) == {
        name for name in scores if name not in ("0", "1", "2")
    }


def test_a_network_without_blocks_says_so() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(RamifyError, match="there is no block to gate"):
        ramify.gate(ramify.trace(model, torch.randn(2, 3)), blocks=True)


def test_a_weight_that_another_block_has_too_takes_no_gate() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(PreActivation(3), PreActivation(3), nn.Conv2d(3, 2, 1))
    model[1].conv.weight = model[0].conv.weight
    graph = ramify.trace(lively(model), torch.randn(2, 3, 8, 8))
    with pytest.raises(RamifyError, match=r"'0.conv.weight', in which its branch ends, is read el"):
        ramify.gate(graph, [], blocks=["0"])
