"""Drops and inserts: what the model computes, what follows, and what is left alone."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import ramify
from ramify import Drop, Insert, Prune, RamifyError, Split
from ramify.edit.skip import Skip
from ramify.tracing.blocks import find_block
from tests.block_nets import NETS, PreActivation, lively, made, steps
from tests.checks import distance, outputs

EXACT = 1e-12  # in double precision

DROPS = [
    ("resnet", "layer1.0"),
    ("resnet", "layer2.2"),
    ("preactivation", "1"),
    ("flat vgg", "3"),
    ("flat vgg", "7"),
    ("nested vgg", "1"),
    ("convnext", "2"),
    ("vit", "1"),
    ("encoder", "layers.2"),
    ("post-norm encoder", "layers.0"),
    ("linked", "down.1"),
    ("named", "first"),
]
RESIDUAL = ("resnet", "preactivation", "convnext", "vit", "encoder", "linked", "named")
INSERTS = [
    ("resnet", "layer1.1"),
    ("preactivation", "0"),
    ("flat vgg", "3"),
    ("nested vgg", "2"),
    ("convnext", "3"),
    ("vit", "2"),
    ("encoder", "layers.0"),
]


def passing_over(model: nn.Module, members: tuple[str, ...]) -> nn.Module:
    """A copy of a model in which modules give back what they are given."""
    other = copy.deepcopy(model)
    for member in members:
        module: Any = other.get_submodule(member)
        module.forward = lambda x, *args, **named: x
    return other


@pytest.mark.parametrize("name, block", DROPS)
def test_a_drop_is_the_model_that_passes_the_block_over(name: str, block: str) -> None:
    model, x = made(name)
    graph = ramify.trace(model, x)
    found = find_block(graph.blocks, block)
    expected = outputs(passing_over(model, found.members), x)
    before = ramify.cost.graph_cost(graph)
    graph = ramify.apply(graph, [Drop(block)])
    assert distance(outputs(model, x), expected) < EXACT
    assert before.params - sum(p.numel() for p in model.parameters()) == found.cost.params
    assert (before - ramify.cost.graph_cost(graph)).macs == found.cost.macs


@pytest.mark.parametrize("name, block", [each for each in DROPS if each[0] in RESIDUAL])
def test_a_drop_is_the_model_whose_branch_is_times_zero(name: str, block: str) -> None:
    model, x = made(name)
    graph = ramify.trace(model, x)
    found = find_block(graph.blocks, block)
    other = copy.deepcopy(model)
    for end in found.ends:
        other.get_parameter(end.name).data.zero_()
    ramify.apply(graph, [Drop(found)])
    assert found.ends
    assert distance(outputs(model, x), outputs(other, x)) < EXACT


@pytest.mark.parametrize("name, block", INSERTS)
def test_an_insert_changes_nothing(name: str, block: str) -> None:
    model, x = made(name)
    expected, known = outputs(model, x), {id(p) for p in model.parameters()}
    graph = ramify.trace(model, x)
    found = find_block(graph.blocks, block)
    ramify.apply(graph, [Insert(after=block)])
    assert distance(outputs(model, x), expected) < EXACT
    new = [p for p in model.parameters() if id(p) not in known]
    assert sum(p.numel() for p in new) == found.cost.params
    # The copy learns: its gradient is not zero everywhere.
    model(x).square().mean().backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in new)


def test_a_copy_learns_at_the_end_of_its_branch() -> None:
    model, x = made("vit")
    ramify.apply(ramify.trace(model, x), [Insert("1")])
    assert isinstance(model[2].proj.weight, nn.Parameter)
    assert not model[2].proj.weight.any()
    assert torch.equal(model[2].qkv.weight, model[1].qkv.weight)
    model(x).square().mean().backward()
    assert model[2].proj.weight.grad.abs().max() > 0


def test_an_identity_with_a_batch_norm_keeps_the_stream_in_training_too() -> None:
    model, x = made("nested vgg")
    model.train()
    expected = outputs(model, x)
    model.eval()
    for module in model.modules():  # statistics of these very samples
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    model.train()(x)
    model.eval()
    ramify.apply(ramify.trace(model, x), [Insert("1")])
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    assert distance(outputs(model, x), expected) < 0.1  # the variance with and without correction


def test_several_at_once_with_channels() -> None:
    model, x = made("resnet")
    graph = ramify.trace(model, x)
    inner = copy.deepcopy(model)
    ramify.apply(ramify.trace(inner, x), [Prune("layer2.2.conv1", 3)])
    expected = outputs(passing_over(inner, ("layer1.0", "layer2.1")), x)
    edits = [
        Drop("layer1.0"),
        Drop("layer2.1"),
        Insert("layer2.2"),
        Insert("layer2.2"),
        Prune("layer2.2.conv1", 3),
        Split("layer3.0.conv1", 2),
    ]
    graph = ramify.apply(graph, edits)
    assert distance(outputs(model, x), expected) < EXACT
    assert [len(stage) for stage in (model.layer1, model.layer2, model.layer3)] == [1, 4, 1]
    assert graph["layer2.1.conv1"].width == 7  # of the block that was the third
    assert graph.origin["layer2.1.conv1"] == [0, 1, 2, 4, 5, 6, 7]
    assert graph.origin["layer3.0.conv1"][-1] == 2
    graph = ramify.apply(graph, [Drop("layer2.3"), Prune("layer2.1.conv1", 0)])
    assert distance(outputs(model, x), expected) > 0
    assert graph["layer2.1.conv1"].width == 6


def trained(name: str, kind: Any, **settings: Any) -> tuple[nn.Module, Tensor, Any]:
    """A network that has made two steps."""
    model, x = made(name)
    biases = [p for n, p in model.named_parameters() if n.endswith("bias")]
    weights = [p for n, p in model.named_parameters() if not n.endswith("bias")]
    optimizer = kind([{"params": weights}, {"params": biases, "lr": 0.003}], lr=0.01, **settings)
    steps(model, x, optimizer, 2)
    return model, x, optimizer


OPTIMIZERS = [
    (torch.optim.AdamW, {}),
    (torch.optim.SGD, {"momentum": 0.9}),
    (torch.optim.Adagrad, {}),
    (torch.optim.RMSprop, {}),
]


@pytest.mark.parametrize("kind, settings", OPTIMIZERS)
def test_the_optimizer_loses_what_only_the_block_had(kind: Any, settings: Any) -> None:
    model, x, optimizer = trained("convnext", kind, **settings)
    gone = set(model[2].parameters())
    kept = {p: optimizer.state[p] for p in model.parameters() if p not in gone}
    ramify.apply(ramify.trace(model, x), [Drop("2")], optimizer=optimizer)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert gone.isdisjoint(held)
    assert gone.isdisjoint(optimizer.state)
    assert set(held) == set(model.parameters())
    assert all(optimizer.state[p] is state for p, state in kept.items())
    steps(model, x, optimizer, 1)


@pytest.mark.parametrize("kind, settings", OPTIMIZERS)
def test_a_copy_joins_the_groups_of_its_block(kind: Any, settings: Any) -> None:
    model, x, optimizer = trained("convnext", kind, **settings)
    ramify.apply(
        ramify.trace(model, x), [Insert("1"), Insert("1"), Insert("3")], optimizer=optimizer
    )
    names = {p: n for n, p in model.named_parameters()}
    weights, biases = ([names[p] for p in group["params"]] for group in optimizer.param_groups)
    ordered = [n for n, _ in model.named_parameters()]
    assert weights == [n for n in ordered if not n.endswith("bias")]
    assert biases == [n for n in ordered if n.endswith("bias")]
    for parameter in model[2].parameters():
        state = optimizer.state.get(parameter, {})
        assert float(state.get("step", 0.0)) == 0.0
    before = [p.detach().clone() for p in model[2].parameters()]
    steps(model, x, optimizer, 2)
    moved = [not torch.equal(a, b) for a, b in zip(before, model[2].parameters(), strict=True)]
    assert any(moved)


def test_names_that_an_optimizer_keeps_follow() -> None:
    model, x = made("preactivation")
    optimizer = torch.optim.SGD(model.named_parameters(), lr=0.1)
    graph = ramify.apply(ramify.trace(model, x), [Drop("1")], optimizer=optimizer)
    assert optimizer.param_groups[0]["param_names"] == [n for n, _ in model.named_parameters()]
    ramify.apply(graph, [Insert("0")], optimizer=optimizer)
    assert optimizer.param_groups[0]["param_names"] == [n for n, _ in model.named_parameters()]


def test_a_parameter_that_others_have_too_stays_in_the_optimizer() -> None:
    model, x = made("preactivation")
    model[1].conv.weight = model[2].conv.weight
    optimizer = torch.optim.Adam(model.parameters())
    steps(model, x, optimizer, 1)
    shared = model[1].conv.weight
    ramify.apply(ramify.trace(model, x), [Drop("1")], optimizer=optimizer)
    assert shared in optimizer.state
    assert any(p is shared for p in optimizer.param_groups[0]["params"])


def test_what_others_hold_stays_shared_in_a_copy() -> None:
    model, x = made("preactivation")
    setting = {"a": [1]}
    model.setting = model[0].setting = setting
    model[1].conv.weight = model[2].conv.weight
    ramify.apply(ramify.trace(model, x), [Insert("0")])
    assert model[1].setting is setting
    with pytest.raises(RamifyError, match="which ends its branch, is not its own weight"):
        ramify.apply(ramify.trace(model, x), [Insert("3")])


@pytest.mark.parametrize("edits", [[Drop("2")], [Insert("1")], [Drop("3"), Insert("1")]])
def test_followers_follow(edits: list[Any]) -> None:
    model, x = made("convnext")
    average = AveragedModel(model)
    for p in average.parameters():
        p.data.mul_(1.1)
    plain = copy.deepcopy(average.module)
    table = {n: t.clone() for n, t in plain.state_dict().items()}
    expected = copy.deepcopy(plain)
    ramify.apply(ramify.trace(expected, x), edits)
    ramify.apply(ramify.trace(model, x), edits, followers=[average, plain, table])
    for other in (average.module, plain):
        assert distance(outputs(other, x), outputs(expected, x)) < EXACT
    fresh = copy.deepcopy(expected)
    fresh.load_state_dict(table)
    assert distance(outputs(fresh, x), outputs(expected, x)) < EXACT
    assert list(table) == list(model.state_dict())
    average.update_parameters(model)


def test_a_list_that_others_count_keeps_its_length() -> None:
    model, x = made("linked")
    ramify.apply(ramify.trace(model, x), [Drop("down.1")])
    assert len(model.down) == 3
    assert type(model.down[1]) is nn.Identity


def test_an_attribute_becomes_what_hands_on_its_stream() -> None:
    model, x = made("named")
    graph = ramify.apply(ramify.trace(model, x), [Drop("first")])
    assert type(model.first) is nn.Identity
    assert graph.model is model
    exported = torch.export.export(model, (x,))
    assert distance(outputs(exported.module(), x), outputs(model, x)) < EXACT


class Masked(nn.Module):
    """A layer that takes more than its stream and returns more."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor, scale: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        made = self.linear(x) * scale
        return x + torch.tanh(made + bias), bias, made


