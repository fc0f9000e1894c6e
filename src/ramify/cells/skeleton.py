"""The base of supernets and derived networks: stems, layers that read states, a head."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from torch import Tensor, nn

from ramify.cells.stacking import CellPlan, Parts


class Skeleton(nn.Module):
    """The stack of a plan, with cells of any kind of module.

    Args:
        parts: the result of the stacking rule.
        inputs: number of input states of a cell.
        cell: builds a cell's module from its plan.
    """

    def __init__(self, parts: Parts, inputs: int, cell: Callable[[CellPlan], nn.Module]) -> None:
        super().__init__()
        self.inputs = inputs
        self.stems = nn.ModuleList(parts.stems)
        self.plans = {
            number: replace(part, prepare=())  # the cell holds these modules
            for number, part in enumerate(parts.layers)
            if isinstance(part, CellPlan)
        }
        self.layers = nn.ModuleList(
            cell(part) if isinstance(part, CellPlan) else part for part in parts.layers
        )
        self.head = parts.head

    def outputs(
        self, x: Tensor, run: Callable[[nn.Module, list[Tensor]], Tensor]
    ) -> Iterator[Tensor]:
        """The output of each layer in turn; `run` calls a cell with its input states.

        Yields:
            A tensor (N, C, H, W) for each of `layers`.
        """
        states = []
        for stem in self.stems:
            x = stem(x)
            states.append(x)
        states = [states[0]] * (self.inputs - len(states)) + states
        for number, layer in enumerate(self.layers):
            states = states[-self.inputs :]
            states.append(run(layer, states) if number in self.plans else layer(states[-1]))
            yield states[-1]

    def last_output(self, x: Tensor, run: Callable[[nn.Module, list[Tensor]], Tensor]) -> Tensor:
        """The output of the last layer; other outputs are freed once no layer needs them."""
        for y in self.outputs(x, run):
            last = y
        return last

    def cells(self) -> Iterator[tuple[CellPlan, nn.Module]]:
        """Every cell, with its plan."""
        for number, plan in self.plans.items():
            yield plan, self.layers[number]
