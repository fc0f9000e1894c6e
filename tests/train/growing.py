"""A small network, its data and a run of `ramify.grow` on it; and whether two runs are the same."""

from typing import Any

import torch
from torch import Tensor, nn

import ramify
from ramify.train.epoch import Training
from ramify.train.grow import grow
from ramify.train.loop import Grown
from ramify.train.passes import Data

Batch = tuple[Tensor, Tensor]


def net() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Linear(2, 3), nn.Softplus(), nn.Dropout(0.2), nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 1)
    )


def loss(model: nn.Module, batch: Batch) -> Tensor:
    return (model(batch[0]) - batch[1]).square().sum(1)


def data() -> list[Batch]:
    x = torch.randn(24, 2, generator=torch.Generator().manual_seed(3))
    y = (x[:, :1] * x[:, 1:]).sin()
    return list(zip(x.split(10), y.split(10), strict=True))


def run(model: nn.Module, batches: Data, rounds: int = 2, **settings: Any) -> Grown:
    given = {
        "method": ramify.SplittingDescent(step=0.1),
        "rule": ramify.TopFraction(0.5),
        "training": Training(epochs=3, lr=0.05),
    }
    return grow(model, torch.zeros(1, 2), loss, batches, rounds=rounds, **(given | settings))


def reasons(grown: Grown) -> list[str]:
    """Why the run stopped changing the network."""
    return [event["reason"] for event in grown.history if event["event"] == "stop"]


def assert_same(left: Grown, right: Grown) -> None:
    assert without_time(left.history) == without_time(right.history)
    assert_equal(left.graph.model.state_dict(), right.graph.model.state_dict())


def assert_equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def net_of_other_weights() -> nn.Sequential:
    model = net()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.5)
    return model


def without_time(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in event.items() if key != "t"} for event in history]
