"""How layers are joined: residual streams, gates, concatenations, tied and shared weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tests.structures.base import structure


@structure((2, 3, 6, 6), {"stem": "4 split", "a1": "3 split", "b1": "5 split", "fc": "2 frozen"})
class ResidualStream(nn.Module):
    """Three producers, three consumers, and norms on the stream's branches."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.n1, self.n2 = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.a1, self.a2 = nn.Conv2d(4, 3, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)
        self.b1, self.b2 = nn.Conv2d(4, 5, 3, padding=1), nn.Conv2d(5, 4, 1)
        self.fc = nn.Linear(4, 2)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.a2(self.relu(self.a1(self.relu(self.n1(x)))))
        x = self.b2(self.relu(self.b1(self.relu(self.n2(x))))).add_(x)
        return self.fc(self.relu(x).mean((2, 3)))


@structure((2, 3, 6, 6), {"a": "4 split", "down": "3 split", "c": "2 frozen"})
class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3)
        self.down, self.up = nn.Conv2d(4, 3, 1), nn.Conv2d(3, 4, 1)
        self.c = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.a(x))
        gate = self.up(F.silu(self.down(F.adaptive_avg_pool2d(x, 1))))
        return self.c(x * torch.sigmoid(gate))


@structure((2, 3, 6, 6), {"a": "4 split", "mask": "1 frozen", "c": "2 frozen"})
class SpatialGate(nn.Module):
    """One map for all channels: its single channel broadcasts and can never be two."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.mask, self.c = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 1, 1), nn.Conv2d(4, 2, 1)
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.c(x * torch.sigmoid(self.mask(x)) + self.scale * x)


@structure((2, 3, 6, 6), {"a": "4 split", "b": "3 split", "d": "5 split", "c": "2 frozen"})
class DenseConcat(nn.Module):
    """Everything made so far is read by every later layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3, padding=1)
        self.b = nn.Conv2d(7, 3, 3, padding=1)
        self.n = nn.BatchNorm2d(10)
        self.d = nn.Conv2d(10, 5, 3, padding=1)
        self.c = nn.Linear(15, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, self.a(x)], 1)
        x = torch.cat([x, self.b(torch.relu(x))], 1)
        x = torch.cat([x, self.d(torch.relu(self.n(x)))], 1)
        return self.c(x.mean((2, 3)))


@structure(
    (2, 3, 8, 8),
    {"a": "4 split", "b": "6 split", "up": "4 split", "d": "5 split", "c": "2 frozen"},
)
class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(6, 4, 2, stride=2)
        self.d, self.c = nn.Conv2d(8, 5, 3, padding=1), nn.Conv2d(5, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = torch.relu(self.a(x))
        up = self.up(torch.relu(self.b(skip)))
        return self.c(torch.relu(self.d(torch.cat((skip, up), dim=1))))


@structure((2, 3, 6, 6), {"a": "3 split", "b": "3 split", "c": "2 frozen"})
class SlicedCSP(nn.Module):
    """A literal cut: what lies before it feeds the branch, what lies after passes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(9, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.c(torch.cat([x, self.b(x[:, : x.size(1) // 2])], 1))


@structure(
    (2, 3, 6, 6),
    {
        "a:0": "2 frozen",
        "a:1": "3 split",
        "b1": "3 split",
        "b2": "3 split",
        "c": "4 split",
        "d": "2 frozen",
    },
)
class ChunkedCSP(nn.Module):
    """The C2f block: halves of one convolution, and a chain on the second half."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 6, 1)
        self.b1, self.b2 = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.c, self.d = nn.Conv2d(12, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.a(x).chunk(2, 1))
        parts.extend(F.silu(layer(parts[-1])) for layer in (self.b1, self.b2))
        return self.d(torch.relu(self.c(torch.cat(parts, 1))))


@structure((3, 4), {"a:0": "2 frozen", "a:1": "3 split", "b": "2 frozen"})
class GatedLinear(nn.Module):
    """GLU: channel i and its gate i + 3 go together."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.glu(self.a(x), dim=-1))


@structure((3, 4), {"gate": "5 split", "down": "2 frozen"})
class SwiGLU(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(4, 5, bias=False), nn.Linear(4, 5, bias=False)
        self.down = nn.Linear(5, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


@structure((2, 3, 6, 6), {"a": "4 split", "b": "6 split", "c": "2 frozen"})
class LayerScale(nn.Module):
    """ConvNeXt without its norm: a tiny gain hides the branch from a careless comparison."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.d = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.b, self.e = nn.Linear(4, 6), nn.Linear(6, 4)
        self.gamma = nn.Parameter(1e-6 * torch.ones(4))
        self.c = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        branch = self.e(F.gelu(self.b(self.d(x).permute(0, 2, 3, 1)))) * self.gamma
        return self.c(x + branch.permute(0, 3, 1, 2))


@structure((3, 4), {"stem": "6 split", "b": "2 frozen"})
class CalledTwice(nn.Module):
    """One layer, run twice: it makes and reads the same channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.stem(x))
        return self.b(torch.tanh(self.a(torch.tanh(self.a(x)))))


@structure((3, 4), {"a:0": "5 prune", "a:1": "4 frozen"})
class TiedAutoencoder(nn.Module):
    """The decoder's weight is the encoder's, transposed: it makes and reads the code."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 5)
        self.shift = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.a(x)) @ self.a.weight + self.shift


