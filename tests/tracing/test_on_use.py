"""Weights that are made on use: the same numbers, few at a time, and nothing left behind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ramify
from ramify.tracing import on_use
from ramify.tracing.indexing import Change
from ramify.tracing.on_use import OnUse
from ramify.tracing.recorder import call, record
from ramify.tracing.resizing import resized

WIDE = 300  # 300 by 300 numbers are enough to be put off


class Net(nn.Module):
    """Large layers in a row; `body` says what else the forward does with them."""

    def __init__(self, body: str = "") -> None:
        super().__init__()
        self.body = body
        self.first, self.conv = nn.Linear(4, WIDE), nn.Conv1d(WIDE, WIDE, 1)
        self.second, self.last = nn.Linear(WIDE, WIDE), nn.Linear(WIDE, 2)
        self.tied = nn.Linear(WIDE, WIDE)
        self.tied.weight = self.second.weight

    def train(self, mode: bool = True) -> Net:
        if self.body == "train":  # as adapters are merged in eval mode
            self.second.weight.data.mul_(0.5 if mode else 2.0)
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(torch.relu(self.first(x)).unsqueeze(-1)).squeeze(-1))
        if self.body == "written":
            with torch.no_grad():
                self.second.weight.mul_(2.0)
        if self.body == "view":
            with torch.no_grad():
                self.second.weight.t().mul_(2.0)
        if self.body == "data":
            x = x @ self.second.weight.data.t()[: x.shape[1]]
        for _ in range(2 if self.body == "again" else 1):
            x = torch.relu(self.second(x))
        return self.last(torch.relu(self.tied(x)))


class Counted(OnUse):
    """Knows how many bytes it has held at most after an operation."""

    most = 0

    def __call__(self, *operation: Any) -> Any:
        found = super().__call__(*operation)
        sizes = [tensor.numel() * tensor.element_size() for tensor in self._made.values()]
        self.most = max(self.most, sum(sizes))
        return found


def outputs(model: nn.Module, x: Tensor, names: Sequence[str], later: OnUse | None) -> Tensor:
    """What a model gives with the third channel of some groups removed and the first doubled."""
    graph = ramify.trace(model, x)
    keep = np.delete(np.arange(WIDE), 2)
    keep = np.concatenate([keep, keep[:1]])
    atoms = {graph[name].atom: Change(keep, np.where(keep == 0, 0.5, 1.0)) for name in names}
    with resized(model, graph.indexing, atoms, on_use=later):
        return record(model, lambda: call(model, x), x, execute=later).results[0]


@pytest.mark.parametrize("kept", [0, 2**19, 2**25])
@pytest.mark.parametrize("body", ["", "again", "written", "view", "data", "train"])
def test_the_numbers_are_those_of_weights_made_at_once(
    body: str, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_use, "_KEPT", kept)
    torch.manual_seed(0)
    model, x = Net(body).eval(), torch.randn(3, 4)
    held = {name: (t.data_ptr(), t.clone()) for name, t in model.state_dict().items()}
    names = ["first"] if body == "data" else ["first", "conv", "second"]
    later = Counted(model)
    assert torch.equal(outputs(model, x, names, later), outputs(model, x, names, None))
    assert 0 < later.most <= max(kept, 4 * WIDE * WIDE)
    for name, tensor in model.state_dict().items():
        assert tensor.data_ptr() == held[name][0]
        assert torch.equal(tensor, held[name][1])
