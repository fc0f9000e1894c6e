"""Mixtures of experts, as people write them: lists, stacks of weights, sparse and dense."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.structures.base import structure


@structure(
    (2, 6),
    {
        "stem": "8 split", "router": "5 frozen", "head": "2 frozen",
        **{f"experts.{n}.0": f"{6 + n} split" for n in range(5)},
    },
)  # fmt: skip
class ListedExperts(nn.Module):
    """Two rows, two experts each: at least one of the five gets none, and is skipped."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.router, self.head = nn.Linear(6, 8), nn.Linear(8, 5), nn.Linear(8, 2)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 6 + n), nn.Tanh(), nn.Linear(6 + n, 8)) for n in range(5)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.stem(x))
        weights, chosen = self.router(x).softmax(-1).topk(2)
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            rows, place = torch.where(chosen == number)
            if len(rows):
                out.index_add_(0, rows, expert(x[rows]) * weights[rows, place, None])
        return self.head(out + x)


class Stacked(nn.Module):
    """Weights (experts, in, out) behind a layer of 8 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.router, self.head = nn.Linear(6, 8), nn.Linear(8, 4), nn.Linear(8, 2)
        self.inner = nn.Parameter(torch.randn(4, 8, 7) / 3)
        self.bias = nn.Parameter(torch.randn(4, 1, 7) / 3)
        self.outer = nn.Parameter(torch.randn(4, 7, 8) / 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.stem(x))
        return self.head(self.mixture(x, self.router(x).softmax(-1)) + x)

    def mixture(self, x: Tensor, probabilities: Tensor) -> Tensor:
        """What the experts make of rows (n, 8), whose experts have probabilities (n, 4)."""
        raise NotImplementedError


@structure(
    (5, 6), {"stem": "8 split", "router": "4 inexact", "inner": "7 split", "head": "2 frozen"}
)
class NumberedExperts(Stacked):
    """Each row's own weights, taken by number."""

    def mixture(self, x: Tensor, probabilities: Tensor) -> Tensor:
        weights, chosen = probabilities.topk(2)
        out = torch.zeros_like(x)
        for place in range(2):
            own = chosen[:, place]
            hidden = torch.baddbmm(self.bias[own], x.unsqueeze(1), self.inner[own]).tanh()
            out = out + torch.bmm(hidden, self.outer[own])[:, 0] * weights[:, place, None]
        return out


@structure(
    (5, 6), {"stem": "8 split", "router": "4 inexact", "inner": "7 split", "head": "2 frozen"}
)
class VisitedExperts(Stacked):
    """Experts that some row chose, one after the other."""

    def mixture(self, x: Tensor, probabilities: Tensor) -> Tensor:
        weights, chosen = probabilities.topk(2)
        hit = F.one_hot(chosen, self.inner.shape[0]).permute(2, 1, 0)
        out = torch.zeros_like(x)
        for expert in (hit.sum((-1, -2)) > 0).nonzero():
            place, rows = torch.where(hit[expert[0]])
            hidden = (x[rows] @ self.inner[expert[0]] + self.bias[expert[0]]).tanh()
            part = hidden @ self.outer[expert[0]] * weights[rows, place, None]
            out.index_add_(0, rows, part)
        return out


@structure(
    (5, 6), {"stem": "8 split", "router": "4 inexact", "inner": "7 split", "head": "2 frozen"}
)
class SwitchedExperts(Stacked):
    """The best expert of each row alone, as in switch transformers."""

    def mixture(self, x: Tensor, probabilities: Tensor) -> Tensor:
        weight, chosen = probabilities.max(-1)
        hidden = torch.einsum("nc,nch->nh", x, self.inner[chosen]) + self.bias[chosen, 0]
        return torch.einsum("nh,nhc->nc", hidden.tanh(), self.outer[chosen]) * weight[:, None]


@structure(
    (5, 6), {"stem": "8 split", "router": "4 inexact", "inner": "7 split", "head": "2 frozen"}
)
class MaskedExperts(Stacked):
    """All experts on all rows; those that were not chosen count nothing."""

    def mixture(self, x: Tensor, probabilities: Tensor) -> Tensor:
        weights, chosen = probabilities.topk(2)
        share = torch.zeros_like(probabilities).scatter(1, chosen, weights)
        hidden = (torch.einsum("nc,ech->neh", x, self.inner) + self.bias[:, 0]).tanh()
        return torch.einsum("neh,ehc,ne->nc", hidden, self.outer, share)


@structure(
    (5, 6), {"stem": "8 split", "router": "4 inexact", "inner": "7 split", "head": "2 frozen"}
)
class DenseExperts(Stacked):
    """All experts on all rows, mixed by a softmax."""

    def mixture(self, x: Tensor, probabilities: Tensor) -> Tensor:
        hidden = (torch.einsum("nc,ech->neh", x, self.inner) + self.bias[:, 0]).tanh()
        return torch.einsum("neh,ehc,ne->nc", hidden, self.outer, probabilities)


@structure(
    (5, 6), {"stem": "8 split", "router": "4 frozen", "inner": "7 split", "head": "2 frozen"}
)
class TableOfExperts(Stacked):
    """The forward treats the expert of one number otherwise, so that the numbers stay."""

    def mixture(self, x: Tensor, probabilities: Tensor) -> Tensor:
        weights, chosen = probabilities.topk(1)
        weights = torch.where(chosen == 2, 0.5 * weights, weights)
        hidden = torch.bmm(x.unsqueeze(1), self.inner[chosen[:, 0]]) + self.bias[chosen[:, 0]]
        return torch.bmm(hidden.tanh(), self.outer[chosen[:, 0]])[:, 0] * weights


FACTORS = (0.5, 1.0, 1.5, 2.0)


@structure(
    (5, 6), {"stem": "8 split", "router": "4 frozen", "inner": "7 split", "head": "2 frozen"}
)
class ReadNumbers(Stacked):
    """Python reads the numbers of experts, where no trace can follow."""

    def mixture(self, x: Tensor, probabilities: Tensor) -> Tensor:
        _, chosen = probabilities.max(-1)
        factors = torch.tensor([FACTORS[n] for n in chosen.tolist()], dtype=x.dtype)
        hidden = torch.einsum("nc,nch->nh", x, self.inner[chosen]).tanh()
        return torch.einsum("nh,nhc->nc", hidden, self.outer[chosen]) * factors[:, None]
