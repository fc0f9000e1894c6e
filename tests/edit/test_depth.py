"""Drops and inserts: what the model computes, what follows, and what is left alone."""

from __future__ import annotations

import copy
import threading
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
from tests.block_nets import NETS, Linked, PreActivation, ResNet, Shared, lively, made
from tests.checks import distance, outputs, snapshot

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


def steps(model: nn.Module, x: Tensor, optimizer: Any, count: int) -> None:
    for _ in range(count):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


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
    ("no block", ResNet, [Drop(None)], "this is a NoneType"),  # type: ignore[arg-type]
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


def test_the_origin_is_that_of_the_last_call():
    net, x = made("resnet")
    graph = ramify.trace(net, x)
    name = next(group.name for group in graph.groups if group.can_prune)
    graph = ramify.apply(graph, [Prune(name, 0)])
    assert graph.origin[name][0] == 1
    graph = ramify.apply(graph, [Drop("layer1.1")])
    assert all(kept == list(range(graph[name].width)) for name, kept in graph.origin.items())


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
