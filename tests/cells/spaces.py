"""What the tests of cells share: a space of odd operations, slow readings, a lived model."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ramify.cells import NATS, CellPlan, Genotype, Parts, Plan, Space, Supernet
from ramify.cells.operations import Zero
from ramify.cells.supernet import MixedCell


class Gate(nn.Module):
    """An operation that is no chain of standard layers."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y * torch.sigmoid(y)


def depthwise(channels: int, kernel: int, stride: int, dilation: int = 1) -> nn.Conv2d:
    padding = dilation * (kernel // 2)
    return nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups=channels)


def stack(plan: Plan) -> Parts:
    layers = [
        CellPlan("small", plan.channels, 2, [nn.Identity(), nn.Identity()]),
        nn.Conv2d(2 * plan.channels, plan.channels, 1),
    ]
    head = nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(plan.channels, plan.classes)
    )
    return Parts([nn.Conv2d(plan.in_channels, plan.channels, 3, padding=1)], layers, head)


ODD = Space(
    name="ODD",
    operations={
        "gate": lambda channels, stride, searching: Gate(channels, stride),
        "bias": lambda channels, stride, searching: nn.Sequential(
            nn.Conv2d(channels, channels, 3, stride, 1)
        ),
        "pool_depthwise": lambda channels, stride, searching: nn.Sequential(
            nn.AvgPool2d(3, stride, 1), depthwise(channels, 3, 1)
        ),
        "relu_last": lambda channels, stride, searching: nn.Sequential(
            depthwise(channels, 5, stride), nn.BatchNorm2d(channels), nn.ReLU()
        ),
        "norm_first": lambda channels, stride, searching: nn.Sequential(
            nn.BatchNorm2d(channels, affine=False),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1, stride, groups=2),
            nn.ReLU(),
            nn.ReLU(),
            nn.MaxPool2d(3, 1, 1),
        ),
        "nothing": lambda channels, stride, searching: Zero(stride),
        "pool": lambda channels, stride, searching: nn.AvgPool2d(1, stride),
        "dilated": lambda channels, stride, searching: nn.Sequential(
            nn.ReLU(), depthwise(channels, 3, stride, 2), nn.BatchNorm2d(channels, affine=False)
        ),
        "dilated_5": lambda channels, stride, searching: nn.Sequential(
            nn.ReLU(), depthwise(channels, 5, stride, 2), nn.BatchNorm2d(channels, affine=False)
        ),
    },
    stack=stack,
    kinds=("small",),
    inputs=2,
    states=2,
    keep=1,
    never=("nothing", "bias"),
    concat=True,
)


def drawn(space: Space, generator: random.Random) -> Genotype:
    """A random genotype; every operation is possible, `none` too."""
    cells = []
    for kind in space.kinds:
        states = []
        for number in range(space.inputs, space.inputs + space.states):
            keep = number if space.keep is None else space.keep
            sources = sorted(generator.sample(range(number), keep))
            names = list(space.operations)
            states.append(tuple((generator.choice(names), source) for source in sources))
        cells.append((kind, tuple(states)))
    return Genotype(space.name, space.inputs, tuple(cells))


def nats_strings(count: int, seed: int = 0) -> list[str]:
    generator = random.Random(seed)
    return [drawn(NATS, generator).text for _ in range(count)]


def lived(supernet: Supernet, batch: Tensor) -> Supernet:
    """The same supernet after some training, so that no norm has the statistics it began with."""
    optimizer = torch.optim.SGD(supernet.parameters(), lr=0.5)
    supernet.train()
    for _ in range(2):
        optimizer.zero_grad()
        supernet(batch).square().mean().backward()
        optimizer.step()
    return supernet


def plain(supernet: Supernet, x: Tensor, mixing: dict[str, Tensor]) -> Tensor:
    """The supernet's output, each operation on each edge by a module of its own ((3.4), (3.6))."""
    space = supernet.space

    def run(cell: MixedCell, inputs: list[Tensor]) -> Tensor:
        plan = next(plan for plan, layer in supernet.cells() if layer is cell)
        states = [prepare(state) for prepare, state in zip(cell.prepare, inputs, strict=True)]
        for target in range(space.inputs, space.inputs + space.states):
            total = torch.zeros(())
            for row, (source, reader) in enumerate(space.edges):
                if reader != target:
                    continue
                stride = plan.stride if source < space.inputs else 1
                for column, (name, build) in enumerate(space.operations.items()):
                    operation = build(plan.channels, stride, True).train(supernet.training)
                    edge = cell.targets[source].index(target)
                    operation.load_state_dict(
                        {
                            k: v.clone()
                            for k, v in cell.mixtures[source].state_of(name, edge).items()
                        }
                    )
                    total = total + mixing[plan.kind][row, column] * operation(states[source])
            states.append(total)
        made = states[space.inputs :]
        return torch.cat(made, dim=1) if space.concat else made[-1]

    *_, last = supernet.outputs(x, run)
    return supernet.head(last)


COUNT = 5**6
NAMES = np.array(["none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"])


def write_nats_table(folder: Path) -> Path:
    """A small table of NATS-Bench in its form; the accuracy of an architecture is its number."""
    generator = np.random.default_rng(0)
    codes = generator.permutation(COUNT)
    core = {
        "ops": np.stack([codes // 5**k % 5 for k in range(6)], axis=1).astype(np.int8),
        "op_names": NAMES,
        "cifar10_test": np.arange(COUNT, dtype=np.float32),
        "params": np.arange(COUNT) + 7,
        "mflops": np.arange(COUNT) / 8,
    }
    np.savez(folder / "nb201_core.npz", **core)
    return folder
