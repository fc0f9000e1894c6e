"""The groups that a trace finds: all of them, by name, with the reason where one is frozen."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import ramify
from ramify import RamifyError
from tests.checks import ability
from tests.structures import STRUCTURES
from tests.structures.base import traced


@pytest.mark.parametrize("name", sorted(STRUCTURES))
def test_every_group_and_what_may_be_done_with_it(name: str) -> None:
    graph = traced(name)
    assert {group.name: ability(group) for group in graph.groups} == STRUCTURES[name].groups
    assert all(group.reason for group in graph.groups if not group.can_split)
    assert not any("does not know" in group.reason for group in graph.groups)


@pytest.mark.parametrize("name", sorted(STRUCTURES))
def test_a_trace_that_takes_over_what_an_earlier_one_found_is_the_same(name: str) -> None:
    """Which the tests of edits on every structure rely on."""
    first, second = (
        [
            (g.name, ability(g), g.producers, g.carriers, g.consumers, g.reason, g.least)
            for g in each
        ]
        for each in (traced(name).groups, STRUCTURES[name].graph().groups)
    )
    assert first == second


ROLES: list[tuple[str, str, str, str, str]] = [
    (
        "ResidualStream",
        "stem",
        "stem.weight stem.bias a2.weight a2.bias b2.weight b2.bias",
        "n1.weight n1.bias n2.weight n2.bias"
        " n1.running_mean n1.running_var n2.running_mean n2.running_var",
        "a1.weight b1.weight fc.weight",
    ),
    ("SqueezeExcite", "a", "a.weight a.bias up.weight up.bias", "", "down.weight c.weight"),
    ("DenseConcat", "b", "b.weight b.bias",
     "n.weight n.bias n.running_mean n.running_var", "d.weight c.weight"),
    ("Grouped", "a:0", "a.weight a.bias", "b.weight b.bias", "c.weight"),
    ("Grouped", "a:1", "a.weight a.bias", "", "b.weight"),
    ("Depthwise", "a", "a.weight",
     "b.weight b.bias d.weight n.weight n.bias m.weight m.bias"
     " n.running_mean n.running_var m.running_mean m.running_var", "c.weight"),
    ("LayerScale", "a", "a.weight a.bias e.weight e.bias", "d.weight d.bias gamma",
     "b.weight c.weight"),
    ("ChannelPadding", "stem", "stem.weight stem.bias b.weight b.bias", "", "a.weight head.weight"),
    ("BareParameter", "kernel", "kernel", "shift", "fc"),
    ("CalledTwice", "stem", "stem.weight stem.bias a.weight a.bias", "", "a.weight b.weight"),
    ("SharedHead", "a", "a.weight a.bias b.weight b.bias", "", "head.weight"),
    ("WeightNorm", "b",
     "b.parametrizations.weight.original0 b.parametrizations.weight.original1 b.bias", "",
     "c.weight"),
    ("ViT", "att.qkv:2", "att.qkv.weight att.qkv.bias", "", "att.proj.weight"),
    ("FixedScale", "q", "q.weight q.bias k.weight k.bias", "", ""),
    ("TiedEmbedding", "table:1", "table.weight b.weight b.bias", "", "a.weight"),
    ("UNet", "up", "up.weight up.bias", "", "d.weight"),
    ("ShuffleUnit", "a:1", "a.weight a.bias b.weight b.bias", "", "b.weight c.weight"),
    ("HandWrittenCell", "gate", "gate.weight gate.bias new.weight new.bias", "",
     "gate.weight new.weight c.weight"),
]  # fmt: skip


@pytest.mark.parametrize("name, group, producers, carriers, consumers", ROLES)
def test_roles(name: str, group: str, producers: str, carriers: str, consumers: str) -> None:
    found = traced(name)[group]
    assert set(found.producers) == set(producers.split())
    assert set(found.carriers) == set(carriers.split())
    assert set(found.consumers) == set(consumers.split())


def test_where_a_flattened_channel_is_read() -> None:
    graph = traced("Flatten")
    slot = next(slot for slot in graph["a"].slots if slot.role == "consumer")
    expected = torch.arange(64).view(4, 16)
    assert torch.equal(torch.from_numpy(graph.positions(graph["a"], slot)), expected)


WHY = [
    ("Recurrent", "lstm:0", "in module 'lstm' makes 4 equal pieces"),
    ("HiddenBranch", "a", "branches on data and 'b.weight' was not reached: trace it with `also`"),
    ("LiteralView", "a", "the model's own forward holds a size that does not follow an edit"),
    ("LiteralSlice", "a:1", "the forward cuts them at fixed places"),
    ("CountsChannels", "a", "aten::div in the model's own forward depends on the number of"),
    ("NumpyConstants", "b", "a tensor that is no parameter, buffer or input"),
    ("SpatialGate", "mask", "aten::mul .* broadcasts one channel against 4"),
    ("Picked", "b", "aten::flip in the model's own forward moves them along the dimension"),
    ("Perceptron", "c", "it is an output of the model"),
    ("LayerAndRMSNorm", "a", "aten::native_layer_norm in module 'n' normalises over the channels"),
    ("TiedAutoencoder", "a:0", "'a.weight' both makes and reads it"),
    ("OuterProduct", "a", "'c.weight' holds it twice in one dimension"),
    ("NonLeaf", "a", "aten::renorm in the model's own forward has no dimension rule"),
]


@pytest.mark.parametrize("name, group, why", WHY)
def test_reasons_name_the_operation_and_the_module(name: str, group: str, why: str) -> None:
    assert re.search(why, traced(name)[group].reason)


def test_the_printed_table_lists_everything_at_once() -> None:
    graph = traced("EncoderLayer")
    table = " ".join(str(graph).replace("│", " ").split())
    for group in graph.groups:
        assert group.name in table
    assert "3 channel groups" not in table
    assert f"{len(graph.groups)} channel groups" in table
    model = nn.ModuleDict({"used": nn.Linear(3, 2), "idle": nn.Linear(3, 2)})
    model.forward = lambda x: model["used"](x)  # type: ignore[method-assign]
    assert "not reached by these inputs: idle.weight idle.bias" in str(
        ramify.trace(model, torch.randn(1, 3))
    )


def test_graph_lookup() -> None:
    graph = traced("ResidualStream")
    for name in ("stem", "stem.weight", "a2", "b2.bias", "n1", "n1.running_mean"):
        assert graph[name].name == "stem"
    assert graph["a1"].name == "a1"
    assert graph["fc.weight"].name == "fc"
    with pytest.raises(
        RamifyError, match="no group, module or parameter 'stam': the nearest are 's"
    ):
        graph["stam"]
    with pytest.raises(RamifyError, match="'relu' makes no channels that an edit could reach"):
        graph["relu"]
    assert traced("WeightNorm")["b.bias"].name == "b"
    assert traced("ViT")["att.qkv"].name == "att.qkv:2"
    assert traced("TiedEmbedding")["head.weight"].name == "table:1"


def test_further_inputs_reach_further_branches() -> None:
    model, x = STRUCTURES["HiddenBranch"].make()
    graph = ramify.trace(model, x, also=[1e9 * x])
    assert {group.name: ability(group) for group in graph.groups} == {
        "a": "5 prune",  # its sum decides on the branch
        "c": "2 frozen",
    }
    assert set(graph["a"].producers) == {"a.weight", "a.bias", "b.weight", "b.bias"}
    assert graph.unreached == ()


def test_outputs_are_edited_only_if_the_user_says_so() -> None:
    model, x = STRUCTURES["Perceptron"].make()
    graph = ramify.trace(model, x, edit_outputs=True)
    assert ability(graph["c"]) == "2 prune"
    before = model(x)
    graph = ramify.apply(graph, [ramify.Prune("c", 0), ramify.Split("b", 1)])
    torch.testing.assert_close(model(x), before[:, 1:])
    assert graph["c"].width == 1


def test_what_leaves_the_tensors_is_not_edited() -> None:
    """The output is an array: nothing that was seen reads the last channels."""

    class Array(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> object:
            return self.b(self.a(x)).numpy()

    graph = ramify.trace(Array(), torch.randn(2, 4))
    assert ability(graph["a"]) == "5 split"
    assert ability(graph["b"]) == "3 frozen"


def test_parameters_over_the_same_memory_are_frozen() -> None:
    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            flat = torch.randn(40)
            self.a = nn.Parameter(flat[:20].view(5, 4))
            self.b = nn.Parameter(flat[10:].view(6, 5))
            self.c = nn.Parameter(torch.randn(2, 6))

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(torch.relu(x @ self.a.T) @ self.b.T) @ self.c.T

    graph = ramify.trace(Views(), torch.randn(2, 4))
    assert ability(graph["a"]) == "5 frozen"
    assert ability(graph["b"]) == "6 frozen"
    assert "shares its memory with" in graph["a"].reason


# ------------------------------------------------------------------------------- bad input


def test_what_cannot_be_traced() -> None:
    x = torch.randn(2, 3)
    with pytest.raises(RamifyError, match="takes a torch.nn.Module, but got a function"):
        ramify.trace(lambda x: x, x)  # type: ignore[arg-type]
    with pytest.raises(RamifyError, match="wrapped in DataParallel: trace its `.module`"):
        ramify.trace(nn.DataParallel(nn.Linear(3, 2)), x)
    with pytest.raises(RamifyError, match="'0.weight' has no shape yet .*: run the model once"):
        ramify.trace(nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 2)), x)
    with pytest.raises(RamifyError, match="'weight' has no values .*: load the weights first"):
        ramify.trace(nn.Linear(3, 2, device="meta"), x.to("meta"))


def test_weights_that_are_not_numbers_are_refused() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        net[2].bias[1] = float("nan")
    with pytest.raises(RamifyError, match="'2.bias' holds values that are not numbers"):
        ramify.trace(net, torch.randn(2, 3))


def test_weights_without_values_are_refused() -> None:
    with FakeTensorMode(), pytest.raises(RamifyError, match="outside of FakeTensorMode"):
        ramify.trace(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), torch.randn(2, 3))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_model_without_values_takes_the_shape_of_an_edited_copy(device: str) -> None:
    def net(device: str) -> nn.Module:
        with torch.device(device):
            return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))

    copy = net("cpu").eval()
    graph = ramify.trace(copy, torch.randn(2, 3))
    ramify.apply(graph, [ramify.Prune("0", 1), ramify.Prune("0", 4)])
    model = ramify.reshape(net(device), ramify.recipe_of(copy))
    assert {p.device.type for p in model.parameters()} == {device}
    assert {n: p.shape for n, p in model.state_dict().items()} == {
        n: p.shape for n, p in copy.state_dict().items()
    }
    assert [m.out_features for m in model if isinstance(m, nn.Linear)] == [6, 2]
    model.load_state_dict(copy.state_dict(), assign=True)
    x = torch.randn(2, 3)
    assert torch.equal(model.eval()(x), copy(x))


def test_distributed_wrappers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    wrapper = nn.parallel.DistributedDataParallel
    monkeypatch.setattr(wrapper, "__init__", lambda self: nn.Module.__init__(self))
    with pytest.raises(RamifyError, match="wrapped in DistributedDataParallel"):
        ramify.trace(wrapper(), torch.randn(2, 3))  # type: ignore[call-arg]


def test_the_model_s_own_error_is_said_and_stays_behind() -> None:
    said = "does not run on these inputs .RuntimeError: mat1 and mat2 shapes cannot be multiplied"
    with pytest.raises(RamifyError, match=said) as caught:
        ramify.trace(nn.Linear(3, 2), torch.randn(2, 4))
    assert type(caught.value.__cause__) is RuntimeError


class Experts(nn.Module):
    """Rows sorted by expert, and a grouped product over all of the experts' weights."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Linear(8, 8), nn.Linear(8, 2)
        self.up = nn.Parameter(0.3 * torch.randn(3, 8, 12))
        self.down = nn.Parameter(0.3 * torch.randn(3, 12, 8))

    def forward(self, x: Tensor) -> Tensor:
        ends = torch.tensor([3, 8, 12], dtype=torch.int32)
        rows = nn.functional.grouped_mm(torch.tanh(self.a(x)), self.up, offs=ends)
        return self.c(nn.functional.grouped_mm(torch.relu(rows), self.down, offs=ends))


