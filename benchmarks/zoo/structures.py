"""Small networks with difficult structures, one use of channels each."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.zoo.entries import Entry, Inputs, image, noise

STRUCTURES: list[tuple[type[nn.Module], Inputs]] = []


def structure(inputs: Inputs) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Add a network to the zoo."""

    def register(net: type[nn.Module]) -> type[nn.Module]:
        STRUCTURES.append((net, inputs))
        return net

    return register


def entries() -> list[Entry]:
    """One entry for each structure."""
    return [Entry(net.__name__, "structures", net, inputs) for net, inputs in STRUCTURES]


def conv(read: int, made: int, kernel: int = 3, groups: int = 1, stride: int = 1) -> nn.Sequential:
    """A convolution that keeps the size, batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(read, made, kernel, stride, kernel // 2, groups=groups),
        nn.BatchNorm2d(made),
        nn.ReLU(inplace=True),
    )


@structure(image(12, 12))
class Residual(nn.Module):
    """A stream with several producers and a shortcut that changes its width."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = conv(3, 16), conv(16, 12), nn.Conv2d(12, 16, 3, padding=1)
        self.c, self.d = conv(16, 24, stride=2), nn.Conv2d(24, 32, 3, padding=1)
        self.shortcut, self.head = nn.Conv2d(16, 32, 1, stride=2), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.stem(x)
        x = torch.relu(x + self.b(self.a(x)))
        x = torch.relu(self.shortcut(x) + self.d(self.c(x)))
        return self.head(x.mean((2, 3)))


