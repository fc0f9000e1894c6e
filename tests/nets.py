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


class Attending(nn.Module):
    """Pre-norm attention with a fused qkv, scaled by its width, and a gated MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.width = 2, 3
        self.embed, self.norm = nn.Linear(4, 5), nn.LayerNorm(5)
        self.qkv, self.proj = nn.Linear(5, 3 * 2 * 3), nn.Linear(2 * 3, 5)
        self.gate, self.up, self.down = nn.Linear(5, 4), nn.Linear(5, 4), nn.Linear(4, 5)
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        b, n, _ = x.shape
        qkv = self.qkv(self.norm(x)).view(b, n, 3, self.heads, self.width)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        out = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.proj(out.transpose(1, 2).reshape(b, n, self.heads * self.width))
        x = x + self.down(nn.functional.silu(self.gate(x)) * self.up(x))
        return self.head(nn.functional.gelu(x).mean(1))


class Similar(nn.Module):
    """Keys behind an activation, queries that turn by a table, grouped queries, a plain score."""

    def __init__(self) -> None:
        super().__init__()
        self.groups, self.times = 2, 2
        self.q, self.k, self.v = nn.Linear(4, 12), nn.Linear(4, 6, bias=False), nn.Linear(4, 8)
        self.head = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q = (
            self.q(x).view(b, n, self.groups * self.times, -1).transpose(1, 2)
            * torch.linspace(0.5, 1.5, n)[:, None]
        )
        k = torch.tanh(self.k(x)).view(b, n, self.groups, -1).transpose(1, 2)
        v = torch.tanh(self.v(x)).view(b, n, self.groups, -1).transpose(1, 2)
        k, v = (t[:, :, None].expand(-1, -1, self.times, -1, -1).flatten(1, 2) for t in (k, v))
        scores = torch.einsum("bhnd,bhmd->bhnm", q, k) / q.size(-1) ** 0.5
        return self.head((scores.softmax(-1) @ v).transpose(1, 2).flatten(2).mean(1))


class Sums(nn.Module):
    """Two scores that are added, one within the product that makes the other, and written into."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 3)
        self.c, self.d = nn.Linear(4, 2), nn.Linear(4, 2)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        scores = torch.tanh(self.a(x)) @ self.b(x).mT
        scores = torch.baddbmm(scores, self.c(x), torch.tanh(self.d(x)).mT, alpha=1.5)
        scores.mul_(0.5)
        return self.head((scores.softmax(-1) @ x).mean(1))


class Crossed(nn.Module):
    """Kernels with a dimension for heads and one for the channels of a head."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = nn.Parameter(torch.randn(2, 4, 3)), nn.Parameter(torch.randn(2, 4, 3))
        self.v, self.o = nn.Parameter(torch.randn(2, 4, 5)), nn.Parameter(torch.randn(2, 5, 2))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (torch.einsum("bnd,hde->bhne", x, w) for w in (self.q, self.k, self.v))
        scores = torch.einsum("bhne,bhme->bhnm", q, k) * 0.3
        out = scores.softmax(-1) @ torch.tanh(v)
        return torch.einsum("bhme,hef->bmf", out, self.o).mean(1)


SMOOTH: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "perceptron": (Perceptron, (4,)),
    "conv-bn-softplus": (ConvNormSoftplus, (3, 6, 6)),
    "residual": (Residual, (3, 5, 5)),
    "depthwise": (Depthwise, (3, 5, 5)),
    "squeeze-excite": (SqueezeExcite, (3, 5, 5)),
    "attention": (Attending, (5, 4)),
    "similarity": (Similar, (5, 4)),
    "crossed": (Crossed, (5, 4)),
    "sums": (Sums, (3, 4)),
}


ATTENTION = ("attention", "similarity", "sums")
"""Those whose channels overlap (heads, and channels inside a head), or stand in products."""


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
