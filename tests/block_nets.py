"""Networks made of blocks, as people write them: residual before and after, plain, scaled."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SMALL = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
"""A configuration of transformers with three layers."""


class Basic(nn.Module):
    """A block of ResNet: an activation follows the sum."""

    def __init__(self, before: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut: nn.Module | None = None
        if before != width or stride != 1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class PreActivation(nn.Module):
    """A block whose sum is its output, added in place."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(width)
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(F.relu(self.bn(x)))
        y += x
        return y


class ResNet(nn.Module):
    """Three stages; the first block of the second and third changes the shape."""

    def __init__(self, blocks: tuple[int, int, int] = (2, 3, 1), width: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        stages = [nn.Sequential(*(Basic(width, width) for _ in range(blocks[0])))]
        for number in (1, 2):
            new = width * 2**number
            more = (Basic(new, new) for _ in range(blocks[number] - 1))
            stages.append(nn.Sequential(Basic(new // 2, new, 2), *more))
        self.layer1, self.layer2, self.layer3 = stages
        self.fc = nn.Linear(4 * width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.stem(x)))
        return self.fc(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


class DropPath(nn.Module):
    """Leaves a branch out at random in training."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        kept = torch.rand(x.shape[0], *(1,) * (x.dim() - 1)) >= self.rate
        return x * kept / (1 - self.rate)


class Scaled(nn.Module):
    """A block of ConvNeXt: depthwise, channels last, layer scale, drop path."""

    def __init__(self, width: int, rate: float) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.gamma = nn.Parameter(torch.full((width,), 0.5))
        self.drop_path = DropPath(rate)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        y = (self.gamma * self.down(F.gelu(self.up(y)))).permute(0, 3, 1, 2)
        return x + self.drop_path(y)


class Attention(nn.Module):
    """Attention and perceptron as in timm's vision transformers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        q, k, v = (
            self.qkv(self.norm1(x)).reshape(n, length, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
        )
        mixed = F.scaled_dot_product_attention(q, k, v)
        x = x + self.proj(mixed.transpose(1, 2).reshape(n, length, width))
        return x + self.mlp(self.norm2(x))


class Patches(nn.Module):
    """An image as a sequence of patches."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).flatten(2).transpose(1, 2)


class Linked(nn.Module):
    """A U of blocks: what the first half makes is read again, by number, in the second."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(PreActivation(3) for _ in range(3))
        self.joins = nn.ModuleList(nn.Conv2d(6, 3, 1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for block in self.down:
            x = block(x)
            kept.append(x)
        for number, join in enumerate(self.joins):
            x = join(torch.cat([x, kept[2 - number]], 1))
        return x


class Named(nn.Module):
    """Blocks as attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = PreActivation(3), PreActivation(3)
        self.head = nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x)))


class Shared(nn.Module):
    """One module that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([PreActivation(3), PreActivation(3)])

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks[1](self.blocks[0](self.blocks[1](x)))


def stream(in_channels: int, classes: int) -> nn.Sequential:
    """A classifier whose five blocks share one narrow stream; two of them do next to nothing."""
    blocks = [PreActivation(6) for _ in range(5)]
    for block in blocks[1:3]:
        block.conv.weight.data.mul_(1e-3)
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, classes)]
    return nn.Sequential(nn.Conv2d(in_channels, 6, 3, padding=1), *blocks, *pool)


def conv_norm_relu(before: int, width: int) -> nn.Sequential:
    """A layer of VGG."""
    conv = nn.Conv2d(before, width, 3, padding=1)
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU())


def flat_vgg() -> nn.Sequential:
    """VGG as torchvision lays it out: all layers in one list."""
    layers = [*conv_norm_relu(3, 4), *conv_norm_relu(4, 4), nn.MaxPool2d(2), *conv_norm_relu(4, 4)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 3))


def nested_vgg() -> nn.Sequential:
    """VGG with a Sequential for each layer."""
    layers = [conv_norm_relu(3, 4), conv_norm_relu(4, 4), conv_norm_relu(4, 4)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, 3))


def lively(model: nn.Module) -> nn.Module:
    """Norms with statistics and weights of their own, so that each of them shows."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        for name, low in (("running_mean", -0.2), ("running_var", 0.5), ("bias", -0.2)):
            value = getattr(module, name, None)
            is_norm = isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.LayerNorm))
            if is_norm and isinstance(value, Tensor):
                value.data.copy_(torch.rand(value.shape, generator=generator) + low)
    return model.eval()


IMAGES = (2, 3, 8, 8)
NETS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "resnet": (ResNet, IMAGES),
    "preactivation": (
        lambda: nn.Sequential(*(PreActivation(3) for _ in range(3)), nn.Conv2d(3, 2, 1)),
        IMAGES,
    ),
    "flat vgg": (flat_vgg, IMAGES),
    "nested vgg": (nested_vgg, IMAGES),
    "convnext": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 2, 2), *(Scaled(4, 0.1 * n) for n in range(3))),
        IMAGES,
    ),
    "vit": (
        lambda: nn.Sequential(Patches(8), *(Attention(8) for _ in range(3)), nn.Linear(8, 3)),
        IMAGES,
    ),
    "encoder": (
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True),
            3,
            enable_nested_tensor=False,
        ),
        (2, 5, 8),
    ),
    "post-norm encoder": (
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 3, enable_nested_tensor=False
        ),
        (2, 5, 8),
    ),
    "linked": (Linked, IMAGES),
    "named": (Named, IMAGES),
}
"""Name -> (what builds the network, the shape of its input)."""


def made(name: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Tensor]:
    """A network of `NETS` and an input for it."""
    torch.manual_seed(0)
    build, shape = NETS[name]
    return lively(build()).to(dtype), torch.randn(shape, dtype=dtype)


def steps(model: nn.Module, x: Tensor, optimizer: Any, count: int) -> None:
    """So many steps of training that bring what the network makes to zero."""
    for _ in range(count):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
