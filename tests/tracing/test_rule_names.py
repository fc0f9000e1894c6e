"""A rule is registered under the name that torch knows, of any namespace, or refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.library import Library

import ramify
from ramify.tracing.rules.registry import RULES, operation_name
from tests.checks import ability

LIBRARY = Library("namelib", "DEF")
LIBRARY.define("scaled(Tensor x, float by) -> Tensor")
LIBRARY.define("scaled.tensor(Tensor x, Tensor by) -> Tensor")
LIBRARY.define("summed(Tensor x, int dim) -> Tensor")
LIBRARY.define("swapped(Tensor x, int one, int other) -> Tensor")
LIBRARY.impl("scaled", lambda x, by: x * by, "CPU")
LIBRARY.impl("scaled.tensor", lambda x, by: x * by, "CPU")
LIBRARY.impl("summed", lambda x, dim: x.sum(dim), "CPU")
LIBRARY.impl("swapped", lambda x, one, other: x.transpose(one, other).clone(), "CPU")


@torch.library.custom_op("namelib::halved", mutates_args=())
def halved(x: Tensor) -> Tensor:
    return x / 2


@torch.library.triton_op("namelib::kernel", mutates_args=())
def kernel(x: Tensor) -> Tensor:
    return torch.tanh(x)


class Own(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.tanh(x) * 0.5

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


@pytest.fixture(autouse=True)
def _only_here() -> Iterator[None]:
    known = dict(RULES)
    yield
    RULES.clear()
    RULES.update(known)


class Net(nn.Module):
    def __init__(self, through: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.through = nn.Linear(4, 8), nn.Linear(8, 2), through

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.through(self.a(x)))


def found(through: Callable[[Tensor], Tensor]) -> str:
    return ability(ramify.trace(Net(through), torch.randn(3, 5, 4))["a"])


SPELLINGS: list[Any] = [
    "namelib::halved",
    "namelib.halved",
    "torch.ops.namelib.halved",
    "namelib::halved.default",
    "torch.ops.namelib.halved.default",
    halved,
    torch.ops.namelib.halved,
    torch.ops.namelib.halved.default,
]


@pytest.mark.parametrize("name", SPELLINGS, ids=str)
def test_every_spelling_is_the_same_operation(name: Any) -> None:
    assert found(halved) == "8 frozen"
    ramify.rule(name, like="pointwise")
    assert found(halved) == "8 split"
    assert "aten::namelib::halved" not in RULES
    with pytest.raises(ramify.RamifyError, match="'namelib::halved' has a rule already"):
        ramify.rule("namelib::halved", like="pointwise")


def test_a_rule_is_for_all_overloads() -> None:
    by = torch.full((1,), 3.0)
    ramify.rule("namelib::scaled.tensor", like="pointwise")
    assert found(lambda x: torch.ops.namelib.scaled(x, 3.0)) == "8 split"
    assert found(lambda x: torch.ops.namelib.scaled(x, by)) == "8 split"


def test_operations_of_a_library_that_reduce_and_move() -> None:
    summed = lambda x: x * torch.ops.namelib.summed(x, 1)[:, None]  # noqa: E731
    swapped = lambda x: torch.ops.namelib.swapped(  # noqa: E731
        torch.ops.namelib.swapped(x, 1, 2), 1, 2
    )
    assert found(summed) == found(swapped) == "8 frozen"
    ramify.rule("namelib::summed", like="aten::sum")
    ramify.rule(torch.ops.namelib.swapped, like="aten.transpose")
    assert found(summed) == found(swapped) == "8 split"


def test_a_kernel_is_an_operation_like_any_other() -> None:
    if found(kernel) != "8 split":  # some versions of torch look into it, which needs no rule
        ramify.rule(kernel, like="pointwise")
    assert found(kernel) == "8 split"


def test_an_autograd_function_needs_no_rule() -> None:
    assert found(Own.apply) == "8 split"
    with pytest.raises(ramify.RamifyError, match="Own is an autograd.Function, which needs no rul"):
        ramify.rule(Own, like="pointwise")


WRONG: list[tuple[Any, str]] = [
    ("namelib::halvd", "knows no operation 'namelib::halvd'; did you mean 'namelib::halved'"),
    ("nameslib::halved", "no operation 'nameslib::halved'; did you mean 'namelib::halved'"),
    ("halved", "this one has none: 'halved'; did you mean 'namelib::halved'"),
    ("nolib::nothing", "knows no operation 'nolib::nothing': define it"),
    ("namelib::", "knows no operation 'namelib::'"),
    (torch.tanh, "of type builtin_function_or_method; did you mean 'aten::tanh'"),
    (torch.ops.namelib, "a rule must be for an operation"),
    (3, "but got 3 of type int"),
]


@pytest.mark.parametrize("name, message", WRONG)
def test_a_wrong_name_is_refused_with_the_nearest(name: Any, message: str) -> None:
    with pytest.raises(ramify.RamifyError, match=message):
        ramify.rule(name, like="pointwise")
    with pytest.raises(ramify.RamifyError, match=message):
        ramify.rule(name)


def test_a_wrong_likeness_is_refused_with_the_nearest() -> None:
    for like, message in [
        ("pointwse", "did you mean 'pointwise'"),
        ("softmax", "did you mean 'aten::softmax'"),
        ("aten::softmaxx", "did you mean 'aten::softmax'"),
    ]:
        with pytest.raises(ramify.RamifyError, match=message):
            ramify.rule(halved, like=like)
    assert operation_name(halved) not in RULES
