"""Forwards with Python in them: branches, numbers, masks, odd widths, inputs and outputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.structures.base import structure


@structure((2, 4), {"a": "5 prune", "b": "5 split", "c": "2 frozen"})
class DataDependent(nn.Module):
    """Both branches use the same layers, in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x = torch.relu(self.b(x)) if x.sum() > 0 else torch.tanh(self.b(x))
        return self.c(x)


@structure((2, 4), {"a": "5 frozen", "c": "2 frozen"})
class HiddenBranch(nn.Module):
    """A layer that these inputs do not reach, behind a branch on data."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        if x.abs().sum() > 1e9:
            x = self.b(x)
        return self.c(x)


@structure((2, 3, 4, 4), {"a": "6 inexact", "b": "5 split", "c": "2 frozen"})
class CountsChannels(nn.Module):
    """The width is read as a number: copies would change the output."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 5, 1), nn.Conv2d(5, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        x = torch.relu(self.b(x / x.size(1)))
        return self.c(x)


@structure((2, 3, 4, 4), {"stem": "4 split", "a": "6 inexact", "c": "2 frozen"})
class HiddenCount(nn.Module):
    """As before, behind a gain of zero: the trace must not be fooled by what is silent now."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, 1)
        self.b, self.c = nn.Conv2d(6, 4, 1), nn.Conv2d(4, 2, 1)
        self.mask_gain = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        hidden = torch.relu(self.a(x))
        return self.c(x + self.mask_gain * self.b(hidden / hidden.size(1) ** 0.5))


@structure((2, 3, 4, 4), {"a": "4 split", "b": "5 frozen", "c": "2 frozen"})
class NumpyConstants(nn.Module):
    """Arrays and numbers from outside, one of them with an entry for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1), nn.Conv2d(5, 2, 1)
        self.table = np.linspace(0.5, 1.5, 5).reshape(1, 5, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x * float(np.sqrt(2.0))).clamp(np.float64(-1.0), 1.0)
        x = self.b(torch.where(x > 0, x, np.pi * x))
        return self.c(x * torch.from_numpy(self.table).to(x.dtype))


@structure((2, 5, 4), {"a": "6 prune", "b": "6 split", "c": "2 frozen"})
class Masks(nn.Module):
    """A causal mask and a channel mask, both buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.register_buffer("mask", torch.ones(5, 5).tril() == 0)
        self.register_buffer("channel_mask", torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0, 0.0]))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x)) * self.channel_mask
        scores = (x @ x.transpose(1, 2)).masked_fill(self.mask, -1e4)
        return self.c(torch.relu(self.b(scores.softmax(-1) @ x)))


@structure((2, 3, 4, 4), {"a": "1 one", "b": "1 one", "d": "1 one", "c": "2 frozen"})
class WidthOne(nn.Module):
    """Hidden layers of a single channel."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.n, self.b = nn.Conv2d(3, 1, 1), nn.BatchNorm2d(1), nn.Conv2d(1, 1, 3)
        self.d, self.c = nn.Linear(4, 1), nn.Linear(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.b(torch.relu(self.n(self.a(x)))))
        return self.c(torch.relu(self.d(x.flatten(1))))


@structure(
    lambda: {"image": torch.randn(2, 3, 4, 4), "text": torch.randint(0, 5, (2, 6)), "scale": 2.0},
    {"a": "4 split", "b": "5 inexact", "c": "2 frozen"},
)
class DictInputs(nn.Module):
    """Keyword inputs of several kinds; a dictionary and a tuple come back."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.table = nn.Conv2d(3, 4, 1), nn.Embedding(5, 4, padding_idx=0)
        self.b, self.c = nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, image: Tensor, text: Tensor, scale: float) -> dict[str, Any]:
        x = self.a(image).mean((2, 3)) * scale + self.table(text).mean(1)
        x = torch.relu(self.b(torch.tanh(x)))
        return {"scores": self.c(x), "more": (x.mean(), [x.detach().abs().sum(0).sum()])}


@structure(lambda: (torch.randn(2, 4), torch.randn(2, 4)), {"a": "5 split", "c": "2 frozen"})
class TupleInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        z = torch.relu(self.a(x)) - torch.relu(self.b(y))
        return self.c(z), self.c(-z)


@structure((2, 4), {"a": "5 split", "b": "6 frozen", "c": "2 frozen"})
class FeaturesToo(nn.Module):
    """What is given back keeps its width; what is not may change."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(5, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = torch.relu(self.b(torch.relu(self.a(x))))
        return self.c(features), features


