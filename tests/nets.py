"""Small smooth networks whose splitting matrices the tests know by brute force."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, softplus


class Perceptron(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(5, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.tanh(self.b(torch.tanh(self.a(x)))))


class ConvNormSoftplus(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.n = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.b, self.m = nn.Conv2d(4, 4, 3, stride=2), nn.BatchNorm2d(4)
        self.c = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = softplus(self.m(self.b(softplus(self.n(self.a(x))))))
        return self.c(x.mean((2, 3)))


class Residual(nn.Module):
    """A stream with three producers (stem, a2, b2) and three consumers (a1, b1, fc)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.a1, self.a2 = nn.Conv2d(4, 3, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)
        self.b1, self.b2 = nn.Conv2d(4, 3, 3, padding=1), nn.Conv2d(3, 4, 1)
        self.n, self.fc = nn.BatchNorm2d(4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.a2(softplus(self.a1(softplus(x))))
        x = x + self.b2(softplus(self.b1(softplus(self.n(x)))))
        return self.fc(softplus(x).mean((2, 3)))


class Depthwise(nn.Module):
    """Pointwise, norm, activation, depthwise, norm, activation, pointwise."""

    def __init__(self) -> None:
        super().__init__()
        self.p, self.n1 = nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4)
        self.d, self.n2 = nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False), nn.BatchNorm2d(4)
        self.q, self.fc = nn.Conv2d(4, 5, 1), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = softplus(self.n2(self.d(softplus(self.n1(self.p(x))))))
        return self.fc(softplus(self.q(x)).mean((2, 3)))


class SqueezeExcite(nn.Module):
    """A gate multiplies the channel: two producers that meet in a product."""

    def __init__(self) -> None:
        super().__init__()
        self.p, self.f, self.g = nn.Conv2d(3, 4, 3), nn.Linear(4, 3), nn.Linear(3, 4)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = softplus(self.p(x))
        gate = torch.sigmoid(self.g(softplus(self.f(x.mean((2, 3))))))
        return self.fc((x * gate[:, :, None, None]).mean((2, 3)))


SMOOTH: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "perceptron": (Perceptron, (4,)),
    "conv-bn-softplus": (ConvNormSoftplus, (3, 6, 6)),
    "residual": (Residual, (3, 5, 5)),
    "depthwise": (Depthwise, (3, 5, 5)),
    "squeeze-excite": (SqueezeExcite, (3, 5, 5)),
}


def prepared(name: str, samples: int = 12) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """A float64 network with used running statistics, and a batch."""
    torch.manual_seed(0)
    build, shape = SMOOTH[name]
    net = build().double()
    x, y = torch.randn(samples, *shape).double(), torch.randint(0, 2, (samples,))
    for _ in range(3):
        net(x)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1.5)
    return net.eval(), (x, y)


def per_sample(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return cross_entropy(model(batch[0]), batch[1], reduction="none")
