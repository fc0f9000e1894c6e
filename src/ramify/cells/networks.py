"""The network of a genotype: plain modules, one operation on each edge.

Shape letters: `N` samples, `C` channels, `H`, `W` pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ramify.cells.genotype import Genotype
from ramify.cells.operations import Zero
from ramify.cells.skeleton import Skeleton
from ramify.cells.stacking import CellPlan, Plan
from ramify.errors import RamifyError

if TYPE_CHECKING:
    from ramify.cells.space import Space


class DropPath(nn.Module):
    """In training, drops the output of an edge for random samples, and scales up the others.

    Source: FractalNet (Larsson and others, 2017), as DARTS and NASNet use it.

    Args:
        rate: the probability of dropping; a network has one such object, whose rate may be changed
            at any time.
    """

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        kept = torch.full((len(x), 1, 1, 1), keep, device=x.device, dtype=x.dtype).bernoulli()
        return x * (kept / keep)


class FixedCell(nn.Module):
    """A cell with one operation on each edge."""

    def __init__(
        self, space: Space, genotype: Genotype, plan: CellPlan, searching: bool, drop_path: DropPath
    ) -> None:
        super().__init__()
        self.concat = space.concat
        self.drop_path = drop_path
        self.prepare = nn.ModuleList(plan.prepare)
        states = genotype[plan.kind]
        self.sources = [[source for _, source in edges] for edges in states]
        self.states = nn.ModuleList(
            nn.ModuleList(
                space.operations[name](
                    plan.channels, plan.stride if source < space.inputs else 1, searching
                )
                for name, source in edges
            )
            for edges in states
        )

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """From the input states, each (N, C, H, W), to the cell's output."""
        states = [prepare(x) for prepare, x in zip(self.prepare, inputs, strict=True)]
        for operations, sources in zip(self.states, self.sources, strict=True):
            found = [
                self._edge(operation, states[source])
                for operation, source in zip(operations, sources, strict=True)  # type: ignore[call-overload]
                if not isinstance(operation, Zero)
            ]
            # Zeros are needed only if every edge is `none`.
            states.append(sum(found[1:], found[0]) if found else operations[0](states[sources[0]]))  # type: ignore[index]
        return torch.cat(states[len(inputs) :], dim=1) if self.concat else states[-1]

    def _edge(self, operation: nn.Module, x: Tensor) -> Tensor:
        return x if isinstance(operation, nn.Identity) else self.drop_path(operation(x))


class Network(Skeleton):
    """The stack of a genotype's cells, built by `Space.network`.

    Attributes:
        genotype: its genotype.
        drop_path: its `rate` is the probability of dropping an edge for a sample in training.

    Example:
        >>> from ramify.cells import DARTS, DARTS_V2
        >>> network = DARTS.network(DARTS_V2, channels=4, cells=3, drop_path=0.2)
        >>> network(torch.randn(2, 3, 32, 32)).shape, network.drop_path.rate
        (torch.Size([2, 10]), 0.2)
    """

    def __init__(self, space: Space, genotype: Genotype, plan: Plan, drop_path: float) -> None:
        if not 0 <= drop_path < 1:
            raise RamifyError(
                f"drop_path={drop_path} is not a probability: give a number from 0 to below 1."
            )
        parts = space.stacked(plan)
        if plan.auxiliary and parts.auxiliary is None:
            raise RamifyError(
                f"space {space.name} has no auxiliary head: leave auxiliary out, or let its "
                "stacking rule return one."
            )
        dropping = DropPath(drop_path)
        super().__init__(
            parts,
            space.inputs,
            lambda cell: FixedCell(space, genotype, cell, plan.searching, dropping),
        )
        self.genotype = genotype
        self.drop_path = dropping
        self.auxiliary_after, head = parts.auxiliary or (-1, None)
        self.auxiliary: nn.Module | None = head

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, in_channels, H, W) to logits (N, classes)."""
        return self.head(self.last_output(x, _call))

    def forward_with_auxiliary(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the network and of its auxiliary head, each (N, classes).

        Args:
            x: images (N, in_channels, H, W).

        Returns:
            (logits, auxiliary logits).

        Raises:
            RamifyError: The network has no auxiliary head.
        """
        if self.auxiliary is None:
            raise RamifyError("this network has no auxiliary head: build it with auxiliary=True.")
        outputs = list(self.outputs(x, _call))
        return self.head(outputs[-1]), self.auxiliary(outputs[self.auxiliary_after])


def _call(cell: nn.Module, states: list[Tensor]) -> Tensor:
    return cell(states)
