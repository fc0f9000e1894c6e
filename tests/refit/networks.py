"""Small networks with every kind of linear reader, and which of their groups the tests cut."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class Bare(nn.Module):
    """Parameters that are multiplied without a module, from both sides."""

    def __init__(self):
        super().__init__()
        self.first = nn.Parameter(torch.randn(5, 8) / 2)
        self.second = nn.Parameter(torch.randn(8, 6) / 2)
        self.third = nn.Parameter(torch.randn(3, 6) / 2)

    def forward(self, x):
        h = torch.relu(torch.relu(x @ self.first) @ self.second)
        return self.third @ h.t()


class Gated(nn.Module):
    """The MLP of LLaMA."""

    def __init__(self, d=6, hidden=10):
        super().__init__()
        self.gate, self.up = (nn.Linear(d, hidden, bias=False) for _ in range(2))
        self.down = nn.Linear(hidden, d, bias=False)
        self.head = nn.Linear(d, 7)

    def forward(self, x):
        return self.head(x + self.down(F.silu(self.gate(x)) * self.up(x)))


class Attention(nn.Module):
    """Queries, keys and values apart; o_proj reads the heads."""

    def __init__(self, d=8, heads=2):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(d, d) for _ in range(4))
        self.head = nn.Linear(d, 3)

    def forward(self, x):
        q, k, v = (
            f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.q, self.k, self.v)
        )
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.head(x + self.o(y))


class Recurrent(nn.Module):
    """A recurrent layer that reads channels at every step."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.rnn = nn.LSTM(8, 5, batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.rnn(torch.relu(self.first(x)))[0])


class Language(nn.Module):
    """A vocabulary read with a head of its size."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(40, 9)
        self.mix = nn.Linear(9, 9)
        self.head = nn.Linear(9, 40, bias=False)

    def forward(self, x):
        return self.head(torch.tanh(self.mix(self.embed(x))))


class Prompted(nn.Module):
    """Learned vectors that pass a perceptron, whose layers read only what weights make."""

    def __init__(self):
        super().__init__()
        self.prompt = nn.Parameter(torch.randn(7, 5))
        self.wide, self.narrow = nn.Linear(5, 9), nn.Linear(9, 6)
        self.first, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        made = self.narrow(torch.relu(self.wide(self.prompt)))
        return self.head(torch.relu(self.first(x)[:, None] + made))


class Residual(nn.Module):
    """Two blocks with norms on one stream."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(8, 12, 1, bias=False),
                nn.BatchNorm2d(12),
                nn.ReLU(),
                nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False),
                nn.BatchNorm2d(12),
                nn.ReLU(),
                nn.Conv2d(12, 8, 1, bias=False),
                nn.BatchNorm2d(8),
            )
            for _ in range(2)
        )
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        for block in self.blocks:
            x = x + block(x)
        return self.head(x.mean((2, 3)))


IMAGE, LINE, CUBE = (6, 3, 8, 8), (6, 3, 16), (4, 2, 5, 5, 5)
C = nn.Conv2d
CASES = {  # name -> (network, inputs, groups to cut)
    "linear": lambda: (nn.Sequential(nn.Linear(5, 9), nn.ReLU(), nn.Linear(9, 4)), (40, 5), ["0"]),
    "no bias": lambda: (
        nn.Sequential(nn.Linear(5, 9), nn.ReLU(), nn.Linear(9, 4, bias=False)),
        (40, 5),
        ["0"],
    ),
    "batch norm": lambda: (
        nn.Sequential(
            nn.Linear(5, 9),
            nn.ReLU(),
            nn.Linear(9, 6),
            nn.BatchNorm1d(6),
            nn.ReLU(),
            nn.Linear(6, 3),
        ),
        (40, 5),
        ["0", "2"],
    ),
    "prompt": lambda: (Prompted(), (12, 4), ["wide", "first"]),
    "kernel": lambda: (nn.Sequential(C(3, 6, 3), nn.ReLU(), C(6, 5, 3, padding=1)), IMAGE, ["0"]),
    "strided": lambda: (
        nn.Sequential(
            C(3, 6, 3),
            nn.ReLU(),
            C(6, 5, (3, 2), stride=2, padding=(1, 0), bias=False),
            nn.BatchNorm2d(5),
            nn.ReLU(),
            C(5, 2, 1),
        ),
        IMAGE,
        ["0", "2"],
    ),
    "dilated": lambda: (
        nn.Sequential(C(3, 6, 1), nn.ReLU(), C(6, 4, 3, dilation=2, padding=2)),
        IMAGE,
        ["0"],
    ),
    "pointwise strided": lambda: (
        nn.Sequential(C(3, 6, 1), nn.ReLU(), C(6, 4, 1, stride=2)),
        IMAGE,
        ["0"],
    ),
    "grouped": lambda: (
        nn.Sequential(
            C(3, 8, 1), nn.ReLU(), C(8, 8, 3, groups=2, padding=1), nn.ReLU(), C(8, 3, 1)
        ),
        IMAGE,
        ["0", "2"],
    ),
    "depthwise": lambda: (
        nn.Sequential(
            C(3, 8, 1), nn.ReLU(), C(8, 8, 3, groups=8, padding=1), nn.ReLU(), C(8, 3, 1)
        ),
        IMAGE,
        ["0"],
    ),
    "multiplier": lambda: (
        nn.Sequential(C(3, 6, 1), nn.ReLU(), C(6, 12, 3, groups=6), nn.ReLU(), C(12, 3, 1)),
        IMAGE,
        ["0"],
    ),
    "transposed": lambda: (
        nn.Sequential(
            C(3, 6, 3),
            nn.ReLU(),
            nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1),
            nn.ReLU(),
            C(4, 2, 1),
        ),
        IMAGE,
        ["0", "2"],
    ),
    "transposed, grouped": lambda: (
        nn.Sequential(
            C(3, 6, 3),
            nn.ReLU(),
            nn.ConvTranspose2d(6, 4, 2, stride=2, groups=2),
            nn.ReLU(),
            C(4, 2, 1),
        ),
        IMAGE,
        ["0"],
    ),
    "1-d": lambda: (
        nn.Sequential(nn.Conv1d(3, 6, 3), nn.ReLU(), nn.Conv1d(6, 4, 3, stride=2)),
        LINE,
        ["0"],
    ),
    "3-d": lambda: (nn.Sequential(nn.Conv3d(2, 5, 2), nn.ReLU(), nn.Conv3d(5, 3, 2)), CUBE, ["0"]),
    "flatten": lambda: (
        nn.Sequential(
            C(3, 5, 3, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(45, 6),
            nn.ReLU(),
            nn.Linear(6, 2),
        ),
        (80, 3, 8, 8),
        ["0", "3"],
    ),
    "residual": lambda: (Residual(), IMAGE, ["stem", "blocks.0.0", "blocks.1.0"]),
    "bare": lambda: (Bare(), (40, 5), ["first", "second"]),
    "gated": lambda: (Gated(), (8, 5, 6), ["gate"]),
    "attention": lambda: (Attention(), (8, 5, 8), ["v"]),
    "recurrent": lambda: (Recurrent(), (8, 5, 4), ["first"]),
    "language": lambda: (Language(), (12, 6), ["embed", "mix"]),
}
