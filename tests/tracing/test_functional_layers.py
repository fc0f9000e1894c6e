"""A layer whose weight is given to a function keeps its numbers true, so that it can be called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import ramify
from ramify import Prune, Split


class Between(nn.Module):
    """A linear layer, a layer that is used by a function, and a linear layer that reads it."""

    def __init__(self, layer: nn.Module, use: Callable[[Any, Tensor], Tensor], out: int) -> None:
        super().__init__()
        self.i, self.layer, self.o = nn.Linear(4, 8), layer, nn.Linear(out, 2)
        self.use = use

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, 4) -> (B, T, 2), the layer seeing (B, 8, T)."""
        y = self.use(self.layer, self.i(x).transpose(1, 2))
        return self.o(y.transpose(1, 2))


def conv(layer: Any, y: Tensor) -> Tensor:
    groups = y.shape[1] // layer.weight.shape[1]
    return F.conv1d(y, layer.weight, layer.bias, padding=1, groups=groups)


def conv_in_groups(layer: Any, y: Tensor) -> Tensor:
    return F.conv1d(y, layer.weight, layer.bias, padding=1, groups=4)


def transposed(layer: Any, y: Tensor) -> Tensor:
    return F.conv_transpose1d(y, layer.weight, layer.bias, padding=1)


def transposed_depthwise(layer: Any, y: Tensor) -> Tensor:
    return F.conv_transpose1d(y, layer.weight, layer.bias, padding=1, groups=y.shape[1])


def step_by_step(layer: Any, y: Tensor) -> Tensor:
    """A depthwise convolution as a sum over its taps, as a recurrent step of Mamba has it."""
    y = F.pad(y, (1, 1))
    taps = layer.weight.squeeze(1).unbind(1)
    length = y.shape[2] - 2
    out = sum(y[:, :, n : n + length] * tap[:, None] for n, tap in enumerate(taps))
    return out + layer.bias[:, None]


def batch_norm(layer: Any, y: Tensor) -> Tensor:
    return F.batch_norm(y, layer.running_mean, layer.running_var, layer.weight, layer.bias)


def layer_norm(layer: Any, y: Tensor) -> Tensor:
    return F.layer_norm(
        y.transpose(1, 2), y.shape[1:2], layer.weight, layer.bias, layer.eps
    ).transpose(1, 2)


def by_hand(layer: Any, y: Tensor) -> Tensor:
    return y / y.square().mean(1, keepdim=True).sqrt() * layer.weight[:, None]


def linear(layer: Any, y: Tensor) -> Tensor:
    return F.linear(y.transpose(1, 2), layer.weight, layer.bias).transpose(1, 2)


def matmul(layer: Any, y: Tensor) -> Tensor:
    return layer.weight @ y + layer.bias[:, None]


def prelu(layer: Any, y: Tensor) -> Tensor:
    return F.prelu(y, layer.weight)


def depthwise(groups: int = 8, out: int = 8) -> nn.Conv1d:
    return nn.Conv1d(8, out, 3, padding=1, groups=groups)