class Numbered(nn.Module):
    """Reads its layers by number."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Masked() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        scale, bias = torch.ones(4, dtype=x.dtype), torch.ones(4, dtype=x.dtype)
        x, bias, _ = self.layers[0](x, scale, bias=bias)
        x, bias, _ = self.layers[1](x, scale, bias=bias)
        return x * bias


def test_what_stands_for_a_block_returns_what_it_was_given() -> None:
    model, x = Numbered().double().eval(), torch.randn(3, 4, dtype=torch.float64)
    graph = ramify.trace(model, x)
    layer = copy.deepcopy(model.layers[1])
    ramify.apply(graph, [Drop("layers.0")])
    one = torch.ones(4, dtype=torch.float64)
    assert torch.allclose(model(x), layer(x, one, one)[0], atol=EXACT)
    skip = model.layers[0]
    assert isinstance(skip, Skip)
    assert (skip.outputs, skip.bare) == ((0, "bias", None), False)
    exported = torch.export.export(model, (x,))
    assert torch.allclose(exported.module()(x), model(x), atol=EXACT)


class Routed(nn.Module):
    """Asks each of its layers where its input comes from, as the models of ultralytics do."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        for layer in self.layers:
            layer.source, layer.names, layer.twin = -1, ["a", "b"], {}

    def forward(self, x: Tensor) -> Tensor:
        made = [x]
        for layer in self.layers:
            made.append(layer(made[layer.source]) * len(layer.names))
        return made[-1]