@structure(image(12, 12))
class DenseConcatenation(nn.Module):
    """Every layer reads all earlier outputs, as in DenseNet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(12 + 8 * n) for n in range(4))
        self.layers = nn.ModuleList(nn.Conv2d(12 + 8 * n, 8, 3, padding=1) for n in range(3))
        self.head = nn.Linear(36, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.stem(x)
        for norm, layer in zip(self.norms, self.layers, strict=False):
            x = torch.cat([x, layer(F.relu(norm(x)))], 1)
        return self.head(F.relu(self.norms[-1](x)).mean((2, 3)))


@structure(image(16, 16))
class UNet(nn.Module):
    """Downsampling and upsampling with skip concatenations, transposed convolution and resizing."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = conv(3, 8), conv(8, 16), conv(16, 24)
        self.up = nn.ConvTranspose2d(24, 16, 2, stride=2)
        self.four, self.five, self.head = conv(32, 16), conv(24, 8), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits for each pixel."""
        one = self.one(x)
        two = self.two(F.max_pool2d(one, 2))
        three = self.three(F.max_pool2d(two, 2))
        four = self.four(torch.cat([two, self.up(three)], 1))
        wide = F.interpolate(four, scale_factor=2, mode="bilinear", align_corners=False)
        return self.head(self.five(torch.cat([one, wide], 1)))


@structure(image(12, 12))
class ChannelShuffle(nn.Module):
    """Grouped convolutions with a channel shuffle between them, by view and transpose."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a = conv(3, 24), conv(24, 24, 1, groups=3)
        self.b, self.head = conv(24, 24, 3, groups=3), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.a(self.stem(x))
        n, c, h, w = x.shape
        x = x.view(n, 3, c // 3, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.head(self.b(x).mean((2, 3)))


@structure(image(8, 8))
class PixelShuffle(nn.Module):
    """Blocks of channels become pixels, and pixels channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3, 32), conv(8, 16)
        self.c, self.head = conv(64, 12), nn.Conv2d(12, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """An image of the same size."""
        x = F.pixel_shuffle(self.a(x), 2)
        return self.head(self.c(F.pixel_unshuffle(self.b(x), 2)))


@structure(noise(3, 7, 10))
class GatedChunks(nn.Module):
    """GLU by the operation and by chunk, and SwiGLU in one fused layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(10, 24), nn.Linear(12, 32), nn.Linear(16, 40)
        self.head = nn.Linear(20, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Logits for each position."""
        x = F.glu(self.a(x), -1)
        value, gate = self.b(x).chunk(2, dim=-1)
        gate, value = self.c(value * torch.sigmoid(gate)).chunk(2, -1)
        return self.head(F.silu(gate) * value)


@structure(image(12, 12))
class SlicedBranches(nn.Module):
    """CSP: half of the channels go through more layers; separated by slices and by chunk."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = conv(3, 16), conv(8, 8), conv(8, 8)
        self.merge, self.c = conv(24, 20, 1), conv(10, 10)
        self.head = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.stem(x)
        half = x.shape[1] // 2
        one, two = x[:, :half], x[:, half:]
        deep = self.b(self.a(two))
        x = self.merge(torch.cat([one, two, deep], 1))
        one, two = x.chunk(2, 1)
        return self.head(torch.cat([self.c(one), two], 1).mean((2, 3)))


@structure(image(12, 12))
class SliceWrites(nn.Module):
    """Results are written into slices of a buffer created in the forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = conv(3, 8), conv(3, 12), nn.Conv2d(20, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits for each pixel."""
        a, b = self.a(x), self.b(x)
        out = x.new_zeros(x.shape[0], a.shape[1] + b.shape[1], *x.shape[2:])
        out[:, : a.shape[1]] = a
        out[:, a.shape[1] :] += b
        return self.head(out.sigmoid_())


@structure(image(12, 12))
class GroupedConvolution(nn.Module):
    """ResNeXt's block: grouped convolutions with different numbers of channels per group."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a = conv(3, 16), conv(16, 24, 1)
        self.b, self.c = conv(24, 48, 3, groups=4), nn.Conv2d(48, 16, 1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.stem(x)
        x = torch.relu(x + self.c(self.b(self.a(x))))
        return self.head(x.mean((2, 3)))


@structure(image(12, 12))
class DepthwiseMultiplier(nn.Module):
    """Depthwise convolutions, one of which has three output channels per input channel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a = conv(3, 8), conv(8, 8, groups=8)
        self.b, self.c = conv(8, 24, groups=8), conv(24, 12, 1)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.head(self.c(self.b(self.a(self.stem(x)))).mean((2, 3)))


@structure(image(16, 16))
class SharedHead(nn.Module):
    """One convolution run twice and one head over three scales, as in detectors."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = conv(3, 12), conv(12, 12, stride=2)
        self.tower, self.classes, self.boxes = (
            conv(12, 10),
            nn.Conv2d(10, 4, 1),
            nn.Conv2d(10, 4, 1),
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Class scores and boxes for each scale."""
        scales = [self.stem(x)]
        for _ in range(2):
            scales.append(self.down(scales[-1]))
        towers = [self.tower(scale) for scale in scales]
        return [out for tower in towers for out in (self.classes(tower), self.boxes(tower).exp())]


@structure(image(12, 12))
class FunctionalWeights(nn.Module):
    """Bare parameters in functional calls, one standardised before use."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(0.2 * torch.randn(12, 3, 3, 3))
        self.bias = nn.Parameter(torch.randn(12))
        self.second = nn.Parameter(0.2 * torch.randn(16, 12, 1, 1))
        self.out = nn.Parameter(0.2 * torch.randn(16, 5))

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = torch.relu(F.conv2d(x, self.kernel, self.bias, padding=1))
        weight = self.second - self.second.mean((1, 2, 3), keepdim=True)
        return torch.einsum("nchw,ck->nk", torch.tanh(F.conv2d(x, weight)), self.out)


@structure(noise(4, 20))
class TiedAutoencoder(nn.Module):
    """Two encoder layers, and the same two transposed as the decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(20, 14), nn.Linear(14, 8)
        self.c, self.d = nn.Parameter(torch.zeros(14)), nn.Parameter(torch.zeros(20))

    def forward(self, x: Tensor) -> Tensor:
        """The reconstructed input."""
        code = torch.tanh(self.b(torch.tanh(self.a(x))))
        return F.linear(
            torch.tanh(F.linear(code, self.b.weight.t(), self.c)), self.a.weight.t(), self.d
        )


@structure(noise(3, 6, 8))
class Recurrent(nn.Module):
    """An LSTM between linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.lstm = nn.Linear(8, 12), nn.LSTM(12, 10, batch_first=True)
        self.b, self.head = nn.Linear(10, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        out, _ = self.lstm(torch.relu(self.a(x)))
        return self.head(torch.relu(self.b(out[:, -1])))


@structure(image(12, 12))
class SqueezeExcite(nn.Module):
    """Channels weighted by a gate computed from their means through a narrow layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3, 16), conv(16, 24)
        self.down, self.up = nn.Conv2d(24, 6, 1), nn.Conv2d(6, 24, 1)
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.b(self.a(x))
        gate = torch.sigmoid(self.up(F.silu(self.down(x.mean((2, 3), keepdim=True)))))
        return self.head((x * gate).mean((2, 3)))


@structure(noise(2, 7, 16))
class FusedAttention(nn.Module):
    """One layer produces queries, keys and values; the number of heads is an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.head_dim, self.scale = 4, 4, 4**-0.5
        self.norm, self.qkv, self.proj = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16)
        self.up, self.down, self.head = nn.Linear(16, 40), nn.Linear(40, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Logits for each position."""
        b, n, _ = x.shape
        qkv = self.qkv(self.norm(x)).reshape(b, n, 3, self.heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * self.scale).softmax(-1)
        x = x + self.proj((weights @ v).transpose(1, 2).reshape(b, n, -1))
        return self.head(x + self.down(F.gelu(self.up(x))))


@structure(image(8, 8, channels=12))
class WindowAttention(nn.Module):
    """Attention within shifted windows, with a table of relative positions for each head."""

    apart: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.window, self.heads = 4, 3
        self.embed, self.norm = nn.Conv2d(12, 12, 1), nn.LayerNorm(12)
        self.qkv, self.proj = nn.Linear(12, 36), nn.Linear(12, 12)
        self.table = nn.Parameter(0.1 * torch.randn(49, 3))
        self.head = nn.Linear(12, 4)
        at = torch.stack(torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")).flatten(1)
        apart = (at[:, :, None] - at[:, None, :]).permute(1, 2, 0) + 3
        self.register_buffer("apart", apart[..., 0] * 7 + apart[..., 1])

    def attend(self, x: Tensor) -> Tensor:
        """Attention over the cells of each window: (windows, cells, channels)."""
        b, n, c = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.table[self.apart.view(-1)].view(n, n, -1).permute(2, 0, 1)
        scores = q @ k.transpose(-2, -1) / math.sqrt(c // self.heads) + bias.unsqueeze(0)
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))

    def forward(self, x: Tensor) -> Tensor:
        """Logits for each cell."""
        x = self.embed(x).permute(0, 2, 3, 1)
        b, h, w, c = x.shape
        size = self.window
        y = torch.roll(self.norm(x), (-2, -2), (1, 2))
        y = y.view(b, h // size, size, w // size, size, c).permute(0, 1, 3, 2, 4, 5)
        y = self.attend(y.reshape(-1, size * size, c))
        y = y.view(b, h // size, w // size, size, size, c).permute(0, 1, 3, 2, 4, 5)
        x = x + torch.roll(y.reshape(b, h, w, c), (2, 2), (1, 2))
        return self.head(x)


@structure(image(8, 8))
class PatchMerging(nn.Module):
    """Four neighbours are merged into one by concatenating their channels, as in Swin."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Conv2d(3, 10, 2, stride=2), nn.LayerNorm(40)
        self.reduce, self.head = nn.Linear(40, 20, bias=False), nn.Linear(20, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = F.gelu(self.embed(x)).permute(0, 2, 3, 1)
        parts = [x[:, i::2, j::2, :] for j in (0, 1) for i in (0, 1)]
        x = self.reduce(self.norm(torch.cat(parts, -1)))
        return self.head(F.gelu(x).mean((1, 2)))


@structure(image(8, 8))
class LayerScale(nn.Module):
    """ConvNeXt's block: depthwise, norm, MLP, and a gain for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wide = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 12, 7, padding=3, groups=12)
        self.norm, self.up, self.down = nn.LayerNorm(12), nn.Linear(12, 48), nn.Linear(48, 12)
        self.gain, self.head = nn.Parameter(1e-6 * torch.ones(12)), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.stem(x)
        y = self.norm(self.wide(x).permute(0, 2, 3, 1))
        y = self.gain * self.down(F.gelu(self.up(y)))
        return self.head((x + y.permute(0, 3, 1, 2)).mean((2, 3)))


@structure(noise(2, 9, 8))
class GroupedQueries(nn.Module):
    """Four query heads share two key heads, with rotary positions: a small LLaMA layer."""

    def __init__(self) -> None:
        super().__init__()
        self.head_dim, self.heads, self.key_heads = 6, 4, 2
        self.q, self.k, self.v = nn.Linear(8, 24), nn.Linear(8, 12), nn.Linear(8, 12)
        self.o, self.norm = nn.Linear(24, 8), nn.RMSNorm(8)
        self.gate, self.up, self.down = nn.Linear(8, 20), nn.Linear(8, 20), nn.Linear(20, 8)

    def rotate(self, x: Tensor) -> Tensor:
        """Rotary positions over (batch, heads, positions, head dimension)."""
        half = x.shape[-1] // 2
        speed = 100 ** -(torch.arange(half, dtype=x.dtype, device=x.device) / half)
        angle = torch.outer(torch.arange(x.shape[-2], dtype=x.dtype, device=x.device), speed)
        angle = torch.cat([angle, angle], -1)
        turned = torch.cat([-x[..., half:], x[..., :half]], -1)
        return x * angle.cos() + turned * angle.sin()

    def forward(self, x: Tensor) -> Tensor:
        """The stream after the layer."""
        b, n, _ = x.shape
        q = self.rotate(self.q(x).view(b, n, -1, self.head_dim).transpose(1, 2))
        k = self.rotate(self.k(x).view(b, n, -1, self.head_dim).transpose(1, 2))
        v = self.v(x).view(b, n, -1, self.head_dim).transpose(1, 2)
        shared = self.heads // self.key_heads
        k, v = k.repeat_interleave(shared, 1), v.repeat_interleave(shared, 1)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(out.transpose(1, 2).reshape(b, n, -1))
        y = self.norm(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


@structure(image(12, 12))
class ReparametrizedWeights(nn.Module):
    """Weight norm, and two branches whose sum another layer reads."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 12, 3, padding=1))
        self.b, self.c = nn.Conv2d(12, 16, 3, padding=1), nn.Conv2d(12, 16, 1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = torch.tanh(self.a(x))
        return self.head(F.leaky_relu(self.b(x) + self.c(x)).mean((2, 3)))


@structure(image(12, 12))
class DataBranches(nn.Module):
    """The forward pass branches on its data, and a shortcut pads channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.head = conv(3, 8), conv(8, 20), nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.stem(x)
        if x.mean() > -1:
            y = self.a(x)
            x = F.pad(x, (0, 0, 0, 0, 0, y.shape[1] - x.shape[1])) + y
        return self.head(x.flatten(2).amax(-1))