@structure(
    (2, 3, 4, 4), {"a": "4 split", "b": "5 split", "d": "3 frozen", "e": "4 split", "c": "2 frozen"}
)
class Activations(nn.Module):
    """PReLU with a slope for each channel, in-place ReLU, Softmax2d, Threshold, CELU."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.p = nn.Conv2d(3, 4, 1), nn.PReLU(4)
        self.b, self.q = nn.Conv2d(4, 5, 1), nn.PReLU()
        self.d, self.s = nn.Conv2d(5, 3, 1), nn.Softmax2d()
        self.e, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)
        self.r = nn.Sequential(nn.ReLU(inplace=True), nn.CELU(), nn.Threshold(0.1, 0.2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.s(self.d(self.q(self.b(self.p(self.a(x))))))
        return self.c(F.hardtanh_(self.r(self.e(x))))


@structure((2, 3, 8, 8), {"a": "4 split", "b": "5 split", "c": "2 frozen", "aux": "2 frozen"})
class Auxiliary(nn.Module):
    """A second head that runs in train mode only."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.n = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.b, self.aux, self.c = nn.Conv2d(4, 5, 3), nn.Conv2d(4, 2, 1), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Any:
        x = torch.relu(self.n(self.a(x)))
        out = self.c(torch.relu(self.b(x)).mean((2, 3)))
        return (out, self.aux(x)) if self.training else out


@structure((2, 4), {"a": "5 frozen", "b": "6 split", "c": "2 frozen"})
class TrainsOtherwise(nn.Module):
    """The same layers, wired in another way in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(5, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        if self.training:
            x = x.roll(1, dims=1)
        return self.c(torch.relu(self.b(x)))


@structure((2, 4), {"a": "5 split", "b": "2 frozen"})
class InPlaceOnInput(nn.Module):
    """The forward writes into its own input, and changes its shape in place."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x.sub_(0.5)
        y = self.a(x)
        y.unsqueeze_(1).transpose_(1, 2)
        return self.b(y.squeeze_(2).t_().t())


@structure((2, 4), {"a": "5 split", "b": "6 split", "c": "2 frozen"})
class Autocast(nn.Module):
    """Half precision inside; the comparison allows for its rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(5, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            x = torch.relu(self.b(torch.relu(self.a(x))))
        return self.c(x.to(self.c.weight.dtype))


@structure((2, 3, 4, 4), {"a": "4 split", "c": "2 frozen"})
class Stateful(nn.Module):
    """A forward that counts its calls, keeps a list, replaces a buffer and draws numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c, self.calls = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1), 0
        self.register_buffer("mean", torch.zeros(4))
        self.seen: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen.append(float(np.random.rand()))  # noqa: NPY002
        x = self.a(x)
        self.mean = 0.9 * self.mean + 0.1 * x.mean((0, 2, 3))
        return self.c(x - self.mean[:, None, None])


@structure((2, 3, 4, 4), {"a": "4 frozen", "b": "2 frozen"})
class NonLeaf(nn.Module):
    """Weights clamped in the forward itself, and an embedding that renormalises its rows."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        self.a.weight.data = torch.renorm(self.a.weight.data, p=2, dim=0, maxnorm=0.5)
        with torch.no_grad():
            self.b.weight.clamp_(-0.3, 0.3)
        return self.b(torch.relu(self.a(x)))


@structure((3, 4), {"a": "6 split", "b": "4 split", "c": "2 frozen"})
class ImaginaryUnit(nn.Module):
    """Channels times a number that is not real, of which only the real part goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(torch.exp(1j * self.a(x)).real))
