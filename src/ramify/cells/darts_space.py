"""The space of DARTS: 7 operations and `none`, normal and reduction cells of 14 edges.

`ramify.relax.DARTS` is the searcher, which works for any space.

Source: H. Liu, K. Simonyan and Y. Yang, "DARTS: Differentiable architecture search", ICLR 2019;
RARTS thesis, §3.1.2.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ramify.cells.genotype import Genotype
from ramify.cells.operations import (
    FactorizedReduce,
    Zero,
    average_pool,
    max_pool,
    relu_conv_norm,
    separable,
    twice_separable,
)
from ramify.cells.space import Space
from ramify.cells.stacking import CellPlan, Parts, Plan
from ramify.errors import RamifyError


def stack(plan: Plan) -> Parts:
    """A stem of 3 C channels, then `plan.cells` cells, with reduction cells at 1/3 and 2/3."""
    width = 3 * plan.channels
    stem = nn.Sequential(
        nn.Conv2d(plan.in_channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
    )
    return _cells(plan, [stem], width, shrunk=False)


def stack_imagenet(plan: Plan) -> Parts:
    """The same cells after stems that downsample images by 8, for transfer to ImageNet."""
    width, half = plan.channels, plan.channels // 2
    first = nn.Sequential(*_half_size(plan.in_channels, half), nn.ReLU(), *_half_size(half, width))
    second = nn.Sequential(nn.ReLU(), *_half_size(width, width))
    return _cells(plan, [first, second], width, shrunk=True)


def _half_size(in_channels: int, out_channels: int) -> tuple[nn.Module, nn.Module]:
    conv = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1, bias=False)
    return conv, nn.BatchNorm2d(out_channels)


def _cells(plan: Plan, stems: list[nn.Module], width: int, shrunk: bool) -> Parts:
    """The stack after the stems; `shrunk`: the first input state is twice as large."""
    if plan.cells < 3:
        raise RamifyError(
            f"DARTS cannot have {plan.cells} cells: give 3 or more, two of which reduce."
        )
    layers: list[CellPlan | nn.Module] = []
    auxiliary = None
    earlier, last, channels = width, width, plan.channels
    affine = not plan.searching
    for number in range(plan.cells):
        reduces = number in (plan.cells // 3, 2 * plan.cells // 3)
        channels *= 2 if reduces else 1
        first = (
            FactorizedReduce(earlier, channels, affine)
            if shrunk
            else relu_conv_norm(earlier, channels, 1, affine=affine)
        )
        second = relu_conv_norm(last, channels, 1, affine=affine)
        kind = "reduce" if reduces else "normal"
        layers.append(CellPlan(kind, channels, 2 if reduces else 1, [first, second]))
        earlier, last, shrunk = last, plan.multiplier * channels, reduces
        if plan.auxiliary and number == 2 * plan.cells // 3:
            auxiliary = number, AuxiliaryHead(last, plan.classes)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, plan.classes))
    return Parts(stems, layers, head, auxiliary)


class AuxiliaryHead(nn.Module):
    """Logits from the middle of a network: pooling to 2×2, a 1×1 and a 2×2 convolution, linear.

    The pooling has 5×5 windows and the stride that yields 2×2 outputs: 3 for the 8×8 of CIFAR, 2
    for the 7×7 of ImageNet. The public code omits the second norm for ImageNet; here it is kept.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 128, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False),
            nn.BatchNorm2d(768),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.classifier = nn.Linear(768, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, classes).

        Args:
            x: the output of the cell at two thirds of the depth.

        Returns:
            Logits.

        Raises:
            RamifyError: H or W is below 6.
        """
        height, width = x.shape[2:]
        if min(height, width) < 6:
            raise RamifyError(
                f"the auxiliary head reads maps of {height}×{width}, and takes 6×6 at least: give "
                "larger images, or auxiliary=False."
            )
        x = F.avg_pool2d(F.relu(x), 5, stride=(height - 5, width - 5))
        return self.classifier(self.features(x))


def _pool(pool: nn.Module, channels: int, searching: bool) -> nn.Module:
    """A pool, followed by a norm in a supernet so that all operations have the same scale."""
    return nn.Sequential(pool, nn.BatchNorm2d(channels, affine=False)) if searching else pool


def _skip(channels: int, stride: int, searching: bool) -> nn.Module:
    if stride == 1:
        return nn.Identity()
    return FactorizedReduce(channels, channels, affine=not searching)


DARTS = Space(
    name="DARTS",
    operations={
        "none": lambda channels, stride, searching: Zero(stride),
        "max_pool_3x3": lambda channels, stride, searching: _pool(
            max_pool(stride), channels, searching
        ),
        "avg_pool_3x3": lambda channels, stride, searching: _pool(
            average_pool(stride), channels, searching
        ),
        "skip_connect": _skip,
        "sep_conv_3x3": lambda channels, stride, searching: twice_separable(
            channels, 3, stride, affine=not searching
        ),
        "sep_conv_5x5": lambda channels, stride, searching: twice_separable(
            channels, 5, stride, affine=not searching
        ),
        "dil_conv_3x3": lambda channels, stride, searching: separable(
            channels, 3, stride, affine=not searching, dilation=2
        ),
        "dil_conv_5x5": lambda channels, stride, searching: separable(
            channels, 5, stride, affine=not searching, dilation=2
        ),
    },
    stack=stack,
    kinds=("normal", "reduce"),
    inputs=2,
    states=4,
    keep=2,
    never=("none",),
    concat=True,
)
"""Two input states, and four intermediate ones with two edges each, which are concatenated."""

DARTS_IMAGENET = DARTS(stack=stack_imagenet)
"""The same cells, stacked for ImageNet."""

DARTS_V2 = Genotype.parse(
    "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), "
    "('sep_conv_3x3', 1), ('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), "
    "('dil_conv_3x3', 2)], normal_concat=[2, 3, 4, 5], reduce=[('max_pool_3x3', 0), "
    "('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1), ('max_pool_3x3', 0), "
    "('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)], reduce_concat=[2, 3, 4, 5])"
)
"""The genotype that second-order DARTS found on CIFAR-10, as published."""