def test_experts_read_and_make_channels_in_whole_blocks_of_memory() -> None:
    """The operation takes widths in multiples of 16 bytes only, so no single channel may go."""
    graph = ramify.trace(Experts(), torch.randn(12, 8))
    read = [(g.width, g.producers, g.consumers) for g in graph.groups[:3]]
    assert (8, ("a.weight", "a.bias"), ("up",)) in read
    assert (12, ("up",), ("down",)) in read
    assert {g.reason for g in graph.groups[:3]} == {
        "a grouped product in the model's own forward takes widths in multiples of 16 bytes"
    }


def test_recurrent_layers_are_the_same_in_float32() -> None:
    """There torch runs them as one operation, which a trace cannot see into."""
    found = []
    for dtype in (torch.float64, torch.float32):
        model, inputs = STRUCTURES["Recurrent"].make(dtype)
        found.append({g.name: ability(g) for g in ramify.trace(model, inputs).groups})
    assert found[0] == found[1]
    assert found[0]["lstm:1"] == "5 split"


class Cut(nn.Module):
    """Reads as many channels as an attribute says, a number given by name."""

    def __init__(self, cut: Callable[[Tensor, int], Tensor]) -> None:
        super().__init__()
        self.first, self.kept, self.last = nn.Linear(4, 12), 6, nn.Linear(6, 2)
        self.cut = cut

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.cut(self.first(x), self.kept).relu())


