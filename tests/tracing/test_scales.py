"""The scale of q·kᵀ, in all the ways in which it depends on widths: every edit keeps it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ramify
from ramify import Prune, Split
from tests.checks import ability, distance, mask, outputs

Scale = Callable[["Heads", Tensor, Tensor], Tensor]
"""(layer, scores, queries) -> scaled scores."""


class Heads(nn.Module):
    """Attention with values of a width of their own; fused where no scale is written out."""

    def __init__(self, value: int = 6, scale: Scale | None = None) -> None:
        super().__init__()
        self.num_heads, self.width, self.scale = 2, 6, scale
        self.q, self.k, self.v = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(4, value)
        self.out = nn.Linear(value, 4)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            f(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for f in (self.q, self.k, self.v)
        )
        if self.scale is None:
            o = F.scaled_dot_product_attention(q, k, v)
        else:
            o = self.scale(self, q @ k.transpose(-1, -2), q).softmax(-1) @ v
        return x + self.out(o.transpose(1, 2).flatten(2))


def made(*layers: Heads) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(*layers, nn.Linear(4, 2)).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model, torch.randn(2, 5, 4, dtype=torch.float64)


@pytest.mark.parametrize("first", ["0.q:1", "0.v"])
def test_an_edit_that_brings_another_kernel_leaves_later_layers_their_scale(first: str) -> None:
    """Queries and values of different widths take a kernel of more operations."""
    model, x = made(Heads(), Heads())
    graph = ramify.apply(ramify.trace(model, x), [Prune(first, 0)])
    values = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    mask(graph, graph["1.q:1"], [1])
    masked = outputs(model, x)
    model.load_state_dict(values)
    graph = ramify.apply(graph, [Prune("1.q:1", 1)])
    assert distance(masked, outputs(model, x)) < 1e-10
    ramify.apply(graph, [Split("1.q:1", 0, (1.3, -0.3))])
    assert distance(masked, outputs(model, x)) < 1e-10


def test_what_is_offered_does_not_hang_on_which_widths_are_equal() -> None:
    """Some of these take one kernel as they are and another when they grow."""
    written: Scale = lambda layer, scores, q: scores * q.size(-1) ** -0.5  # noqa: E731
    model, x = made(Heads(), Heads(8), Heads(4, written), Heads(4), Heads())
    graph = ramify.trace(model, x)
    able = {group.name: ability(group) for group in graph.groups if ".out" not in group.name}
    widths = {"q:0": 2, "q:1": 3}
    expected = {f"{n}.{name}": f"{width} split" for n in range(5) for name, width in widths.items()}
    expected |= {f"{n}.v": f"{v} split" for n, v in enumerate((3, 4, 2, 2, 3))}
    assert able == expected | {"5": "2 frozen"}


def test_a_scale_that_is_no_power_of_the_width_keeps_that_width_alone() -> None:
    model, x = made(Heads(scale=lambda layer, scores, q: scores / (q.size(-1) + 1)))
    able = {group.name: ability(group) for group in ramify.trace(model, x).groups}
    assert (able["0.q:0"], able["0.q:1"], able["0.v"]) == ("2 split", "3 inexact", "3 split")


def test_a_width_over_the_number_of_heads_rounded_down_keeps_the_heads() -> None:
    """Of 6 channels: 3 heads of 2, but 4 heads of 1."""
    model, x = made(
        Heads(scale=lambda layer, scores, q: scores * (layer.width // layer.num_heads) ** -0.5)
    )
    able = {group.name: ability(group) for group in ramify.trace(model, x).groups}
    assert (able["0.q:0"], able["0.q:1"], able["0.v"]) == ("2 inexact", "3 split", "3 split")


@pytest.mark.parametrize(
    "scale",
    [
        None,
        lambda layer, scores, queries: scores / queries.shape[-1] ** 0.5,
        lambda layer, scores, queries: scores * (1 / queries.shape[-1]),
    ],
)
def test_the_scale_of_queries_that_start_as_zeros_is_kept_once_they_are_not(
    scale: Scale | None,
) -> None:
    """All keys are equally near to a zero query, and no value of the trace shows the scale."""
    model, x = made(Heads(scale=scale))
    queries = model[0].q  # type: ignore[index]
    nn.init.zeros_(queries.weight)
    nn.init.zeros_(queries.bias)
    graph = ramify.trace(model, x)
    nn.init.normal_(queries.weight, std=3.0)
    before = outputs(model, x)
    graph = ramify.apply(graph, [Split("0.q:1", 0), Split("0.q:1", 2)])
    assert distance(before, outputs(model, x)) < 1e-10
    mask(graph, graph["0.q:1"], [1])
    masked = outputs(model, x)
    ramify.apply(graph, [Prune("0.q:1", 1)])
    assert distance(masked, outputs(model, x)) < 1e-10
