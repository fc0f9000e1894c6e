"""Small networks on which methods are checked, each with its samples."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, silu, softplus

Batch = tuple[Tensor, Tensor]


class _Convolutions(nn.Module):
    """Convolution, norm, activation, twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.n = nn.Conv2d(2, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)
        self.b, self.m = nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4)
        self.fc = nn.Linear(4 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = silu(self.n(self.a(x)), inplace=True)
        return self.fc(silu(self.m(self.b(x))).flatten(1))


class _Residual(nn.Module):
    """A stream with two producers and two readers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.n = nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 3, 1)
        self.fc = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.b(softplus(self.a(softplus(self.n(x)))))
        return self.fc(softplus(x).mean((2, 3)))


class _Depthwise(nn.Module):
    """Pointwise, depthwise, pointwise, each with a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.p, self.n1 = nn.Conv2d(2, 4, 1, bias=False), nn.BatchNorm2d(4)
        self.d, self.n2 = nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.BatchNorm2d(4)
        self.q, self.n3 = nn.Conv2d(4, 3, 1), nn.BatchNorm2d(3)
        self.fc = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = softplus(self.n2(self.d(softplus(self.n1(self.p(x))))))
        return self.fc(softplus(self.n3(self.q(x))).mean((2, 3)))


class _Attention(nn.Module):
    """A pre-norm block: attention and a perceptron on a stream."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.n1, self.n2 = nn.Linear(3, 4), nn.LayerNorm(4), nn.LayerNorm(4)
        self.q, self.k, self.v = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(4, 3)
        self.out, self.up, self.down = nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 4)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.n1(x)
        scores = self.q(y) @ self.k(y).mT / 2
        x = x + self.out(scores.softmax(-1) @ self.v(y))
        x = x + self.down(gelu(self.up(self.n2(x))))
        return self.fc(x.mean(1))


def _built(
    kind: Callable[[], nn.Module], shape: tuple[int, ...], dtype: torch.dtype
) -> tuple[nn.Module, Batch]:
    """A network with used running statistics and large weights, in eval mode, and 12 samples."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind().double()
        x = torch.randn(12, *shape).double()
        y = torch.randint(0, 3, (12,))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(1.5 * parameter + 0.1 * torch.randn_like(parameter))
            for _ in range(3):
                model(x)
    return model.to(dtype).eval(), (x.to(dtype), y)


NETWORKS: dict[str, Callable[[torch.dtype], tuple[nn.Module, Batch]]] = {
    "convolutions with norms": functools.partial(_built, _Convolutions, (2, 5, 5)),
    "a residual stream": functools.partial(_built, _Residual, (2, 4, 4)),
    "a depthwise block": functools.partial(_built, _Depthwise, (2, 4, 4)),
    "an attention block": functools.partial(_built, _Attention, (4, 3)),
}
"""The networks on which methods are checked, by their names in errors."""
