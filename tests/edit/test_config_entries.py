"""A configuration that is a dictionary of arguments, as that of `diffusers`, follows an edit."""

from __future__ import annotations

import inspect
import warnings
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ramify
from ramify import Prune


class Registered(nn.Module):
    """What `diffusers` gives a model: a read-only dictionary, replaced by `register_to_config`."""

    config: MappingProxyType[str, Any]

    def register_to_config(self, **changed: Any) -> None:
        self.config = MappingProxyType({**getattr(self, "config", {}), **changed})

    def save_pretrained(self, files: dict[str, Any]) -> None:
        """Write the configuration and the weights into a dictionary."""
        files["config"] = {n: v for n, v in self.config.items() if n != "_use_default_values"}
        files["weights"] = self.state_dict()

    @classmethod
    def from_pretrained(cls, files: dict[str, Any]) -> Registered:
        names = inspect.signature(cls).parameters
        model = cls(**{name: v for name, v in files["config"].items() if name in names})
        model.load_state_dict(files["weights"])
        return model


class Net(Registered):
    def __init__(self, widths: tuple[int, ...] = (6, 10), hidden_dim: int | None = None) -> None:
        super().__init__()
        self.register_to_config(widths=widths, hidden_dim=hidden_dim, _class_name="Net")
        self.register_to_config(_use_default_values=["hidden_dim", "widths"])
        hidden = hidden_dim or 2 * widths[0]
        self.a, self.b = nn.Linear(3, widths[0]), nn.Linear(widths[0], widths[1])
        self.up = nn.ModuleList(nn.Linear(widths[1], hidden) for _ in range(2))
        self.down = nn.ModuleList(nn.Linear(hidden, 2) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.a(x).relu()).relu()
        return sum(down(up(x).relu()) for up, down in zip(self.up, self.down, strict=True))  # type: ignore[return-value]


def traced() -> tuple[Net, ramify.ChannelGraph, Tensor]:
    torch.manual_seed(0)
    model, x = Net(), torch.randn(4, 3)
    return model, ramify.trace(model, x), x


HIDDEN = ("up.0", "up.1")


@pytest.mark.parametrize(
    "names, wanted, defaults",
    [
        (("b",), {"widths": (6, 9), "hidden_dim": None}, ["hidden_dim"]),
        (HIDDEN, {"widths": (6, 10), "hidden_dim": 11}, ["widths"]),
        (("b", *HIDDEN), {"widths": (6, 9), "hidden_dim": 11}, []),
    ],
)
def test_arguments_follow_in_the_type_that_they_had(
    names: tuple[str, ...], wanted: dict[str, Any], defaults: list[str]
) -> None:
    model, graph, x = traced()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ramify.apply(graph, [Prune(name, 1) for name in names])
    assert {name: model.config[name] for name in wanted} == wanted
    assert model.config["_use_default_values"] == defaults
    files: dict[str, Any] = {}
    model.save_pretrained(files)
    assert torch.equal(Net.from_pretrained(files)(x), model(x))


def test_layers_that_differ_are_warned_of() -> None:
    model, graph, _ = traced()
    before = dict(model.config)
    with pytest.warns(UserWarning, match="no configuration can say the shape that this Net"):
        graph = ramify.apply(graph, [Prune("up.0", 3)])
    assert dict(model.config) == before
    with pytest.warns(UserWarning, match="no configuration can say"):
        model.save_pretrained({})
    ramify.apply(graph, [Prune("up.1", 5)])
    assert model.config["hidden_dim"] == 11
    assert "save_pretrained" not in vars(model)


def test_a_failed_edit_leaves_the_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    model, graph, _ = traced()
    before = dict(model.config)
    monkeypatch.setattr("ramify.edit.carry.Swap.displace", fail)
    with pytest.raises(KeyboardInterrupt):
        ramify.apply(graph, [Prune("b", 1)])
    assert dict(model.config) == before
    assert model.b.out_features == 10
