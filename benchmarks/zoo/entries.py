"""The entries of the zoo: for each model a function that builds it and one for its inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Build = Callable[[], nn.Module]
Inputs = Callable[[], Any]


@dataclass(frozen=True)
class Entry:
    """One model of the zoo.

    Attributes:
        name: its name in the table.
        family: its origin: `structures`, `ramify`, `torch`, or the library's name.
        build: builds it, newly initialised.
        inputs: builds its inputs: a tensor, a tuple or a dictionary.
        full: whether it has its usual size.
    """

    name: str
    family: str
    build: Build
    inputs: Inputs
    full: bool = False


def image(*sizes: int, channels: int = 3, batch: int = 2) -> Inputs:
    """Noise of shape (batch, channels, *sizes)."""
    return lambda: torch.randn(batch, channels, *sizes)


def noise(*shape: int) -> Inputs:
    """Noise of this shape."""
    return lambda: torch.randn(*shape)


def tokens(vocabulary: int, length: int, batch: int = 2) -> Callable[[], Tensor]:
    """Token ids of shape (batch, length), without the first few, which are padding."""
    return lambda: torch.randint(3, vocabulary, (batch, length))


def entries() -> list[Entry]:
    """Every entry that the installed packages provide, in the order of the table."""
    from benchmarks.zoo import (
        attention,
        detection,
        diffusion,
        experts,
        hub,
        own,
        structures,
        vision,
    )

    rooms = (structures, own, attention, experts, hub, vision, detection, diffusion)
    found = [entry for room in rooms for entry in room.entries()]
    names = [entry.name for entry in found]
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise ValueError(f"several entries are called {', '.join(sorted(repeated))}")
    return found
