"""Edits that are refused say what to do, and leave everything as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ramify
from ramify import ChannelGraph, Prune, RamifyError, Split
from tests.checks import distance


def small() -> tuple[ChannelGraph, nn.Module]:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2), nn.Flatten())
    return ramify.trace(model, torch.randn(5, 3)), model


BAD: list[tuple[str, Callable[[], Any], str]] = [
    ("group", lambda: Prune("1x", 0), "no group, module or parameter '1x': the nearest are '0'"),
    ("module without channels", lambda: Prune("3", 0), "'3' makes no channels"),
    ("channel", lambda: Prune("0", 4), "'0' has channels 0 to 3, and the edit names 4"),
    ("negative channel", lambda: Split("0", -1), "has channels 0 to 3, and the edit names -1"),
    ("fraction", lambda: Split("0", 1.5), "is an int, .* names 1.5 of type float"),
    ("bool", lambda: Prune("0", True), "is an int, .* names True of type bool"),
    ("frozen prune", lambda: Prune("2", 0), "'2' cannot be pruned: it is an output of the model"),
    ("frozen split", lambda: Split("2", 0), "'2' cannot be split: it is an output of the model"),
    ("weights", lambda: Split("0", 0, (0.5, 0.6)), "sum to 1, .* and these sum to 1.1"),
    ("no weights", lambda: Split("0", 0, ()), "the weights of a split sum to 1"),
    ("nan weights", lambda: Split("0", 0, (float("nan"), 1.0)), "these sum to nan"),
    ("infinite", lambda: Split("0", 0, (float("inf"), -float("inf"))), "these sum to nan"),
    (
        "shape",
        lambda: Split("0", 0, offsets={"0.weight": torch.zeros(2, 4)}),
        r"'0.weight' must be a tensor of shape \(2, 3\), .* but got shape \(2, 4\)",
    ),
    (
        "copies",
        lambda: Split("0", 0, (0.2, 0.3, 0.5), {"0.bias": torch.zeros(2)}),
        r"'0.bias' must be a tensor of shape \(3,\), .* but got shape \(2,\)",
    ),
    ("list", lambda: Split("0", 0, offsets={"0.bias": [0.0, 0.0]}), "but got \\[0.0, 0.0\\]"),
    (
        "name",
        lambda: Split("0", 0, offsets={"2.weight": torch.zeros(2, 4)}),
        "'2.weight' does not make channels of '0': give 0.weight, 0.bias",
    ),
    (
        "not finite",
        lambda: Split("0", 0, offsets={"0.bias": torch.tensor([0.0, float("nan")])}),
        "the offset of '0.bias' holds values that are not finite",
    ),
    ("text", lambda: Split("0", 0, ("a", "b")), r"for each, but got \('a', 'b'\)"),  # type: ignore[arg-type]
    ("complex", lambda: Split("0", 0, (0.5 + 1j, 0.5 - 1j)), "one real number for each"),  # type: ignore[arg-type]
    ("no list", lambda: Split("0", 0, None), "one real number for each, but got None"),  # type: ignore[arg-type]
    (
        "complex offset",
        lambda: Split("0", 0, offsets={"0.bias": torch.tensor([1j, 0j])}),
        "the offset of '0.bias' is complex, and the weight that it displaces is real",
    ),
    (
        "too large",
        lambda: Split("0", 0, offsets={"0.bias": torch.tensor([0.0, 1e200], dtype=torch.float64)}),
        "the offset of '0.bias' holds values that are not finite, or not as the torch.float32",
    ),
    ("no edit", lambda: "prune", "an edit must be a Prune, Split, Drop or Insert, but got a str"),
]


@pytest.mark.parametrize("edit, message", [pytest.param(e, m, id=n) for n, e, m in BAD])
def test_bad_edits_say_what_to_do(edit: Callable[[], Any], message: str) -> None:
    graph, _ = small()
    with pytest.raises(RamifyError, match=message) as error:
        ramify.apply(graph, [edit()])
    assert "\n" not in str(error.value)


def test_an_edit_that_empties_a_layer() -> None:
    graph, _ = small()
    with pytest.raises(RamifyError, match="would leave '0' without a channel: keep at least one"):
        ramify.apply(graph, [Prune("0", channel) for channel in range(4)])


def test_the_same_channel_twice() -> None:
    graph, _ = small()
    with pytest.raises(RamifyError, match="channel 1 of '0' is edited twice in one call"):
        ramify.apply(graph, [Split("0", 1), Prune("0.weight", 1)])


def test_a_stale_graph() -> None:
    graph, model = small()
    ramify.apply(graph, [Prune("0", 1)])
    with pytest.raises(RamifyError, match=r"'0.weight' has shape \(3, 3\) and had \(4, 3\) when"):
        ramify.apply(graph, [Prune("0", 1)])
    graph = ramify.trace(model, torch.randn(5, 3))
    model.append(nn.Linear(2, 2))
    with pytest.raises(RamifyError, match=r"'4.weight' .* was not there when the model was traced"):
        ramify.apply(graph, [Prune("0", 1)])


def test_a_width_that_the_trace_could_not_see_is_taken_back() -> None:
    """The last safety: this forward changed its mind after the trace."""

    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.late = nn.Linear(3, 4), nn.Linear(4, 2), False

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            return self.b(x / x.size(1) if self.late else x)

    model = Late()
    graph = ramify.trace(model, torch.randn(5, 3))
    model.late = True
    before = {n: t.clone() for n, t in model.state_dict().items()}
    with pytest.raises(RamifyError, match="would have changed the model's output by"):
        ramify.apply(graph, [Split("a", 0)])
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert model.a.out_features == 4


def test_a_graph_is_used_up_by_its_edit_also_where_the_widths_stay() -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    graph = ramify.trace(net, torch.randn(1, 4))
    edited = ramify.apply(graph, [Split("0", 0), Prune("0", 2)])
    assert edited["0"].width == graph["0"].width
    with pytest.raises(RamifyError, match="was edited since this graph was made"):
        ramify.apply(graph, [Prune("0", 0)])
    assert ramify.apply(edited, [Prune("0", 0)])["0"].width == 5


class Caching(nn.Module):
    """Keeps what it computed from its weights in a table of its own, as LeViT does."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Linear(3, 4), nn.Linear(4, 2)
        self.gain, self.cache = nn.Parameter(torch.randn(4)), dict[str, Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        if "gain" not in self.cache:
            self.cache["gain"] = self.gain.exp().detach()
        return self.c(self.a(x) * self.cache["gain"])


def test_tensors_that_a_model_keeps_for_itself_are_named() -> None:
    model, x = Caching(), torch.randn(2, 3)
    graph = ramify.trace(model, x)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model(x)
    with pytest.raises(RamifyError, match=r"taken back; 'cache' keeps tensors of earlier runs"):
        ramify.apply(graph, [Split("a", 1)])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    model.cache.clear()
    assert ramify.apply(graph, [Split("a", 1)])["a"].width == 5


class CachingPrivately(Caching):
    """Keeps the scaled weight itself, under a private name."""

    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "_weight"):
            self._weight = (2 * self.a.weight).detach()
        return self.c(torch.nn.functional.linear(x, self._weight, self.a.bias))


