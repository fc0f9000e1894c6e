"""Input and output of a stacking rule: a plan, and stems, cells, modules between them, a head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from ramify.errors import RamifyError


@dataclass(frozen=True)
class Plan:
    """The argument of a stacking rule.

    Attributes:
        channels: channels of the first cells.
        cells: the depth, in the unit that the rule defines.
        classes: number of classes.
        in_channels: channels of the images.
        multiplier: ratio of the channels of a cell's output to those of its states.
        searching: whether the stack is that of a supernet.
        auxiliary: whether to add an auxiliary head.

    Example:
        >>> plan = Plan(channels=16, cells=5)
        >>> plan.classes, plan.searching
        (10, False)
    """

    channels: int
    cells: int
    classes: int = 10
    in_channels: int = 3
    multiplier: int = 1
    searching: bool = False
    auxiliary: bool = False

    def __post_init__(self) -> None:
        for name in ("channels", "cells", "classes", "in_channels"):
            if getattr(self, name) < 1:
                raise RamifyError(f"{name} is {getattr(self, name)}: give 1 or more.")


@dataclass(frozen=True)
class CellPlan:
    """One cell of a stack.

    Attributes:
        kind: one of the space's kinds.
        channels: channels of each intermediate state.
        stride: stride of the edges that leave an input state.
        prepare: a module for each input state, which converts it to the cell's channels and to the
            size of the other inputs.

    Example:
        >>> CellPlan("normal", 16, stride=1, prepare=[nn.Conv2d(48, 16, 1)]).channels
        16
    """

    kind: str
    channels: int
    stride: int
    prepare: Sequence[nn.Module]


@dataclass(frozen=True)
class Parts:
    """The result of a stacking rule.

    Attributes:
        stems: run one after the other; their outputs are the first states that cells read (the
            first output fills in for missing ones).
        layers: cells, and modules between them that read the last state.
        head: maps the last state to the logits.
        auxiliary: the number of a layer, and a module that maps its output to logits.

    Example:
        >>> stem, cell = nn.Conv2d(3, 8, 3), CellPlan("cell", 8, 1, prepare=[nn.Identity()])
        >>> head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
        >>> Parts([stem], [cell, nn.ReLU(), cell], head).layers[0].kind
        'cell'
    """

    stems: Sequence[nn.Module]
    layers: Sequence[CellPlan | nn.Module]
    head: nn.Module
    auxiliary: tuple[int, nn.Module] | None = None

    def __post_init__(self) -> None:
        if not any(isinstance(layer, CellPlan) for layer in self.layers):
            raise RamifyError("a stacking rule returned no cell: put a CellPlan into its layers.")
