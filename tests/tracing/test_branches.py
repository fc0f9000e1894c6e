"""Branches on data, and what no run reached: frozen where it could matter, free where it cannot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ramify
from tests.checks import ability

X = torch.randn(3, 4)


class Branches(nn.Module):
    """Takes one of several ways, as values of the data say; one layer belongs to another method."""

    def __init__(self, way: Callable[[Branches, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.contact = nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(8, 1)
        self.hidden = nn.Linear(8, 8)
        self.way = way

    def forward(self, x: Tensor, flags: Tensor) -> Tensor:
        return self.b(torch.relu(self.way(self, self.a(x), flags)))


def once(net: Branches, x: Tensor, flags: Tensor) -> Tensor:
    return net.hidden(x) if flags[0] > 0 else x


def twice(net: Branches, x: Tensor, flags: Tensor) -> Tensor:
    """The hidden layer runs only if both are set."""
    first, second = bool(flags[0] > 0), bool(flags[1] > 0)
    return net.hidden(x) if first and second else x


def nested(net: Branches, x: Tensor, flags: Tensor) -> Tensor:
    if flags[0] > 0 and flags[1] > 0:
        return net.hidden(x)
    return x * 2


def by_equality(net: Branches, x: Tensor, flags: Tensor) -> Tensor:
    return x if torch.equal(flags, torch.zeros(2)) else x * flags.sum()


def by_number(net: Branches, x: Tensor, flags: Tensor) -> Tensor:
    return net.hidden(x) if flags[0].item() > 2 else x


def loop(net: Branches, x: Tensor, flags: Tensor) -> Tensor:
    while flags.any():
        x, flags = x * 2, flags - 1
    return x


def reason(way: Any, flags: list[tuple[float, float]], **settings: Any) -> str:
    runs = [(X, torch.tensor(each)) for each in flags]
    return ramify.trace(Branches(way).eval(), runs[0], also=runs[1:], **settings)["a"].reason


@pytest.mark.parametrize("way", [once, twice, nested, by_equality, by_number, loop])
def test_a_branch_not_taken_may_use_what_was_not_reached(way: Any) -> None:
    found = reason(way, [(0.0, 0.0)])
    assert "branches on data and 'contact.weight' was not reached: trace it with `also`" in found
    assert "or name it in `unused` if no forward calls it" in found
    # A layer of another method can be named; what the hidden branch may use cannot be left out.
    named = reason(way, [(0.0, 0.0)], unused=["contact"])
    assert "'hidden.weight' was not reached" in named
    assert reason(way, [(0.0, 0.0)], unused=["contact", "hidden"]) == ""
    assert reason(way, [(0.0, 0.0)], unused=["contact", "hidden.weight", "hidden.bias"]) == ""


@pytest.mark.parametrize(
    "way, flags, free",
    [
        (once, [(0.0, 0.0), (1.0, 0.0)], True),
        (by_equality, [(0.0, 0.0), (1.0, 0.0)], True),
        (nested, [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0)], True),
        (nested, [(0.0, 0.0), (1.0, 0.0)], False),
        (twice, [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0)], False),
        (twice, [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)], True),
        (by_number, [(0.0, 0.0), (3.0, 0.0)], False),
        (loop, [(0.0, 0.0), (1.0, 1.0)], False),
    ],
)
def test_all_sides_of_all_branches_leave_nothing_hidden(
    way: Any, flags: list[tuple[float, float]], free: bool
) -> None:
    """The layer of the other method is then proven to be out of reach."""
    found = reason(way, flags)
    assert (found == "") == free
    if not free:
        assert "was not reached: trace it with `also` inputs that reach it, or name it" in found


def test_what_is_named_unused_stays_as_it_is_after_an_edit() -> None:
    model, inputs = Branches(once).eval(), (X, torch.zeros(2))
    graph = ramify.trace(model, inputs, unused=["contact", "hidden"])
    with pytest.warns(UserWarning, match="was not reached"):
        graph = ramify.apply(graph, [ramify.Prune("a", 1)])
    assert ability(graph["a"]) == "7 split"  # the edited graph keeps to the setting
    assert model.contact.weight.shape == (1, 8)
    assert graph.unreached == ("contact.weight", "contact.bias", "hidden.weight", "hidden.bias")


def test_wrong_names_are_refused() -> None:
    for unused, message in [
        (["contcat"], "names 'contcat', which the model does not have: did you mean 'contact'"),
        ("a", "names 'a', and the forward does use 'a.weight' on these inputs: leave it out"),
        ([""], "names '', which the model does not have"),
    ]:
        with pytest.raises(ramify.RamifyError, match=message):
            ramify.trace(Branches(once), (X, torch.zeros(2)), unused=unused)
