"""Runs for shapes alone: the same operations and shapes, no products, and no made-up values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ramify.tracing.recorder import Tape, call, record
from ramify.tracing.shapes_only import ShapesOnly, ValueAsked
from ramify.tracing.sizes import SizedRun


class Function(nn.Module):
    """A layer, and what becomes of its output."""

    def __init__(self, layer: nn.Module, then: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.then = layer, then

    def forward(self, x: Tensor) -> Tensor:
        return self.then(self.layer(x), x)


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(2, 4, 6)), nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.bmm(x, self.weight)
        return torch.baddbmm(self.bias, x, self.weight) + y


def attention(x: Tensor, _: Tensor) -> Tensor:
    q, k, v = x.unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def relu(x: Tensor, _: Tensor) -> Tensor:
    return torch.relu(x)


IMAGE = torch.randn(2, 4, 9, 7)
NETS: list[tuple[nn.Module, Tensor]] = [
    (nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3, bias=False)), torch.randn(2, 4)),
    (Function(nn.Linear(4, 24), attention), torch.randn(2, 3, 4)),
    (Experts(), torch.randn(2, 5, 4)),
    (nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), IMAGE),
    (nn.Conv2d(4, 6, (3, 1), stride=(2, 1), padding=(1, 0)), IMAGE),
    (nn.Conv2d(4, 6, 2, dilation=3, bias=False), IMAGE),
    (nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1, groups=2), IMAGE),
    (nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.Flatten()), IMAGE),
    (nn.Conv1d(4, 6, 3), torch.randn(2, 4, 9)),
    (nn.Conv3d(4, 6, 3), torch.randn(2, 4, 5, 6, 7)),
    (nn.Conv2d(4, 6, 3), IMAGE.to(memory_format=torch.channels_last)),
    (nn.Conv2d(4, 4, 3, padding=1, groups=4), IMAGE[:1].to(memory_format=torch.channels_last)),
    (nn.Conv2d(64, 64, 3, groups=64), torch.randn(1, 256, 64).mT.view(1, 64, 16, 16)),
    (nn.ConvTranspose2d(4, 6, 3), IMAGE[:1].to(memory_format=torch.channels_last)),
    (nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last), IMAGE),
    (nn.Sequential(nn.Conv2d(4, 6, 3), nn.GELU()), IMAGE.to(memory_format=torch.channels_last)),
    (Function(nn.Conv2d(4, 6, 3), lambda y, x: F.silu(y.permute(0, 2, 3, 1)[..., ::2])), IMAGE),
    (Function(nn.Conv2d(4, 6, 3), lambda y, x: y.permute(0, 2, 3, 1).reshape(2, -1, 3)), IMAGE),
]


def run(model: nn.Module, x: Tensor, execute: ShapesOnly | None = None) -> Tape:
    return record(model, lambda: call(model, x), x, execute=execute)


@pytest.mark.parametrize("model, x", NETS)
def test_operations_and_shapes_are_those_of_a_run(model: nn.Module, x: Tensor) -> None:
    real, hollow = run(model, x), run(model, x, ShapesOnly(model))
    assert [op.name for op in hollow.ops] == [op.name for op in real.ops]
    assert hollow.shapes == real.shapes
    assert hollow.dtypes == real.dtypes
    for one, other in zip(real.results, hollow.results, strict=True):
        assert one.stride() == other.stride()


def test_products_are_not_computed() -> None:
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU())
    assert not run(model, torch.ones(2, 3), ShapesOnly(model)).results[0].any()


def test_activations_of_what_is_not_known_are_not_computed() -> None:
    model = Function(nn.Linear(3, 4), lambda y, x: F.elu((y + 1).log() - 1, 2.0))
    assert not run(model, torch.ones(2, 3), ShapesOnly(model)).results[0].any()


BIG = torch.randn(2, 8, 80, 60)
COPIES: list[Callable[[Tensor], Any]] = [
    torch.relu,
    torch.sigmoid,
    F.gelu,
    lambda y: (torch.exp(y, out=torch.zeros_like(y)), torch.erf(y[0], out=y[0])),
    lambda y: F.hardtanh(y, -2.0, 3.0),
    lambda y: y.permute(0, 2, 3, 1).contiguous(),
    lambda y: y.permute(0, 2, 3, 1).clone(),
    lambda y: y.clone().add_(1.0),
    lambda y: y.to(memory_format=torch.channels_last).clone(),
    lambda y: (y + y, 2 * y, y - 1, y / y[:, :1], y[0] * y, y * torch.tensor(2.0)),
    lambda y: (y + y.double(), y + y.permute(0, 1, 3, 2).reshape(y.shape).mT.mT),
    lambda y: y.permute(0, 1, 3, 2) + y.permute(0, 1, 3, 2),
    lambda y: (y.softmax(-1), y.softmax(1), y.softmax(1, dtype=torch.float64)),
    lambda y: F.scaled_dot_product_attention(y, y, y),
    lambda y: F.layer_norm(y, (80, 60), y[0, 0] * 0 + 1),
    lambda y: F.layer_norm(y.permute(0, 2, 3, 1), (8,)),
    lambda y: torch.native_layer_norm(y, [8, 80, 60], None, None, 1e-5),
    lambda y: F.batch_norm(y, torch.zeros(8), torch.ones(8)),
    lambda y: torch.native_batch_norm(y, None, None, torch.zeros(8), torch.ones(8), False, 0.1, 1),
    lambda y: torch.native_batch_norm(y, torch.ones(8), None, None, None, True, 0.1, 1.0),
    lambda y: (F.pad(y, (1, 2)), F.pad(y, (1, 2, 3, 4)), F.pad(y, (0, 0, 0, 0, 5, 1), value=2.0)),
    lambda y: (F.pad(y, (-1, 2)), F.pad(y[:, :1], (1, 1))),
    lambda y: (torch.cat([y, y], 1), torch.cat([y, y[..., :3]], -1), torch.cat([y.double(), y])),
    lambda y: torch.cat([y, torch.empty(0)]),
    lambda y: F.grid_sample(y, y[:, :2, :5, :7].permute(0, 2, 3, 1), align_corners=False),
]


@pytest.mark.parametrize("then", COPIES)
def test_large_results_of_unknown_values_have_the_shapes_and_strides_of_a_run(
    then: Callable[[Tensor], Any],
) -> None:
    model = Function(nn.Conv2d(8, 8, 1), lambda y, x: then(y))
    real, hollow = run(model, BIG), run(model, BIG, ShapesOnly(model))
    assert [op.name for op in hollow.ops] == [op.name for op in real.ops]
    assert (hollow.shapes, hollow.dtypes) == (real.shapes, real.dtypes)
    for one, other in zip(real.results, hollow.results, strict=True):
        assert one.stride() == other.stride()


@pytest.mark.parametrize(
    "then",
    [
        lambda y: F.layer_norm(y, (60,), y.new_ones(60), y.new_ones(61)),
        lambda y: F.batch_norm(y, torch.zeros(8), torch.ones(7)),
        lambda y: y.softmax(4),
        lambda y: y + y[..., 1:],
        lambda y: torch.cat([y, y[:, 1:]], 2),
        lambda y: F.grid_sample(y, y[:1, :2, :5, :7].permute(0, 2, 3, 1), align_corners=False),
    ],
)
def test_what_an_operation_would_refuse_is_not_made_up(then: Callable[[Tensor], Tensor]) -> None:
    model = Function(nn.Conv2d(8, 8, 1), lambda y, x: then(y))
    with pytest.raises((RuntimeError, IndexError)):
        run(model, BIG, ShapesOnly(model))


def test_large_results_of_unknown_values_are_not_computed() -> None:
    model = Function(nn.Conv2d(8, 8, 1), lambda y, x: torch.cat([y.softmax(1), y + 1], 1).exp())
    assert not run(model, BIG, ShapesOnly(model)).results[0].any()


READERS: list[Callable[[Tensor, Tensor], Tensor]] = [
    lambda y, x: y * y.sum().item(),
    lambda y, x: y if y.sum() > 0 else -y,
    lambda y, x: y[y > 0],
    lambda y, x: (y > 0).nonzero(),
    lambda y, x: x.clone().copy_(y)[0, 0].item() * y,
    lambda y, x: y.new_ones(3).mul_(y[0, :3]).max().item() * x,
]


@pytest.mark.parametrize("then", READERS)
def test_values_that_were_not_computed_are_not_given_out(
    then: Callable[[Tensor, Tensor], Tensor],
) -> None:
    model, x = Function(nn.Linear(4, 4), then), torch.randn(2, 4)
    run(model, x)
    with pytest.raises(ValueAsked):
        run(model, x, ShapesOnly(model))


PAST: list[Callable[[Tensor, Tensor], object]] = [
    lambda y, x: y.tolist(),
    lambda y, x: y[0].numpy(),
    lambda y, x: np.asarray(x.new_zeros(2, 4).copy_(y)),
    lambda y, x: y.__dlpack__(),
]


@pytest.mark.parametrize("read", PAST)
def test_values_are_not_given_out_past_all_operations(
    read: Callable[[Tensor, Tensor], object],
) -> None:
    def then(y: Tensor, x: Tensor) -> Tensor:
        read(x, x)
        read(y, x)
        return y

    model, x = Function(nn.Linear(4, 4), then), torch.randn(2, 4)
    sized = SizedRun(model, lambda: call(model, x))
    record(model, sized, x)
    with pytest.raises(ValueAsked):
        record(model, sized, x, execute=ShapesOnly(model))


KNOWN: list[Callable[[Tensor, Tensor], Tensor]] = [
    lambda y, x: y * x.sum().item(),
    lambda y, x: y[x[:, 0] > 0],
    lambda y, x: y[:, torch.tensor([0, 2])],
    lambda y, x: x[:, y.argmax(1)],
]


@pytest.mark.parametrize("then", KNOWN)
def test_values_of_the_inputs_are_known(then: Callable[[Tensor, Tensor], Tensor]) -> None:
    model, x = Function(nn.Linear(4, 4), then), torch.randn(2, 4)
    assert run(model, x, ShapesOnly(model)).shapes == run(model, x).shapes


def test_a_forward_that_goes_on_by_another_way_is_stopped() -> None:
    def then(y: Tensor, x: Tensor) -> Tensor:
        try:
            return y * y.sum().item()
        except Exception:
            return x + 1

    model = Function(nn.Linear(4, 4), then)
    with pytest.raises(ValueAsked):
        run(model, torch.randn(2, 4), ShapesOnly(model))


REFUSED: list[tuple[nn.Module, tuple[int, ...]]] = [
    (nn.Linear(4, 5), (2, 3)),
    (nn.Linear(4, 5, bias=False), (2, 3)),
    (nn.Conv2d(4, 6, 3), (2, 5, 9, 9)),
    (nn.Conv2d(4, 6, 3), (2, 4, 2, 9)),
    (nn.ConvTranspose2d(4, 6, 3), (2, 3, 9, 9)),
    (Experts(), (3, 5, 4)),
]


@pytest.mark.parametrize("model, shape", REFUSED)
def test_what_a_product_would_refuse_is_not_made_up(
    model: nn.Module, shape: tuple[int, ...]
) -> None:
    x = torch.randn(shape)
    with pytest.raises(RuntimeError):
        run(model, x)
    with pytest.raises(RuntimeError):
        run(model, x, ShapesOnly(model))


FAILING: list[tuple[Callable[[Tensor, Tensor], Tensor], bool]] = [
    (lambda y, x: y.view(3, 7), True),
    (lambda y, x: torch.cat([y, x.new_ones(3, 3)], 1), True),
    (lambda y, x: y + x.new_ones(3), True),
    (lambda y, x: F.embedding((y.abs() + 9).long(), x), False),
    (lambda y, x: y * y.sum().item(), False),
]


@pytest.mark.parametrize("then, by_size", FAILING)
def test_what_fails_for_its_sizes_is_told_from_what_fails_for_its_values(
    then: Callable[[Tensor, Tensor], Tensor], by_size: bool
) -> None:
    model, x = Function(nn.Linear(4, 4), then), torch.randn(2, 4)
    hollow = ShapesOnly(model)
    with pytest.raises(Exception) as failed:  # noqa: PT011  (of whatever kind)
        run(model, x, hollow)
    assert hollow.explains(failed.value) == by_size
