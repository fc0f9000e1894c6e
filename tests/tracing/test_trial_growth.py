"""The trial growth: what no operation gives away is found by growing, and told apart cheaply."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ramify
from ramify.tracing.dims import Atom, Sum, freeze, leaves, split, unify
from ramify.tracing.flow import DimFlow
from ramify.tracing.indexing import Change
from ramify.tracing.shapes_only import ShapesOnly
from ramify.tracing.verify import removal, trial_growth
from ramify.tracing.verify.grown_dims import differ_for_good
from tests.checks import ability


class Attention(nn.Module):
    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads, self.qkv, self.out = {"all": heads}, nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads["all"], -1).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, -1)
        return self.out(x)


class Tower(nn.Module):
    """Many blocks built alike, each with a number of heads that no edit can change."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 8)
        self.blocks = nn.ModuleList(Attention(2) for _ in range(depth))
        self.ups = nn.ModuleList(nn.Linear(8, 6) for _ in range(depth))
        self.downs = nn.ModuleList(nn.Linear(6, 8) for _ in range(depth))
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block, up, down in zip(self.blocks, self.ups, self.downs, strict=True):
            x = x + block(x)
            x = x + down(torch.relu(up(x)))
        return self.head(x)


def test_blocks_that_fail_alike_are_told_apart_together(monkeypatch: pytest.MonkeyPatch) -> None:
    count = 0
    record = trial_growth.record

    def counted(*args: object, **kwargs: object) -> object:
        nonlocal count
        count += 1
        return record(*args, **kwargs)

    monkeypatch.setattr(trial_growth, "record", counted)
    graph = ramify.trace(Tower(12).double(), torch.randn(1, 3, 4).double())
    assert count < 18
    for number in range(12):
        found = [g for g in graph.groups if g.name.startswith(f"blocks.{number}.qkv")]
        assert sorted(map(ability, found)) == ["2 frozen", "3 frozen", "4 split"]
        assert ability(graph[f"ups.{number}"]) == "6 split"