@structure(
    lambda: torch.randint(0, 7, (2, 5)),
    {"table:0": "7 frozen", "table:1": "4 prune", "a": "6 split"},
)
class TiedEmbedding(nn.Module):
    """The output layer shares the embedding's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.a, self.b = nn.Embedding(7, 4), nn.Linear(4, 6), nn.Linear(6, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.table(x)
        return self.head(x + self.b(torch.relu(self.a(x))))


@structure((2, 3, 8, 8), {"a": "4 split", "head": "5 split", "c": "2 frozen"})
class SharedHead(nn.Module):
    """One head over two scales: what feeds it is one group."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1, stride=2)
        self.head, self.c = nn.Conv2d(4, 5, 3, padding=1), nn.Conv2d(5, 2, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {
            str(n): self.c(torch.relu(self.head(torch.relu(scale))))
            for n, scale in enumerate((self.a(x), self.b(x)))
        }


@structure(
    (2, 3, 6, 6),
    {
        "stem": "4 split",
        "blocks.0.0.0": "3 split",
        "blocks.1.0.0": "3 split",
        "heads.x": "2 frozen",
        "heads.y": "3 frozen",
    },
)
class NestedLists(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        make = lambda i, o: nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.ReLU())  # noqa: E731
        self.blocks = nn.ModuleList(nn.ModuleList([make(4, 3), make(3, 4)]) for _ in range(2))
        self.heads = nn.ModuleDict({"x": nn.Linear(4, 2), "y": nn.Linear(4, 3)})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.stem(x)
        for block in self.blocks:
            out = x
            for layer in block:
                out = layer(out)
            x = x + out
        return {name: head(x.mean((2, 3))) for name, head in self.heads.items()}


@structure((3, 4), {"stem": "5 split", "a": "6 split", "c": "2 frozen"})
class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 6), nn.Linear(6, 5)
        self.c = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        branch = nn.Sequential(self.a, nn.ReLU(), self.b)
        return self.c(x + checkpoint(branch, x, use_reentrant=False))


@structure((2, 3, 6, 6), {"a": "4 split", "b": "4 split", "c": "2 frozen"})
class InPlaceWrites(nn.Module):
    """Results are written into slices of one buffer that the forward makes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        out = x.new_zeros(x.size(0), a.size(1) + b.size(1), *x.shape[2:])
        out[:, : a.size(1)] = a.relu_()
        out[:, a.size(1) :].copy_(b).mul_(0.5)
        return self.c(out.sigmoid_())


@structure((3, 4), {"a:0": "3 split", "a:1": "2 frozen", "c": "2 frozen"})
class Maxout(nn.Module):
    """The larger of every two channels, half as many as there are."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Linear(4, 6), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.c(x.view(*x.shape[:-1], x.shape[-1] // 2, 2).amax(-1))


@structure((3, 4), {"a": "6 prune", "c": "2 frozen", "centres": "5 split"})
class Centres(nn.Module):
    """Radial units: a table makes what a weight reads, by distances written out."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.centres = nn.Linear(4, 6), nn.Parameter(torch.randn(5, 6))
        self.widths, self.c = nn.Parameter(torch.rand(5)), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        far = (torch.tanh(self.a(x))[:, None] - self.centres).square().sum(-1)
        return self.c(torch.exp(-self.widths * far))


@structure((3, 4), {"centres": "5 split", "c": "2 frozen"})
class CentresOfInputs(nn.Module):
    """The same, of the inputs themselves: no layer makes a channel."""

    def __init__(self) -> None:
        super().__init__()
        self.centres, self.c = nn.Parameter(torch.randn(5, 4)), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.exp(-(x[:, None] - self.centres).abs().sum(-1)))


@structure((2, 3, 4), {"a": "6 prune", "c": "2 frozen", "centres": "5 split"})
class CentresByDistance(nn.Module):
    """The same by torch's own distances, of sequences to one table."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.centres = nn.Linear(4, 6), nn.Parameter(torch.randn(5, 6))
        self.widths, self.c = nn.Parameter(torch.rand(5)), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        far = torch.cdist(torch.tanh(self.a(x)), self.centres)
        return self.c(torch.exp(-self.widths * far))


@structure((2, 3, 4), {"a": "6 prune", "b": "5 prune", "pair": "7 split", "c": "2 frozen"})
class BilinearLayer(nn.Module):
    """One weight reads the channels of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(4, 5)
        self.pair, self.c = nn.Bilinear(6, 5, 7), nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.tanh(self.pair(torch.relu(self.a(x)), self.b(x))))


@structure((3, 4), {"a": "6 split", "b": "5 inexact", "c": "4 frozen"})
class LossesInside(nn.Module):
    """Losses that the forward returns beside its output, of channels and of classes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = torch.tanh(self.b(torch.relu(self.a(x))))
        near, whole = F.mse_loss(x, x.detach().round()), F.smooth_l1_loss(x, x * 0, reduction="sum")
        classes = self.c(x)
        return classes, near + whole, F.cross_entropy(classes, classes.argmax(1))
