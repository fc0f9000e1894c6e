"""Sizes that a forward computes from shapes: what is tied, and what stays free."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import ramify
from ramify import Prune
from tests.checks import ability
from tests.structures import STRUCTURES


def test_a_list_of_sizes_follows_an_edit() -> None:
    model, x = STRUCTURES["ListedPieces"].make()
    ramify.apply(ramify.trace(model, x), [Prune("a:1", 0)])
    assert model.pieces == [2, 2]


def test_the_attribute_that_torchs_function_asserts_follows() -> None:
    model, x = STRUCTURES["FunctionalAttention"].make()
    ramify.apply(ramify.trace(model, x), [Prune("a:1", 0)])
    assert (model.width, model.heads) == (4, 2)
    model(x)


KEPT: list[int] = []


class KeepsNumbers(nn.Module):
    """A width that the first run reads from a shape and later runs take from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        one, other = self.a(x), self.b(x)
        if not KEPT:
            KEPT.append(one.shape[-1])
        return self.c(torch.relu(other.reshape(x.shape[0], KEPT[0]))) + self.c(one).sum()


def test_a_number_kept_from_an_earlier_run_says_nothing() -> None:
    KEPT.clear()
    for _ in range(2):
        graph = ramify.trace(KeepsNumbers().double(), torch.randn(3, 4).double())
        assert ability(graph["a"]) == "6 frozen"
        assert "holds a size that does not follow an edit" in graph["a"].reason


def test_each_layer_keeps_its_own_heads_where_shapes_are_kept_by_value() -> None:
    einops = pytest.importorskip("einops")

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads, self.qkv, self.out = 2, nn.Linear(8, 24), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            parts = self.qkv(x).chunk(3, -1)
            q, k, v = (einops.rearrange(t, "b n (h d) -> b h n d", h=self.heads) for t in parts)
            found = (q @ k.transpose(-1, -2)).softmax(-1) @ v
            return self.out(einops.rearrange(found, "b h n d -> b n (h d)"))

    model = nn.Sequential(nn.Linear(3, 8), Attention(), Attention(), nn.Linear(8, 2))
    graph = ramify.trace(model, torch.randn(2, 5, 3))
    assert [ability(graph[f"{n}.qkv:{k}"]) for n in (1, 2) for k in (1, 2)] == [
        "2 split", "4 split", "2 split", "4 split",
    ]  # fmt: skip