@pytest.mark.parametrize(
    "cut",
    [
        lambda x, size: x.narrow(-1, 0, length=size),
        lambda x, size: x.split(split_size=size, dim=-1)[0],
        lambda x, size: x.split_with_sizes(split_sizes=[size, size], dim=-1)[0],
        lambda x, size: torch.split(x, split_size_or_sections=[size, size], dim=-1)[0],
    ],
)
def test_a_size_given_by_name_follows(cut: Callable[[Tensor, int], Tensor]) -> None:
    graph = ramify.trace(Cut(cut), torch.randn(3, 4))
    read = [group for group in graph.groups if "last.weight" in group.consumers]
    assert len(read) == 1
    assert read[0].can_prune
    graph = ramify.apply(graph, [ramify.Prune(read[0].name, 0)])
    assert graph.model.kept == 5


def test_older_names_still_work() -> None:
    graph = traced("ResidualStream")
    assert graph["fc"].why == graph["fc"].reason != ""
    assert [group.name for group in graph.again(None).groups] == [g.name for g in graph.groups]


def test_forward_mode_derivatives_inside_a_forward() -> None:
    """They hold zeros without memory, of which torch takes no norm."""

    class Derived(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.tanh(self.a(x))
            along = torch.func.jvp(lambda y: torch.tanh(self.b(y)), (x,), (torch.ones_like(x),))[1]
            return self.c(along)

    torch.manual_seed(0)
    model, x = Derived().double(), torch.randn(3, 4).double()
    before = model(x)
    graph = ramify.trace(model, x)
    assert graph["b"].can_split
    assert graph["a"].can_prune
    ramify.apply(graph, [ramify.Split("b", 2)])
    torch.testing.assert_close(model(x), before)


def test_a_forward_that_traces_functions_itself_is_refused_in_a_sentence() -> None:
    class Linearised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            value, along = torch.func.linearize(torch.tanh, x)
            return self.b(value + along(x))

    model, x = Linearised(), torch.randn(3, 4)
    with pytest.raises(RamifyError, match="not while its operations are recorded"):
        ramify.trace(model, x)
    assert model(x).shape == (3, 2)


class BesideNothing(nn.Module):
    """A network with a layer without channels beside another one."""

    def __init__(self, read: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.none, self.b = nn.Linear(4, 8), nn.Linear(8, 0), nn.Linear(8, 3)
        self.read = read

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        return torch.cat([self.b(x), self.read(self.none(x))], 1)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors is a no-op")
@pytest.mark.parametrize(
    "read",
    [
        torch.relu,
        lambda y: y.view(len(y), 2, 0).flatten(1),
        lambda y: y.sum(1, keepdim=True),
        lambda y: torch.cat(y.chunk(2, 1), 1),
        lambda y: y @ y.T,
    ],
)
def test_a_layer_without_channels_is_frozen_and_the_others_follow_edits(
    read: Callable[[Tensor], Tensor],
) -> None:
    model, x = BesideNothing(read).double(), torch.randn(3, 4).double()
    graph = ramify.trace(model, x)
    assert (graph["none"].width, graph["none"].reason) == (0, "it has no channels")
    with pytest.raises(RamifyError, match="'none' cannot be pruned: it has no channels"):
        ramify.apply(graph, [ramify.Prune("none", 0)])
    before = model(x)
    graph = ramify.apply(graph, [ramify.Split("a", 2)])
    torch.testing.assert_close(model(x), before)
    assert (graph["a"].width, model.none.weight.shape) == (9, (0, 9))


def test_parameters_without_values_are_named_if_the_model_does_not_run() -> None:
    none = nn.Conv2d(8, 4, 1)
    none.weight = nn.Parameter(torch.empty(0, 8, 1, 1))
    model = nn.Sequential(nn.Conv2d(3, 8, 1), none)
    with pytest.raises(RamifyError, match="its parameter '1.weight' has no values, as of a layer"):
        ramify.trace(model, torch.randn(2, 3, 4, 4))


def test_inputs_without_values_are_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    said = re.escape("the inputs have no values (shape (0, 4)), and groups are proven on values")
    with pytest.raises(RamifyError, match=said):
        ramify.trace(model, torch.randn(0, 4))
    with pytest.raises(RamifyError, match=said):
        ramify.trace(model, torch.randn(2, 4), also=[(torch.randn(0, 4),)])