class OneLiteral(nn.Module):
    """Layers built alike, of which a single one is read at a literal size."""

    def __init__(self, count: int, guilty: set[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(count))
        self.guilty, self.head = guilty, nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        for number, layer in enumerate(self.layers):
            x = torch.tanh(layer(x))
            if number in self.guilty:
                x = x.view(-1, 4)
        return self.head(x)


@pytest.mark.parametrize("guilty", [set(), {2}, {1, 5}])
def test_layers_built_alike_are_innocent_until_they_fail(guilty: set[int]) -> None:
    graph = ramify.trace(OneLiteral(7, guilty), torch.randn(3, 4))
    frozen = {n for n in range(7) if ability(graph[f"layers.{n}"]) == "4 frozen"}
    assert frozen == guilty


def test_a_size_that_python_reads_elsewhere() -> None:
    """b is divided by the width of a: a is to blame, not b."""

    class Elsewhere(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(4, 5)
            self.c, self.d = nn.Linear(6, 2), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            a, b = self.a(x), self.b(x)
            return self.c(a) + self.d(b / a.size(1))

    graph = ramify.trace(Elsewhere(), torch.randn(3, 4))
    assert ability(graph["a"]) == "6 inexact"
    assert ability(graph["b"]) == "5 split"


def test_sizes_are_not_looked_at_again_where_blame_leaves_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three widths change values, found one after the other: all sizes are right at once."""

    class Widths(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(4, 6), nn.Linear(4, 7)
            self.after_a, self.after_b = nn.Linear(5, 4), nn.Linear(6, 4)
            self.head, self.other = nn.Linear(7, 2), nn.Linear(7, 2)

        def forward(self, x: Tensor) -> Any:
            a = self.a(x)
            b = self.b(self.after_a(a) / a.size(1))
            c = self.c(self.after_b(b) / b.size(1))
            c = c / c.size(1)
            return (self.head(c), self.other(c)) if self.training else self.head(c)

    runs: list[tuple[bool, bool]] = []
    record = trial_growth.record

    def counted(*args: Any, **kwargs: Any) -> Any:
        if "watch" in kwargs:
            runs.append((kwargs["training"], isinstance(kwargs["execute"], ShapesOnly)))
        return record(*args, **kwargs)

    monkeypatch.setattr(trial_growth, "record", counted)
    graph = ramify.trace(Widths().eval(), torch.randn(3, 4))
    assert [ability(graph[n]) for n in "abc"] == ["5 inexact", "6 inexact", "7 inexact"]
    assert runs.count((False, True)) == 1
    assert runs.count((True, True)) == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gain", [0.0, 1e-7, 1.0])
def test_a_wide_layer_s_width_is_seen_behind_any_gain(gain: float, dtype: torch.dtype) -> None:
    """One channel among 2048 changes an average by little, and a small gain hides even that."""

    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.a = nn.Linear(4, 4), nn.Linear(4, 2048)
            self.b, self.head = nn.Linear(2048, 4), nn.Linear(4, 2)
            self.gain = nn.Parameter(torch.full((4,), gain))

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            hidden = torch.relu(self.a(x))
            return self.head(x + self.gain * self.b(hidden * hidden.size(-1) ** -0.5))

    graph = ramify.trace(Wide().to(dtype), torch.randn(3, 4, dtype=dtype))
    assert ability(graph["a"]) == "2048 inexact"
    assert ability(graph["stem"]) == "4 split"


def test_coarse_numbers_accuse_nobody() -> None:
    """Half precision inside a forward: every comparison allows for it, also between floats."""

    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Linear(4, 24), nn.Linear(24, 2)
            self.layers = nn.ModuleList(nn.Linear(24, 24) for _ in range(8))

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                for layer in self.layers:
                    x = torch.tanh(3 * layer(x)).float()
            return self.head(x)

    graph = ramify.trace(Half(), torch.randn(3, 4))
    assert {ability(group) for group in graph.groups} == {"24 split", "2 frozen"}
    ramify.apply(graph, [ramify.Split(group.name, 1) for group in graph.groups if group.can_split])


def test_rounding_alone_accuses_nobody() -> None:
    """Zeros up to rounding (a mean after an instance norm) are no evidence."""
    model = nn.Sequential(
        nn.Conv2d(2, 4, 1), nn.InstanceNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Tanh(),
        nn.Conv2d(4, 3, 1), nn.ReLU(), nn.Conv2d(3, 2, 1),
    )  # fmt: skip
    graph = ramify.trace(model, torch.randn(2, 2, 8, 8))
    assert [ability(group) for group in graph.groups] == ["4 split", "3 split", "2 frozen"]


def test_halves_of_one_layer_are_tied_where_they_must_be() -> None:
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.a(x))
            half = x.size(1) // 2
            return self.b(x[:, :half]) + self.c(x[:, half:])

    graph = ramify.trace(Halves(), torch.randn(3, 4))
    assert ability(graph["a"]) == "3 split"
    slot = next(slot for slot in graph["a"].slots if slot.name == "a.weight")
    assert graph.positions(graph["a"], slot).tolist() == [[0, 3], [1, 4], [2, 5]]


def test_a_path_that_depends_on_the_width_is_compared_by_its_end() -> None:
    """Wider than six channels, this forward takes other operations to the same result."""

    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            x = torch.relu(x) if x.size(1) <= 6 else x.clamp(min=0.0)
            return self.b(x)

    graph = ramify.trace(Other(), torch.randn(3, 4))
    assert ability(graph["a"]) == "6 split"


class Multipliers(nn.Module):
    """Depthwise convolutions of several outputs a channel: their widths are products of twos."""

    def __init__(self, seen, times=5):
        super().__init__()
        widths = [4 * 2**n for n in range(times + 1)]
        self.stem = nn.Conv2d(3, 4, 1)
        self.layers = nn.Sequential(
            *(nn.Conv2d(a, b, 3, padding=1, groups=a) for a, b in itertools.pairwise(widths))
        )
        self.head = nn.Linear(widths[-1], 2)
        self.note = lambda: seen.append(self.head.weight.shape[1])

    def forward(self, x):
        self.note()
        return self.head(self.layers(self.stem(x)).mean((2, 3)))


def test_axes_of_few_channels_do_not_multiply_to_a_huge_model():
    seen: list[int] = []
    graph = ramify.trace(Multipliers(seen).eval(), torch.randn(1, 3, 4, 4))
    assert [group.width for group in graph.groups] == [4, 2, 2, 2, 2, 2, 2]
    assert 128 < max(seen) <= 128 * 2**6
    assert sum(size > 128 for size in seen) == 1


class Chosen(nn.Module):
    """Gives out the places of the highest scores, which are as good as equal."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.score, self.out = nn.Linear(8, 257), nn.Linear(257, 1), nn.Linear(257, 2)

    def forward(self, x: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.hidden(x).relu()
        best = self.score(hidden)[..., 0].topk(50).indices
        return self.out(hidden), places.gather(1, best)


def test_a_choice_between_equals_accuses_nobody() -> None:
    torch.manual_seed(1)
    x = torch.randn(1, 1, 8) + 1e-7 * torch.randn(1, 4000, 8)
    group = ramify.trace(Chosen(), (x, torch.randn(1, 4000)))["hidden"]
    assert group.prune_exact, group.reason
    assert group.can_split, group.reason


class Literal(nn.Module):
    """Does more in train mode, and has layers that are read at a literal size."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.wide, self.head = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x).view(-1, 4)
        x = self.wide(x)
        return self.head(x.tanh().relu() if self.training else x.tanh())


def test_products_are_computed_only_where_values_are_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not in train mode."""
    record, computed = trial_growth.record, []

    def noting(*args: Any, **named: Any) -> Any:
        if not isinstance(named["execute"], ShapesOnly):
            computed.append(named.get("training", False))
        return record(*args, **named)

    monkeypatch.setattr(trial_growth, "record", noting)
    graph = ramify.trace(Literal(), torch.randn(3, 4))
    assert [ability(graph[f"layers.{n}"]) for n in range(3)] == ["4 frozen"] * 3
    assert ability(graph["wide"]) == "6 split"
    assert len(graph.tapes) == 2
    assert not any(computed)


class Scaled(nn.Module):
    """Attention whose scale follows the width of the queries, which Python reads."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))
        self.out = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k = self.q(x), self.k(x)
        scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
        return self.out(scores.softmax(-1) @ self.v(x))


def test_values_are_compared_once_the_scales_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    record, computed = trial_growth.record, []

    def noting(*args: Any, **named: Any) -> Any:
        computed.append(not isinstance(named["execute"], ShapesOnly))
        return record(*args, **named)

    for module in (trial_growth, removal):
        monkeypatch.setattr(module, "record", noting)
    graph = ramify.trace(Scaled(), torch.randn(1, 3, 8))
    assert graph["q"].can_split
    # The sizes; all values; a channel zeroed, and removed.
    assert computed == [False, True, True, True]


def test_what_is_lost_in_one_run_is_lost() -> None:
    """Further runs may tell that two axes are one, and not that a frozen axis is free."""
    axes = [Atom(4), Atom(4)]
    old = DimFlow({"one": (4,), "two": (4,), "both": (8,)})
    for name, axis in zip(("one", "two"), axes, strict=True):
        unify(old.param_dims[name][0], axis, "")
    unify(axes[0], axes[1], "")
    unify(old.param_dims["both"][0], Sum((axes[0], axes[1])), "")
    change = Change(np.arange(5) % 4, np.ones(5))
    changes = {atom: change for term in old.param_dims["both"] for atom in leaves(term)}
    new = DimFlow({"one": (5,), "two": (5,), "both": (10,)})
    assert not differ_for_good(old, new, changes)  # not cut yet, and not one axis yet
    freeze(new.param_dims["two"][0], "a cut")
    assert differ_for_good(old, new, changes)
    cut = DimFlow({"one": (5,), "two": (5,), "both": (10,)})
    assert split(cut.param_dims["one"][0], 2) is not None
    assert differ_for_good(old, cut, changes)
