"""Recurrent layers, and a cell written out in a Python loop."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.structures.base import structure


@structure(
    (2, 5, 4),
    {"a": "3 split", "lstm:0": "4 frozen", "lstm:1": "5 split", "b": "4 split", "c": "2 frozen"},
)
class Recurrent(nn.Module):
    """An LSTM holds its sizes as attributes, and they follow."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.lstm = nn.Linear(4, 3), nn.LSTM(3, 5, batch_first=True)
        self.b, self.c = nn.Linear(5, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x, _ = self.lstm(torch.relu(self.a(x)))
        return self.c(torch.relu(self.b(x[:, -1])))


@structure(
    (2, 5, 4),
    {
        "a": "5 split",
        "rnn:0": "3 frozen",
        "rnn:1": "5 split",
        "rnn:2": "3 frozen",
        "b": "4 split",
        "c": "2 frozen",
    },
)
class EqualSizes(nn.Module):
    """A GRU as wide as what it reads: its two sizes are told apart by the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.rnn = nn.Linear(4, 5), nn.GRU(5, 5, batch_first=True)
        self.b, self.c = nn.Linear(5, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x, _ = self.rnn(torch.relu(self.a(x)))
        return self.c(torch.relu(self.b(x[:, -1])))


@structure((2, 5, 4), {"gate": "5 split", "c": "2 frozen"})
class HandWrittenCell(nn.Module):
    """A gated cell in a Python loop, its state carried from step to step."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.new, self.c = nn.Linear(9, 5), nn.Linear(9, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(x.size(0), self.gate.out_features)
        for step in x.unbind(1):
            both = torch.cat([step, state], -1)
            gate = torch.sigmoid(self.gate(both))
            state = gate * state + (1 - gate) * torch.tanh(self.new(both))
        return self.c(state)
