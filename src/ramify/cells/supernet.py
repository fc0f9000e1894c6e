"""The supernet: the stack of a space in which each edge is a mixture of all operations.

Shape letters: `N` samples, `C` channels, `E` edges of a cell, `O` operations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ramify.cells.mixed import EdgeMixtures, Used
from ramify.cells.skeleton import Skeleton
from ramify.cells.stacking import CellPlan, Plan
from ramify.errors import RamifyError

if TYPE_CHECKING:
    from ramify.cells.space import Space

MIXINGS = ("softmax", "sigmoid")


class MixedCell(nn.Module):
    """A cell whose states read all earlier states through mixtures."""

    def __init__(self, space: Space, plan: CellPlan, partial: int) -> None:
        super().__init__()
        self.kind, self.concat = plan.kind, space.concat
        self.prepare = nn.ModuleList(plan.prepare)
        self.targets: list[list[int]] = []
        self.mixtures = nn.ModuleList()
        for source in range(space.inputs + space.states - 1):
            rows = [row for row, edge in enumerate(space.edges) if edge[0] == source]
            self.targets.append([space.edges[row][1] for row in rows])
            stride = plan.stride if source < space.inputs else 1
            self.mixtures.append(
                EdgeMixtures(space.operations, rows, plan.channels, stride, partial)
            )

    def forward(self, inputs: Sequence[Tensor], mixing: Tensor, used: Used) -> Tensor:
        """The cell's output.

        Args:
            inputs: the input states, each (N, C, H, W).
            mixing: (E, O).
            used: which of these weights may be nonzero.

        Returns:
            The last state, or all intermediate states concatenated.
        """
        states = {
            number: prepare(x)
            for number, (prepare, x) in enumerate(zip(self.prepare, inputs, strict=True))
        }
        for source, (mixture, targets) in enumerate(zip(self.mixtures, self.targets, strict=True)):
            for target, found in zip(targets, mixture(states[source], mixing, used), strict=True):
                states[target] = states[target] + found if target in states else found
        made = [states[number] for number in range(len(inputs), len(states))]
        return torch.cat(made, dim=1) if self.concat else made[-1]


class Supernet(Skeleton):
    """All architectures of a space in one network with shared weights, built by `Space.supernet`.

    The mixing logits are in its `state_dict`, as `alpha_KIND`.

    Attributes:
        space: the space.
        plan: the plan of its stack.
        partial: the candidates read one channel in `partial`, and the others bypass them.

    Example:
        >>> from ramify.cells import NATS
        >>> supernet = NATS.supernet(channels=4, cells=1)
        >>> supernet(torch.randn(2, 3, 8, 8)).shape, supernet.mixing()["cell"].shape
        (torch.Size([2, 10]), torch.Size([6, 5]))
    """

    def __init__(self, space: Space, plan: Plan, mixing: str, partial: int) -> None:
        if mixing not in MIXINGS:
            raise RamifyError(f"mixing={mixing!r} is unknown: give one of {', '.join(MIXINGS)}.")
        if partial < 1:
            raise RamifyError(f"partial is {partial}: give 1 (all channels) or more.")
        super().__init__(
            space.stacked(plan), space.inputs, lambda cell: MixedCell(space, cell, partial)
        )
        self.space, self.plan, self.partial = space, plan, partial
        self._mixing = mixing
        shape = len(space.edges), len(space.operations)
        for kind in space.kinds:
            self.register_parameter(f"alpha_{kind}", nn.Parameter(1e-3 * torch.randn(shape)))

    @property
    def alphas(self) -> dict[str, nn.Parameter]:
        """The mixing logits of each kind of cell, (E, O)."""
        return {kind: self.get_parameter(f"alpha_{kind}") for kind in self.space.kinds}

    def arch_parameters(self) -> list[nn.Parameter]:
        """The mixing logits, one (E, O) for each kind of cell."""
        return list(self.alphas.values())

    def mixing(self) -> dict[str, Tensor]:
        """The mixing weights of each kind of cell, (E, O): softmax of each row, (3.6)."""
        squash = torch.sigmoid if self._mixing == "sigmoid" else lambda a: torch.softmax(a, dim=-1)
        return {kind: squash(alpha) for kind, alpha in self.alphas.items()}

    def forward(self, x: Tensor, mixing: Mapping[str, Tensor] | None = None) -> Tensor:
        """Logits.

        Args:
            x: images (N, in_channels, H, W).
            mixing: weights to use instead of those from the logits, (E, O) for each kind;
                operations with weight zero are not evaluated and get no gradient.

        Returns:
            (N, classes).
        """
        weights = self.mixing() if mixing is None else mixing
        used = {
            kind: torch.ones_like(weight, dtype=torch.bool).tolist()
            if mixing is None
            else (weight != 0).tolist()
            for kind, weight in weights.items()
        }
        if x.device.type == "cpu":  # the faster layout there, above all for depthwise convolutions
            x = x.contiguous(memory_format=torch.channels_last)

        def run(cell: nn.Module, states: list[Tensor]) -> Tensor:
            kind: str = cell.kind  # type: ignore[assignment]
            return cell(states, weights[kind], used[kind])

        return self.head(self.last_output(x, run))
