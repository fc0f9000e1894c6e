"""Blocks of channels that depend on the size of the input are never offered."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ramify
from ramify.tracing.verify.other_size import other_sizes
from tests.checks import outputs


class Image(nn.Module):
    """A stem, something in between, and a head that keeps the image."""

    def __init__(self, between: Callable[[Image, Tensor], Tensor], width: int = 8) -> None:
        super().__init__()
        self.stem, self.bottom = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, width, 1)
        self.out = nn.LazyConv2d(5, 1)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.between(self, self.stem(x))))


class Sequence(nn.Module):
    def __init__(self, between: Callable[[Sequence, Tensor], Tensor], width: int = 8) -> None:
        super().__init__()
        self.stem, self.bottom = nn.Linear(6, width), nn.Linear(width, width)
        self.table = nn.Parameter(0.1 * torch.randn(16, width))
        self.out = nn.LazyLinear(5)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.between(self, self.stem(x))))


def untransposed(net: Image, x: Tensor) -> Tensor:
    """(B, H*W, C) taken for (B, C, H, W)."""
    return x + net.bottom(x).flatten(2).transpose(1, 2).softmax(1).reshape(x.shape)


def channels_last(net: Image, x: Tensor) -> Tensor:
    return x + net.bottom(x).permute(0, 2, 3, 1).reshape(x.shape)


def by_width(net: Image, x: Tensor) -> Tensor:
    """Rows of an image and channels change places by a reshape."""
    b, c, h, w = x.shape
    return x + net.bottom(x).transpose(1, 2).reshape(b, c, h, w)


def over_samples(net: Image, x: Tensor) -> Tensor:
    """Samples and channels change places by a reshape."""
    b, c, h, w = x.shape
    return x + net.bottom(x).transpose(0, 1).reshape(b, c, h, w)


def sequence_untransposed(net: Sequence, x: Tensor) -> Tensor:
    return x + net.bottom(x).transpose(1, 2).reshape(x.shape)


def sequence_over_samples(net: Sequence, x: Tensor) -> Tensor:
    b, n, c = x.shape
    return x + net.bottom(x).permute(2, 0, 1).reshape(b, n, c)


def chunks(net: Sequence, x: Tensor) -> Tensor:
    """As many chunks as there are samples."""
    b, n, c = x.shape
    return x + net.bottom(x).reshape(n, b, c).transpose(0, 1).reshape(c, b, n).reshape(b, n, c)


DEPEND: list[tuple[Any, Any, tuple[int, ...]]] = [
    (Image, untransposed, (1, 3, 2, 2)),
    (Image, untransposed, (2, 3, 2, 4)),
    (Image, channels_last, (1, 3, 2, 2)),
    (Image, by_width, (1, 3, 4, 4)),
    (Image, over_samples, (2, 3, 3, 3)),
    (Sequence, sequence_untransposed, (1, 4, 6)),
    (Sequence, sequence_over_samples, (2, 4, 6)),
    (Sequence, chunks, (2, 4, 6)),
]


def edited(model: nn.Module, x: Tensor) -> ramify.ChannelGraph:
    graph = ramify.trace(model, x)
    edits = [ramify.Split(group.name, 1) for group in graph.groups if group.can_split]
    return ramify.apply(graph, edits)


def made(kind: Any, between: Any, shape: tuple[int, ...]) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model, x = kind(between).double(), torch.randn(shape).double()
    with torch.no_grad():
        model(x)
    return model.eval(), x


@pytest.mark.parametrize("kind, between, shape", DEPEND)
def test_blocks_that_depend_on_the_size_of_the_input_are_frozen(
    kind: Any, between: Any, shape: tuple[int, ...]
) -> None:
    model, x = made(kind, between, shape)
    larger = [
        torch.cat([x, x], dim) for dim in range(x.dim()) if x.shape[dim] != (3, 6)[x.dim() == 3]
    ]
    before = [outputs(model, each)[0] for each in (x, *larger)]
    assert not ramify.trace(model, x)["stem"].can_split
    edited(model, x)
    for each, old in zip((x, *larger), before, strict=True):
        torch.testing.assert_close(outputs(model, each)[0], old)


def pixels(net: Image, x: Tensor) -> Tensor:
    return F.pixel_unshuffle(F.pixel_shuffle(net.bottom(x), 2), 2)


def pooled(net: Image, x: Tensor) -> Tensor:
    return net.bottom(x) * F.adaptive_avg_pool2d(x, 1).sigmoid()


def windows(net: Image, x: Tensor) -> Tensor:
    x = net.bottom(x)
    b, c, h, w = x.shape
    x = x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 3, 5, 1)
    x = x.reshape(-1, 4, c).softmax(1)
    x = x.view(b, h // 2, w // 2, 2, 2, c).permute(0, 5, 1, 3, 2, 4)
    return x.reshape(b, c, h, w)


def tokens(net: Image, x: Tensor) -> Tensor:
    x = net.bottom(x)
    b, c, h, w = x.shape
    return x.flatten(2).transpose(1, 2).relu().transpose(1, 2).reshape(b, c, h, w)


def resized(net: Image, x: Tensor) -> Tensor:
    return net.bottom(F.interpolate(x, size=(4, 4)))


def positions(net: Sequence, x: Tensor) -> Tensor:
    return net.bottom(x + net.table[: x.shape[1]])


def fixed_positions(net: Sequence, x: Tensor) -> Tensor:
    return net.bottom(x + net.table)


def heads(net: Sequence, x: Tensor) -> Tensor:
    q = net.bottom(x)
    b, n, c = q.shape
    q = q.view(b, n, 2, c // 2).transpose(1, 2)
    return F.scaled_dot_product_attention(q, q, q).transpose(1, 2).reshape(b, n, c)


def folded(net: Sequence, x: Tensor) -> Tensor:
    return net.bottom(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)


def one_vector(net: Sequence, x: Tensor) -> Tensor:
    """A head over everything, which takes one length alone."""
    return net.bottom(x).reshape(len(x), -1)


KEPT: list[tuple[Any, Any, tuple[int, ...]]] = [
    (Image, pixels, (1, 3, 4, 4)),
    (Image, pooled, (1, 3, 5, 7)),
    (Image, windows, (1, 3, 4, 6)),
    (Image, tokens, (1, 3, 3, 4)),
    (Image, resized, (2, 3, 8, 8)),
    (Sequence, positions, (2, 8, 6)),
    (Sequence, fixed_positions, (2, 16, 6)),
    (Sequence, folded, (2, 5, 6)),
    (Sequence, heads, (2, 5, 6)),
    (Sequence, one_vector, (3, 4, 6)),
]


@pytest.mark.parametrize("kind, between, shape", KEPT)
def test_nothing_else_is_frozen(kind: Any, between: Any, shape: tuple[int, ...]) -> None:
    model, x = made(kind, between, shape)
    group = ramify.trace(model, x)["stem"]
    assert group.can_split
    assert group.can_prune
    before = outputs(model, x)[0]
    edited(model, x)
    torch.testing.assert_close(outputs(model, x)[0], before)


def test_reasons_name_the_operation() -> None:
    model, x = made(Image, untransposed, (1, 3, 2, 2))
    assert ramify.trace(model, x)["stem"].reason == (
        "aten::view in the model's own forward cuts them into blocks that depend on the size of "
        "the input"
    )


def test_inputs_of_other_sizes() -> None:
    image = [tuple(t.shape) for t in other_sizes(torch.zeros(1, 3, 4, 6))]
    assert image[0] == (2, 3, 8, 12)
    assert (1, 3, 8, 12) in image
    assert image[-1] == (2, 3, 4, 6)
    assert next(other_sizes(torch.zeros(1, 3, 224, 96))).shape == (2, 3, 112, 48)
    ids = {"ids": torch.arange(4).view(1, 4), "mask": torch.ones(1, 4, dtype=torch.bool), "n": 4}
    first = next(other_sizes(ids))
    assert first["n"] == 4
    assert first["ids"].tolist() == [[0, 1, 2, 3, 0, 1, 2, 3]] * 2
    assert first["mask"].shape == (2, 8)
    assert list(other_sizes((3, "a"))) == []
    assert math.prod(next(other_sizes(torch.zeros(2, 5, 3))).shape) == 4 * 30


def averaged(net: Image, x: Tensor) -> Tensor:
    """Large images are normalised over their channels."""
    x = net.bottom(x)
    return x if x.shape[2] < 6 else x - x.mean(1, keepdim=True)


def averaged_by_number(net: Image, x: Tensor) -> Tensor:
    """The same operations, over space or over channels."""
    x = net.bottom(x)
    return x - x.mean(2 if x.shape[2] < 6 else 1, keepdim=True)


def one_layer_more(net: Image, x: Tensor) -> Tensor:
    """Large images go through another layer."""
    return net.bottom(x).tanh() if x.shape[2] >= 6 else x


def pooled_by_width(net: Image, x: Tensor) -> Tensor:
    """Of large images, as many pixels become one as the width says."""
    x = net.bottom(x)
    return x if x.shape[2] < 6 else F.avg_pool2d(x, x.shape[1] // 4)


@pytest.mark.parametrize("between", [averaged, averaged_by_number, pooled_by_width])
def test_what_happens_at_another_size_alone_forbids_copies(between: Callable[..., Tensor]) -> None:
    model, x = made(Image, between, (1, 3, 4, 4))
    group = ramify.trace(model, x)["bottom"]
    assert not group.can_split
    assert not group.prune_exact


def test_a_layer_that_runs_at_another_size_alone_is_followed() -> None:
    model, x = made(Image, one_layer_more, (1, 3, 4, 4))
    sizes = x, torch.randn(2, 3, 8, 8).double()
    before = [outputs(model, each)[0] for each in sizes]
    graph = ramify.trace(model, x)
    assert "bottom.weight" in graph["stem"].consumers
    graph = ramify.apply(graph, [ramify.Split("stem", 1)])
    ramify.apply(graph, [ramify.Split("stem", 2)])
    for each, old in zip(sizes, before, strict=True):
        torch.testing.assert_close(outputs(model, each)[0], old)
