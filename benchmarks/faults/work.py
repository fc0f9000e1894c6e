"""A network in training, and the work that is done on it while an error is raised."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import ramify

Batch = tuple[Tensor, Tensor]


class Inner(nn.Module):
    """A residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        """The stream plus the output of the block."""
        return x + torch.tanh(self.conv(x))


class Net(nn.Module):
    """Convolutions with norms and a residual stream, a cache and a counter, dropout, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 3, 3, padding=1)
        self.two, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.blocks = nn.ModuleList(Inner() for _ in range(2))
        self.drop, self.head = nn.Dropout(0.1), nn.Linear(4, 3)
        self.seen: list[int] = []
        self.calls: Tensor
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Scores of images."""
        self.seen.append(len(x))
        self.calls.add_(1)
        x = torch.relu(self.stem(x))
        x = torch.relu(self.norm(x + self.two(torch.tanh(self.one(x)))))
        for block in self.blocks:
            x = block(x)
        scores: Tensor = self.head(self.drop(x.mean((2, 3))))
        return scores


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """One loss per sample."""
    return cross_entropy(model(batch[0]), batch[1], reduction="none")


@dataclass
class Work:
    """A network after one training step, with everything that edits change along with it.

    Attributes:
        model: the network, in train mode.
        optimizer: its optimizer, with state.
        follower: a state dictionary of the same shapes.
        batches: the batches that judge edits.
        folder: the folder in which it has been saved.
        graph: its channel graph.
        parts: its modules.
    """

    model: nn.Module = field(default_factory=Net)
    optimizer: torch.optim.Optimizer = field(init=False)
    follower: dict[str, Tensor] = field(init=False)
    batches: list[Batch] = field(init=False)
    folder: Path = field(init=False)
    graph: ramify.ChannelGraph = field(init=False)
    parts: list[nn.Module] = field(init=False)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(3)
        images = torch.randn(12, 1, 5, 5, generator=generator)
        labels = torch.arange(12) % 3
        self.batches = list(zip(images.split(6), labels.split(6), strict=True))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01)
        loss(self.model, self.batches[0]).mean().backward()
        self.optimizer.step()
        self.follower = {n: t.detach().clone() for n, t in self.model.state_dict().items()}
        self.graph = ramify.trace(self.model, images[:2])
        self.parts = list(self.model.modules())
        self.folder = Path(tempfile.mkdtemp())


def new() -> Work:
    """The same work each time."""
    torch.manual_seed(5)
    return Work()


def _trace(work: Work) -> None:
    ramify.trace(work.model, work.batches[0][0][:2])


def _apply(work: Work) -> None:
    edits: list[ramify.Edit] = [ramify.Split("stem", 1), ramify.Prune("one", 0)]
    followers = [work.follower]
    ramify.apply(work.graph, edits, optimizer=work.optimizer, followers=followers)


def _depth(work: Work) -> None:
    given: dict[str, Any] = {"optimizer": work.optimizer, "followers": [work.follower]}
    blocks = ramify.Drop("blocks.0"), ramify.Insert("blocks.1")
    ramify.apply(work.graph, [*blocks, ramify.Prune("one", 0)], **given)


def _cut(work: Work) -> None:
    budget = {"params": 0.8 * sum(p.numel() for p in work.model.parameters())}
    given: dict[str, Any] = {"optimizer": work.optimizer, "followers": [work.follower]}
    ramify.cut(work.graph, loss, work.batches, budget=budget, **given)


def _propose(work: Work) -> None:
    ramify.SplittingDescent().propose(work.graph, loss, work.batches)


def _learn(work: Work) -> None:
    ramify.GaussNewton(epochs=1).propose(work.graph, loss, work.batches)


def _save(work: Work) -> None:
    ramify.save(work.model, work.folder / "net")


MAKES_MODULES = "apply, blocks"
"""The work that creates new modules and parameters."""

WORKS: dict[str, Callable[[Work], None]] = {
    "trace": _trace,
    "apply": _apply,
    MAKES_MODULES: _depth,
    "cut": _cut,
    "propose, splitting": _propose,
    "propose, Gauss-Newton": _learn,
    "save": _save,
}