# name: (layer, its use, channels out, inputs of the layer's own call after two are pruned, the
# attributes that follow)
CASES: dict[str, tuple[Any, Any, int, Any, dict[str, Any]]] = {
    "depthwise": (
        depthwise,
        conv,
        8,
        (1, 6, 5),
        {"groups": 6, "in_channels": 6, "out_channels": 6},
    ),
    "depthwise by taps": (
        depthwise,
        step_by_step,
        8,
        (1, 6, 5),
        {"groups": 6, "in_channels": 6, "out_channels": 6},
    ),
    "depthwise, weight normed": (
        lambda: parametrizations.weight_norm(depthwise()),
        conv,
        8,
        (1, 6, 5),
        {"groups": 6, "in_channels": 6, "out_channels": 6},
    ),
    "two outputs a channel": (
        lambda: depthwise(out=16),
        lambda layer, y: F.conv1d(y, layer.weight, layer.bias, padding=1, groups=y.shape[1]),
        16,
        (1, 6, 5),
        {"groups": 6, "in_channels": 6, "out_channels": 12},
    ),
    "convolution": (
        lambda: nn.Conv1d(8, 8, 3, padding=1),
        conv,
        8,
        (1, 6, 5),
        {"groups": 1, "in_channels": 6},
    ),
    "transposed": (
        lambda: nn.ConvTranspose1d(8, 5, 3, padding=1),
        transposed,
        5,
        (1, 6, 5),
        {"in_channels": 6, "out_channels": 5},
    ),
    "transposed depthwise": (
        lambda: nn.ConvTranspose1d(8, 8, 3, padding=1, groups=8),
        transposed_depthwise,
        8,
        (1, 6, 5),
        {"groups": 6, "in_channels": 6, "out_channels": 6},
    ),
    "batch norm": (lambda: nn.BatchNorm1d(8), batch_norm, 8, (1, 6, 5), {"num_features": 6}),
    "layer norm": (lambda: nn.LayerNorm(8), layer_norm, 8, (1, 5, 6), {"normalized_shape": (6,)}),
    "root mean square norm": (
        lambda: nn.RMSNorm(8),
        by_hand,
        8,
        (1, 5, 6),
        {"normalized_shape": (6,)},
    ),
    "linear": (lambda: nn.Linear(8, 5), linear, 5, (1, 5, 6), {"in_features": 6}),
    "matrix product": (lambda: nn.Linear(8, 5), matmul, 5, (1, 5, 6), {"in_features": 6}),
    "slopes": (lambda: nn.PReLU(8), prelu, 8, (1, 6, 5), {"num_parameters": 6}),
}


@pytest.mark.parametrize("name", CASES)
def test_every_number_of_a_layer_agrees_with_its_weight(name: str) -> None:
    make, use, out, shape, wanted = CASES[name]
    torch.manual_seed(0)
    model = Between(make(), use, out).eval()
    graph = ramify.trace(model, torch.randn(2, 5, 4))
    ramify.apply(graph, [Prune("i", 0), Prune("i", 1)])
    assert {key: getattr(model.layer, key) for key in wanted} == wanted
    if shape is not None:
        x = torch.randn(shape)
        moved = x.transpose(1, 2) if shape[1] == 5 else x
        called = model.layer(x)
        called = called.transpose(1, 2) if shape[1] == 5 else called
        if "norm" not in name or "normed" in name or name == "layer norm":
            torch.testing.assert_close(called, use(model.layer, moved))


def test_groups_of_several_channels() -> None:
    torch.manual_seed(0)
    model = Between(nn.Conv1d(8, 8, 3, padding=1, groups=4), conv_in_groups, 8).eval()
    x = torch.randn(2, 5, 4)
    for _ in range(2):  # one of the two inputs of each group, then one of its two outputs
        graph = ramify.trace(model, x)
        ramify.apply(graph, [Prune(next(g for g in graph.groups if g.width == 2).name, 0)])
    layer = model.layer
    assert (layer.groups, layer.in_channels, layer.out_channels) == (4, 4, 4)
    assert layer(torch.randn(1, 4, 5)).shape == (1, 4, 5)


def test_an_embedding_a_group_norm_and_a_bilinear_layer() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.e, self.n = nn.Embedding(9, 8), nn.GroupNorm(8, 8)
            self.b, self.o = nn.Bilinear(8, 8, 6), nn.Linear(6, 2)

        def forward(self, tokens: Tensor) -> Tensor:
            x = F.embedding(tokens, self.e.weight)
            x = F.group_norm(x, x.shape[1], self.n.weight, self.n.bias)
            return self.o(F.bilinear(x, x, self.b.weight, self.b.bias))

    model = Net().eval()
    graph = ramify.trace(model, torch.tensor([0, 3, 8]))
    edits = [
        Split(g.name, 0) if g.can_split else Prune(g.name, 0)
        for g in graph.groups
        if g.can_split or g.can_prune
    ]
    ramify.apply(graph, edits)
    assert model.e.embedding_dim == model.e.weight.shape[1]
    assert model.n.num_channels == model.n.num_groups == model.n.weight.shape[0]
    sizes = model.b.out_features, model.b.in1_features, model.b.in2_features
    assert sizes == tuple(model.b.weight.shape)
    x = model.e(torch.tensor([1, 2]))
    assert model.b(model.n(x), x).shape == (2, model.o.in_features)