def test_tensors_kept_under_a_private_name_are_named_too() -> None:
    model, x = CachingPrivately(), torch.randn(2, 3)
    graph = ramify.trace(model, x)
    model(x)
    with pytest.raises(RamifyError, match="taken back; '_weight' keeps tensors of earlier runs"):
        ramify.apply(graph, [Prune("a", 1)])


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (Split("0", 1), "does not run any more on the inputs that it was traced with .*dtype"),
        (Prune("0", 1), "the edited model does not run .*dtype of the model has changed"),
    ],
)
def test_a_model_of_another_dtype_than_when_traced(edit: Split | Prune, message: str) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    graph = ramify.trace(model, torch.randn(2, 3))
    model.double()
    with pytest.raises(RamifyError, match=message):
        ramify.apply(graph, [edit])
    assert model[0].weight.shape == (4, 3)


class Forgetting(Caching):
    """Drops what it keeps when training begins or ends, as timm's LeViT does."""

    def train(self, mode: bool = True) -> Forgetting:
        self.cache = {}
        return super().train(mode)


def test_what_a_model_drops_in_training_is_dropped_by_an_edit() -> None:
    model, x = Forgetting().eval(), torch.randn(2, 3)
    model.a.train()
    before = model(x)
    graph = ramify.trace(model, x)
    graph = ramify.apply(graph, [Split("a", 1)])
    assert distance([before], [model(x)]) < 1e-6
    assert [m.training for m in model.modules()] == [False, True, False]
    ramify.apply(graph, [Prune("a", 0)])
    model(x)


def test_what_a_follower_drops_in_training_is_dropped_too() -> None:
    model, x = Forgetting().eval(), torch.randn(2, 3)
    average = copy.deepcopy(model)
    before = average(x)
    ramify.apply(ramify.trace(model, x), [Split("a", 1)], followers=[average])
    assert distance([before], [average(x)]) < 1e-6
    assert not average.training


def test_offsets_are_named() -> None:
    with pytest.raises(RamifyError, match="offsets of a split of '0' are a tuple, where a dict"):
        Split("0", 0, offsets=())  # type: ignore[arg-type]
