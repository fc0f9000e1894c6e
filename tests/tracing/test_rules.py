"""A user's own operation: its rule is one line or one function, and a wrong one does no harm."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import ramify
from ramify import Prune, RamifyError, Split
from ramify.testing import check_rule
from ramify.tracing import TracedOp
from ramify.tracing.rules import registry
from tests.checks import ability, distance, outputs

FLOAT = torch.float64


@torch.library.custom_op("testlib::halftanh", mutates_args=())
def halftanh(x: Tensor) -> Tensor:
    return torch.tanh(x) * 0.5


halftanh.register_autograd(
    lambda ctx, grad: grad * ctx.saved_tensors[0],
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(0.5 - 2 * output**2),
)


@torch.library.custom_op("testlib::joined", mutates_args=())
def joined(x: Tensor, y: Tensor) -> Tensor:
    return x * torch.sigmoid(y)


@torch.library.custom_op("testlib::total", mutates_args=())
def total(x: Tensor) -> Tensor:
    return x.sum(1)


@torch.library.custom_op("otherlib::swapped", mutates_args=())
def swapped(x: Tensor, first: int, second: int) -> Tensor:
    return x.transpose(first, second).contiguous()


@torch.library.custom_op("otherlib::affine", mutates_args=())
def affine(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return nn.functional.linear(x, weight, bias)


@torch.library.custom_op("otherlib::scaled_", mutates_args=("x",))
def scaled_(x: Tensor) -> None:
    x.mul_(2.0)


@torch.library.custom_op("otherlib::shares_", mutates_args=("x",))
def shares_(x: Tensor) -> None:
    x.copy_(torch.softmax(x, 1))


@torch.library.custom_op("otherlib::flipped", mutates_args=())
def flipped(x: Tensor) -> Tensor:
    return x.flip(1)


@torch.library.custom_op("otherlib::flipped_", mutates_args=("x",))
def flipped_(x: Tensor) -> None:
    x.copy_(x.flip(1))


@torch.library.custom_op("otherlib::neighbours", mutates_args=())
def neighbours(x: Tensor) -> Tensor:
    """Channels 0 and 1 change places, 2 and 3, and so on; the last of an odd number stays."""
    order = torch.arange(x.shape[1])
    even = x.shape[1] // 2 * 2
    order[:even] = order[:even] ^ 1
    return x[:, order].contiguous()


@torch.library.custom_op("otherlib::shares", mutates_args=())
def shares(x: Tensor) -> Tensor:
    return torch.softmax(x, 1)


@torch.library.custom_op("otherlib::numbered", mutates_args=())
def numbered(x: Tensor) -> Tensor:
    return x * torch.arange(1, x.shape[1] + 1, dtype=x.dtype)


@pytest.fixture(autouse=True)
def rules() -> Iterator[None]:
    """Every test begins without rules of users."""
    known = dict(registry.RULES)
    yield
    registry.RULES.clear()
    registry.RULES.update(known)


class Around(nn.Module):
    """Two layers with an operation between them."""

    def __init__(self, op: Callable[[Tensor], Tensor], width: int = 8) -> None:
        super().__init__()
        self.a, self.act, self.b = nn.Linear(4, width), Act(op), nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.act(self.a(x)))


class Act(nn.Module):
    def __init__(self, op: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.op = op

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


def traced(model: nn.Module) -> ramify.ChannelGraph:
    torch.manual_seed(0)
    return ramify.trace(model.to(FLOAT), torch.randn(3, 4, dtype=FLOAT))


def edits_are_exact(model: nn.Module, name: str) -> None:
    """A split keeps the outputs; what it made can be pruned again."""
    graph, x = traced(model), torch.randn(5, 4, dtype=FLOAT)
    before = outputs(model, x)
    graph = ramify.apply(graph, [Split(name, 3, (0.3, 0.7))])
    assert distance(before, outputs(model, x)) < 1e-10
    ramify.apply(graph, [Prune(name, 1)])
    outputs(model, x)


def test_without_a_rule_the_channels_are_frozen_by_name() -> None:
    group = traced(Around(halftanh))["a"]
    assert ability(group) == "8 frozen"
    assert group.reason == "testlib::halftanh in module 'act' has no dimension rule"


@pytest.mark.parametrize("op", [halftanh, torch.ops.testlib.halftanh, "testlib::halftanh"])
@pytest.mark.parametrize("like", ["pointwise", "aten::tanh", torch.ops.aten.mul.Tensor])
def test_an_operation_like_another(op: object, like: object) -> None:
    ramify.rule(op, like)
    assert ability(traced(Around(halftanh))["a"]) == "8 split"
    edits_are_exact(Around(halftanh), "a")
    model = Around(halftanh).to(FLOAT)
    graph = traced(model)
    ramify.apply(graph, [Split("a", 0)])
    model(torch.randn(2, 4, dtype=FLOAT)).sum().backward()
    assert model.a.weight.grad is not None


def test_an_operation_with_two_inputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.gate, self.b = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(joined(self.a(x), self.gate(x)))

    ramify.rule(joined, "pointwise")
    group = traced(Two())["a"]
    assert ability(group) == "8 split"
    assert group.producers == ("a.weight", "a.bias", "gate.weight", "gate.bias")
    edits_are_exact(Two(), "a")


def test_an_operation_that_reduces() -> None:
    @ramify.rule(total)
    def total_rule(op: TracedOp) -> None:
        samples, channels = op.dims(op.args[0])
        op.forbid_split(channels, "sums the channels without a weight")
        op.give([samples])

    group = traced(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), Act(total)))["0"]
    assert ability(group) == "8 prune"
    assert group.reason == "testlib::total in module '2' sums the channels without a weight"


def test_an_operation_that_permutes() -> None:
    ramify.rule("otherlib::swapped", "aten::transpose")

    class Mixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.tokens, self.b = nn.Linear(4, 8), nn.Linear(3, 3), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = swapped(self.a(x), 1, 2)
            return self.b(swapped(self.tokens(x), 1, 2))

    model = Mixer().to(FLOAT)
    x = torch.randn(2, 3, 4, dtype=FLOAT)
    graph = ramify.trace(model, x)
    assert ability(graph["a"]) == "8 split"
    before = outputs(model, x)
    ramify.apply(graph, [Split("a", 2)])
    assert distance(before, outputs(model, x)) < 1e-10


class OwnLinear(nn.Module):
    """A layer whose product is an operation of its own."""

    def __init__(self, inside: int, out: int) -> None:
        super().__init__()
        self.weight, self.bias = (
            nn.Parameter(torch.randn(out, inside)),
            nn.Parameter(torch.ones(out)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return affine(x, self.weight, self.bias)


def test_an_operation_that_is_linear_in_a_weight() -> None:
    model = nn.Sequential(OwnLinear(4, 8), nn.ReLU(), OwnLinear(8, 2))
    graph = traced(model)
    assert {g.name: g.reason for g in graph.groups} == {
        "0": "otherlib::affine in module '0' has no dimension rule",
        "2": "otherlib::affine in module '2' has no dimension rule",
    }
    ramify.rule(affine, torch.ops.aten.linear)
    group = traced(model)["0"]
    assert ability(group) == "8 split"
    assert (group.producers, group.consumers) == (("0.weight", "0.bias"), ("2.weight",))
    edits_are_exact(model, "0")


def in_place(op: Callable[[Tensor], None]) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor) -> Tensor:
        x = x.clone()
        op(x)
        return x

    return run


def test_an_operation_that_writes_in_place() -> None:
    for op in (scaled_, shares_):
        group = traced(Around(in_place(op)))["a"]
        assert group.reason == f"{op._qualname} in module 'act' has no dimension rule"
    ramify.rule(scaled_, "pointwise")
    assert ability(traced(Around(in_place(scaled_)))["a"]) == "8 split"
    edits_are_exact(Around(in_place(scaled_)), "a")


WRONG = [flipped, neighbours, numbered, in_place(flipped_)]


@pytest.mark.parametrize("norm", [nn.Identity, lambda: nn.LayerNorm(8)])
@pytest.mark.parametrize("number", range(len(WRONG)))
def test_a_rule_that_ties_the_wrong_channels(number: int, norm: Callable[[], nn.Module]) -> None:
    """Also behind a norm over the channels, where no values can be compared after growing."""
    for each in (flipped, neighbours, numbered, flipped_):
        ramify.rule(each, "pointwise")
    model = nn.Sequential(nn.Linear(4, 8), norm(), Act(WRONG[number]), nn.Linear(8, 2))
    group = traced(model)["0"]
    assert ability(group) == "8 frozen"
    assert re.fullmatch(
        r"otherlib::\w+ in module '2' does not behave as its dimension rule says", group.reason
    )


def test_a_rule_that_leaves_out_what_the_channels_do_to_each_other() -> None:
    ramify.rule(shares, "pointwise")
    group = traced(Around(shares))["a"]
    assert ability(group) == "8 frozen"
    assert group.reason.startswith("otherlib::shares in module 'act' does not behave as")


def test_a_rule_that_calls_a_size_fixed_that_is_not() -> None:
    @ramify.rule(halftanh)
    def cut(op: TracedOp) -> None:
        samples, channels = op.dims(op.args[0])
        op.give([samples, op.fixed(channels.size)])

    group = traced(Around(halftanh))["a"]
    assert ability(group) == "8 frozen"
    assert group.reason.startswith("testlib::halftanh in module 'act' does not behave as")


def gives_nothing(op: TracedOp) -> None:
    pass


def gives_other_sizes(op: TracedOp) -> None:
    op.give(op.dims(op.args[0])[:1])


def has_a_bug(op: TracedOp) -> None:
    op.dimensions()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "function, says",
    [
        (gives_nothing, "it gave no dimensions for a result"),
        (gives_other_sizes, r"it gave sizes \(3,\) for a result of shape \(3, 8\)"),
        (has_a_bug, "AttributeError: 'TracedOp' object has no attribute 'dimensions'"),
    ],
)
def test_a_rule_that_fails(function: Callable[[TracedOp], None], says: str) -> None:
    ramify.rule(halftanh)(function)
    reason = traced(Around(halftanh))["a"].reason
    start = "testlib::halftanh in module 'act' was called in a way that its dimension rule does not"
    assert re.match(f"{start} know .{says}", reason)


def test_rules_that_cannot_be() -> None:
    ramify.rule(halftanh, "pointwise")
    for attempt, says in REFUSED:
        with pytest.raises(RamifyError, match=says) as error:
            attempt()
        assert "\n" not in str(error.value)


REFUSED: list[tuple[Callable[[], object], str]] = [
    (lambda: ramify.rule(halftanh, "pointwise"), "'testlib::halftanh' has a rule already"),
    (lambda: ramify.rule("aten::cat", "pointwise"), "'aten::cat' has a rule already .*moves.cat"),
    (lambda: ramify.rule(torch.ops.aten.cat)(gives_nothing), "'aten::cat' has a rule already"),
    (lambda: ramify.rule("testlib::none", "pointwise"), "torch knows no operation 'testlib::none'"),
    (lambda: ramify.rule("nolib::none"), "torch knows no operation 'nolib::none'"),
    (lambda: ramify.rule("halftanh"), "needs its namespace, such as 'mylib::fancy', but this one"),
    (lambda: ramify.rule(gives_nothing), "a rule must be for an operation, .* of type function"),
    (lambda: ramify.rule(joined, "aten::svd"), "'aten::svd' has no dimension rule that"),
    (lambda: ramify.rule(joined, total), "'testlib::total' has no dimension rule that"),
    (lambda: ramify.rule(joined)(lambda a, b: None), "takes one argument, the traced operation"),
]


def test_weights_behind_an_operation_without_a_rule_stand_in_the_graph() -> None:
    class Through(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            weight = torch.linalg.qr(self.a.weight)[0]
            return self.b(torch.relu(nn.functional.linear(x, weight, self.a.bias)))

    graph = traced(Through())
    assert [group.name for group in graph.groups] == ["a", "b"]
    assert ability(graph["a"]) == "8 frozen"
    assert graph["a"].reason == "aten::linalg_qr in the model's own forward has no dimension rule"
    assert "aten::linalg_qr" in str(graph)


# ------------------------------------------------------------------------------- check_rule


def test_a_right_rule_passes_and_says_what_stays() -> None:
    ramify.rule(halftanh, "pointwise")
    ramify.rule(joined, "pointwise")
    ramify.rule(swapped, "aten::transpose")
    ramify.rule(affine, "aten::linear")
    ramify.rule(scaled_, "pointwise")
    ramify.rule(shares, "aten::softmax")
    x = torch.randn(3, 4)
    assert check_rule(halftanh, x) == {(0, 0): "", (0, 1): ""}
    assert check_rule("testlib::joined", x, x[0]) == {(0, 0): "", (0, 1): "", (1, 0): ""}
    assert set(check_rule(swapped, torch.randn(2, 3, 4), 1, second=2).values()) == {""}
    assert check_rule(affine, x, nn.Parameter(torch.randn(5, 4))) == {(0, 0): "", (0, 1): ""}
    assert set(check_rule(affine, x, torch.randn(5, 4), torch.ones(5)).values()) == {""}
    assert check_rule(scaled_, x) == {(0, 0): "", (0, 1): ""}
    assert check_rule(shares, x) == {
        (0, 0): "",
        (0, 1): "otherlib::shares in module 'op' mixes them",
    }


@pytest.mark.parametrize(
    "op, like",
    [
        (flipped, "pointwise"),
        (neighbours, "pointwise"),
        (numbered, "pointwise"),
        (shares, "pointwise"),
        (flipped_, "pointwise"),
        (total, "pointwise"),
    ],
)
def test_a_wrong_rule_is_found(op: object, like: str) -> None:
    ramify.rule(op, like)
    name = op._qualname  # type: ignore[attr-defined]
    with pytest.raises(RamifyError, match=f"the rule of '{name}' (does not hold|cannot be used)"):
        check_rule(op, torch.randn(3, 4))


def test_a_rule_that_forgets_a_restriction_is_found() -> None:
    @ramify.rule(total)
    def forgets(op: TracedOp) -> None:
        op.give(op.dims(op.args[0])[:1])

    with pytest.raises(RamifyError, match=r"dimension 1 of tensor 0 .*: testlib::total in module"):
        check_rule(total, torch.randn(3, 4))


def test_an_operation_without_a_rule_has_nothing_to_check() -> None:
    with pytest.raises(RamifyError, match="cannot be used: testlib::total .* no dimension rule"):
        check_rule(total, torch.randn(3, 4))


def test_a_stranger_s_file(tmp_path: Path) -> None:
    """The file that the page shows, outside the package, imported by a script."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    (file,) = (block for block in blocks if "def mean_and_max_rule" in block)
    (tmp_path / "my_ops.py").write_text(file)
    (tmp_path / "script.py").write_text(SCRIPT)
    subprocess.run([sys.executable, tmp_path / "script.py"], check=True, timeout=300)


PAGE = Path(__file__).parents[2] / "docs" / "rules.md"
SCRIPT = """
import torch, ramify, my_ops
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv1d(3, 8, 1), nn.Linear(16, 2)

    def forward(self, x):
        return self.b(my_ops.mean_and_max(torch.relu(self.a(x))))

group = ramify.trace(Net(), torch.randn(2, 3, 5))["a"]
assert group.can_prune and group.can_split and group.consumers == ("b.weight",)
"""


def test_arguments_that_an_operation_does_not_take_are_refused_in_a_sentence() -> None:
    with pytest.raises(RamifyError, match="'aten::relu' does not run on these arguments"):
        check_rule("aten::relu")
