"""Random networks: small programs of layers, drawn and shrunk by hypothesis.

A program is a list of steps; each step takes the feature map (N, C, 4, 4) and gives one back.
Numbers in a step are taken modulo what fits, so that every draw is a network.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

Step = tuple[str, int, int]
SIDE = 4


def divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


class Conv(nn.Module):
    def __init__(self, c: int, a: int, b: int) -> None:
        super().__init__()
        groups = divisors(c)[a % len(divisors(c))]
        self.c = groups * (1 + b % 4)
        kernel = (1, 3, (3, 1))[a % 3]
        self.conv = nn.Conv2d(c, self.c, kernel, padding="same", groups=groups, bias=b % 2 == 0)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Norm(nn.Module):
    def __init__(self, c: int, a: int, b: int) -> None:
        super().__init__()
        self.c = c
        groups = divisors(c)[b % len(divisors(c))]
        self.norm = (
            nn.BatchNorm2d(c),
            nn.GroupNorm(groups, c, affine=b % 2 == 0),
            nn.InstanceNorm2d(c, affine=b % 2 == 0),
            nn.BatchNorm2d(c, affine=b % 2 == 0, track_running_stats=b % 3 > 0),
        )[a % 4]

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


class ChannelsLast(nn.Module):
    """Norms and linear layers on the last dimension."""

    def __init__(self, c: int, a: int, b: int) -> None:
        super().__init__()
        self.norm = (nn.LayerNorm(c), nn.Identity(), nn.Identity(), nn.RMSNorm(c))[a % 4]
        self.c = c if a % 4 == 3 else 1 + b % 6
        self.linear = nn.Identity() if a % 4 == 3 else nn.Linear(c, self.c, bias=b % 2 == 0)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.norm(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


class Activation(nn.Module):
    def __init__(self, c: int, a: int, b: int) -> None:
        super().__init__()
        self.c = c
        every = (
            nn.ReLU(),
            nn.ReLU(inplace=True),
            nn.Tanh(),
            nn.SiLU(),
            nn.Hardswish(),
            nn.PReLU(c),
            nn.LogSigmoid(),
            nn.Dropout(0.5),
        )
        self.act, self.pool = every[a % len(every)], b % 3

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(x.clone())
        if self.pool == 1:
            return F.max_pool2d(x, 3, stride=1, padding=1)
        return F.interpolate(F.avg_pool2d(x, 2), scale_factor=2.0) if self.pool == 2 else x


class Residual(nn.Module):
    """Two convolutions around an add, a product or a gate from a pooled vector."""

    def __init__(self, c: int, a: int, b: int) -> None:
        super().__init__()
        self.c, hidden = c, 1 + b % 4
        self.one, self.two, self.kind = nn.Conv2d(c, hidden, 1), nn.Conv2d(hidden, c, 1), a % 4
        self.scale = nn.Parameter(torch.randn(c, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == 0:
            gate = self.two(torch.relu(self.one(x.mean((2, 3), keepdim=True))))
            return x * torch.sigmoid(gate)
        branch = self.two(torch.relu(self.one(x)))
        if self.kind == 1:
            return x * branch
        return x + (self.scale * branch if self.kind == 2 else branch)


class Join(nn.Module):
    """The map beside a convolution of itself, of its first part, or of its pieces."""

    def __init__(self, c: int, a: int, b: int) -> None:
        super().__init__()
        self.kind = a % 4 if c > 1 else 0
        self.cut = (1 + b % (c - 1)) if c > 1 else 0
        if self.kind == 2 and c % 2:
            self.kind = 1
        width = (c, self.cut, c // 2, c)[self.kind]
        self.conv = nn.Conv2d(width, 1 + b % 3 if self.kind < 2 else width, 1)
        self.c = c + self.conv.out_channels if self.kind < 2 else c

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == 0:
            return torch.cat([self.conv(x), x], 1)
        if self.kind == 1:
            return torch.cat([x, self.conv(x[:, : self.conv.in_channels])], dim=1)
        if self.kind == 2:
            one, two = x.chunk(2, dim=1)
            return torch.cat([torch.tanh(self.conv(one)), two], dim=1)
        out = torch.zeros_like(x)
        out[:, : self.cut] = x[:, : self.cut]
        out[:, self.cut :] = torch.sigmoid(self.conv(x))[:, self.cut :]
        return out


class Move(nn.Module):
    """Shuffles, gates of halves, pixel shuffles and padding."""

    def __init__(self, c: int, a: int, b: int) -> None:
        super().__init__()
        self.groups = divisors(c)[b % len(divisors(c))]
        self.kind = a % 5
        if (self.kind == 1 and c % 2) or (self.kind == 2 and c % 4):
            self.kind = 0
        self.c = {1: c // 2, 2: c // 4, 3: c + 1 + b % 2, 4: c * 2}.get(self.kind, c)
        self.extra = b % 2

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        if self.kind == 0:
            return x.view(n, self.groups, -1, h, w).transpose(1, 2).reshape(n, c, h, w)
        if self.kind == 1:
            return F.glu(x, dim=1)
        if self.kind == 2:
            return F.avg_pool2d(F.pixel_shuffle(x, 2), 2)
        if self.kind == 3:
            return F.pad(x, (0, 0, 0, 0, self.extra, 1))
        return x.repeat(1, 2, 1, 1) if self.extra else x.repeat_interleave(2, dim=1)


class Attention(nn.Module):
    """Tokens of the map attend to each other, with or without sizes as attributes, shared keys,
    normed queries, and scales of every kind; a residual join."""

    def __init__(self, c: int, a: int, b: int) -> None:
        super().__init__()
        self.c, self.num_heads, self.head_dim = c, 1 + a % 2, 1 + b % 3
        self.scale, self.named, self.normed = a // 2, b % 2 == 0, b // 4 == 2
        self.key_heads = self.num_heads if b // 4 < 2 else 1
        self.q = nn.Linear(c, self.num_heads * self.head_dim)
        self.k = nn.Linear(c, self.key_heads * self.head_dim)
        self.v = nn.Linear(c, self.key_heads * self.head_dim)
        self.norm = nn.LayerNorm(self.head_dim) if self.normed else nn.Identity()
        self.out = nn.Linear(self.num_heads * self.head_dim, c)

    def cut(self, x: Tensor, heads: int) -> Tensor:
        sizes = (heads, self.head_dim) if self.named else (heads, -1)
        return x.unflatten(-1, sizes).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        t = x.flatten(2).transpose(1, 2)
        q = self.norm(self.cut(self.q(t), self.num_heads))
        k, v = (self.cut(f(t), self.key_heads) for f in (self.k, self.v))
        if self.scale < 2:
            t = F.scaled_dot_product_attention(q, k, v, scale=(None, 0.3)[self.scale])
        else:
            root = q.size(-1) ** 0.5
            q = q / root if self.scale == 2 else q
            scores = q @ k.transpose(-1, -2)
            scores = scores * self.head_dim**-0.5 if self.scale == 3 else scores
            t = (scores / (1 + root) if self.scale == 4 else scores).softmax(-1) @ v
        t = self.out(t.transpose(1, 2).flatten(2))
        return x + t.transpose(1, 2).unflatten(2, x.shape[2:])


class Odd(nn.Module):
    """Habits that an edit must survive or that a trace must see."""

    def __init__(self, c: int, a: int, b: int) -> None:
        super().__init__()
        self.c, self.kind = c, a % 6
        self.width = c
        self.conv = nn.Conv2d(c, c, 1)
        self.register_buffer("shift", torch.randn(c, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == 0:
            return x / x.size(1)
        if self.kind == 1:
            return x.view(x.size(0), self.width, SIDE, SIDE) + 1.0
        if self.kind == 2:
            return self.conv(torch.tanh(self.conv(x)))
        if self.kind == 3:
            return x + self.shift
        if self.kind == 4:
            return x - x.mean(1, keepdim=True)
        return torch.stack([x, self.conv(x)], dim=0).amax(0)


STEPS: dict[str, Callable[[int, int, int], nn.Module]] = {
    "conv": Conv,
    "norm": Norm,
    "last": ChannelsLast,
    "act": Activation,
    "residual": Residual,
    "join": Join,
    "move": Move,
    "attention": Attention,
    "odd": Odd,
}


class Network(nn.Module):
    """A stem, the program, a head of one of three kinds; skips join equal widths."""

    def __init__(self, width: int, program: list[Step], head: int) -> None:
        super().__init__()
        self.stem, c = nn.Conv2d(2, width, 3, padding=1), width
        self.steps = nn.ModuleList()
        for name, a, b in program:
            step = STEPS[name](c, a, b)
            c = int(step.c)  # type: ignore[arg-type]
            self.steps.append(step)
        self.kind = head % 3
        self.head = nn.Linear(c * SIDE * SIDE if self.kind == 1 else c, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for step in self.steps:
            x = step(x)
        if self.kind == 1:
            return self.head(x.flatten(1))
        x = x.mean((2, 3)) if self.kind == 0 else x.amax(-1).amax(-1)
        return self.head(torch.tanh(x))


numbers = st.integers(0, 11)
programs = st.tuples(
    st.integers(1, 6),
    st.lists(st.tuples(st.sampled_from(sorted(STEPS)), numbers, numbers), max_size=6),
    st.integers(0, 2),
)