def test_what_stands_for_a_block_has_its_plain_attributes() -> None:
    model, x = Routed().double().eval(), torch.randn(3, 4, dtype=torch.float64)
    expected = model.layers[2](2 * (2 * model.layers[0](x))) * 2
    ramify.apply(ramify.trace(model, x), [Drop("layers.1")])
    assert torch.allclose(model(x), expected, atol=EXACT)
    assert len(model.layers) == 3
    assert not hasattr(model.layers[1], "twin")


def test_a_network_of_another_depth_exports(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    model, x = made("named", torch.float32)
    ramify.apply(ramify.trace(model, x), [Drop("second")])
    file = str(tmp_path / "net.onnx")
    torch.onnx.export(model, (x,), file, dynamo=False, input_names=["x"])
    [found] = runtime.InferenceSession(file).run(None, {"x": x.numpy()})
    assert torch.allclose(torch.from_numpy(found), model(x), atol=1e-5)


class Counted(nn.Module):
    """Layers that know their number, and a model that counts them."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.num_layers = count
        self.layers = nn.ModuleList(PreActivation(3) for _ in range(count))
        for number, layer in enumerate(self.layers):
            layer.layer_idx = number
            layer.bn.dilation_num = 7

    def forward(self, x: Tensor) -> Tensor:
        for number in range(self.num_layers):
            assert self.layers[number].layer_idx == number
            x = self.layers[number](x)
        return x


def test_numbers_of_layers_follow() -> None:
    model, x = lively(Counted(4)).double(), torch.randn(1, 3, 4, 4, dtype=torch.float64)
    graph = ramify.apply(ramify.trace(model, x), [Drop("layers.0"), Insert("layers.2")])
    assert model.num_layers == 4
    assert [layer.layer_idx for layer in model.layers] == [0, 1, 2, 3]
    ramify.apply(graph, [Drop("layers.1"), Drop("layers.3")])
    assert model.num_layers == 2
    assert [layer.layer_idx for layer in model.layers] == [0, 1]
    assert model.layers[0].bn.dilation_num == 7


def test_members_with_names_of_their_own() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential().double(), torch.randn(1, 3, 4, 4).double()
    for name in ("stem", "one", "two"):
        model.add_module(name, PreActivation(3).double().eval())
    graph = ramify.apply(ramify.trace(model, x), [Insert("one"), Drop("two")])
    assert list(model._modules) == ["stem", "one", "one_2"]
    graph = ramify.apply(graph, [Drop("one")])
    assert list(model._modules) == ["stem", "one"]


def test_an_activation_that_layers_share_belongs_to_none() -> None:
    relu = nn.ReLU()
    layers = [nn.Conv2d(3, 3, 3, padding=1), relu, nn.Conv2d(3, 3, 3, padding=1), relu]
    model, x = nn.Sequential(*layers).double(), torch.randn(1, 3, 4, 4).double()
    graph = ramify.trace(model, x)
    assert [block.members for block in graph.blocks] == [("0",), ("2",)]
    expected = outputs(passing_over(model, ("2",)), x)
    ramify.apply(graph, [Drop("2")])
    assert distance(outputs(model, x), expected) < EXACT
    assert len(model) == 3


def test_every_network_of_blocks_is_tested() -> None:
    assert {name for name, _ in DROPS} == set(NETS)


def test_the_origin_is_that_of_the_last_call():
    net, x = made("resnet")
    graph = ramify.trace(net, x)
    name = next(group.name for group in graph.groups if group.can_prune)
    graph = ramify.apply(graph, [Prune(name, 0)])
    assert graph.origin[name][0] == 1
    graph = ramify.apply(graph, [Drop("layer1.1")])
    assert all(kept == list(range(graph[name].width)) for name, kept in graph.origin.items())
