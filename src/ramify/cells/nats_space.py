"""The topology space of NATS-Bench (NAS-Bench-201): 5 operations, 4 nodes, 15,625 architectures.

Source: X. Dong and Y. Yang, "NAS-Bench-201: Extending the scope of reproducible neural architecture
search", ICLR 2020; X. Dong and others, "NATS-Bench", 2021.
"""

from __future__ import annotations

from torch import nn

from ramify.cells.operations import Residual, Zero, average_pool, relu_conv_norm
from ramify.cells.space import Space
from ramify.cells.stacking import CellPlan, Parts, Plan


def stack(plan: Plan) -> Parts:
    """Three stages of `plan.cells` cells (C, 2 C and 4 C channels), joined by residual blocks."""
    layers: list[CellPlan | nn.Module] = []
    channels = plan.channels
    for stage in range(3):
        if stage:
            layers.append(Residual(channels, 2 * channels))
            channels *= 2
        layers += [CellPlan("cell", channels, 1, [nn.Identity()]) for _ in range(plan.cells)]
    stem = nn.Sequential(
        nn.Conv2d(plan.in_channels, plan.channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(plan.channels),
    )
    head = nn.Sequential(
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, plan.classes),
    )
    return Parts([stem], layers, head)


NATS = Space(
    name="NATS",
    operations={
        "none": lambda channels, stride, searching: Zero(stride),
        "skip_connect": lambda channels, stride, searching: nn.Identity(),
        "nor_conv_1x1": lambda channels, stride, searching: relu_conv_norm(
            channels, channels, 1, stride, affine=not searching
        ),
        "nor_conv_3x3": lambda channels, stride, searching: relu_conv_norm(
            channels, channels, 3, stride, affine=not searching
        ),
        "avg_pool_3x3": lambda channels, stride, searching: average_pool(stride),
    },
    stack=stack,
)
"""One kind of cell with one input and three other nodes; derivation keeps every edge."""
