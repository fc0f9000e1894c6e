"""A small network with mixing logits, in float64, and ways to search it."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR

from ramify.relax import DARTS, RARTS, Joint, MiLeNAS, Searcher

Batch = tuple[Tensor, Tensor]
Named = dict[str, Tensor]
SGD_ALONE: dict[str, Any] = {
    "weight_optimizer": partial(SGD, lr=0.1),
    "arch_optimizer": partial(SGD, lr=0.2),
}
KINDS: dict[str, Any] = {
    "rarts": partial(RARTS, lam=0.7, beta=0.4),
    "darts-1": DARTS,
    "darts-2": partial(DARTS, order=2, xi=0.3),
    "darts-2 exact": partial(DARTS, order=2, exact=True),
    "milenas": partial(MiLeNAS, lam=0.6),
    "joint": Joint,
}


class Mixed(nn.Module):
    """Two branches mixed by logits, a gate in each channel, and what else a test asks for."""

    def __init__(self, norm: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.one, self.two, self.out = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 2)
        self.norm = nn.BatchNorm1d(4) if norm else nn.Identity()
        self.drop = nn.Dropout(dropout)
        self.mix = nn.Parameter(torch.tensor([0.3, -0.2]))
        self.gate = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        share = self.mix.softmax(0)
        mixed = share[0] * torch.tanh(self.one(x)) + share[1] * F.softplus(self.two(x))
        out: Tensor = self.out(self.gate * self.drop(self.norm(mixed)))
        return out


def network(**kinds: Any) -> Mixed:
    torch.manual_seed(3)
    return Mixed(**kinds).double()


def loss(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def batches(count: int, size: int = 6, seed: int = 5) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count * size, 3, generator=generator, dtype=torch.float64)
    y = (x[:, 0] * x[:, 1] > 0).long()
    return list(zip(x.split(size), y.split(size), strict=True))


def cosine(optimizer: Optimizer) -> LRScheduler:
    return CosineAnnealingLR(optimizer, T_max=20)


def stairs(optimizer: Optimizer) -> LRScheduler:
    return MultiStepLR(optimizer, milestones=[3, 6, 6], gamma=0.5)


def searcher(kind: str, model: Mixed | None = None, **settings: Any) -> Searcher:
    """Momentum on the weights, Adam on α, unless said otherwise."""
    model = network() if model is None else model
    given = {
        "arch": [model.mix, model.gate],
        "loss": loss,
        "weight_optimizer": partial(SGD, lr=0.1, momentum=0.9, weight_decay=1e-3),
        "arch_optimizer": partial(Adam, lr=0.05),
    }
    made: Searcher = KINDS[kind](model, **given | settings)
    return made


def same(one: Named, other: Named, tolerance: float = 0.0) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.allclose(tensor, other[name], rtol=tolerance, atol=tolerance), name
