"""A space of cells: operations on the edges of a small graph, and a rule that stacks such cells.

A cell has some input states followed by some intermediate states. An edge leads from every state to
every later intermediate state, and on each edge one operation is chosen; a state is the sum of the
outputs of its edges (RARTS thesis, (3.4)). States are numbered starting with the inputs.

Shape letters: `E` edges of a cell, `O` operations.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn

from ramify.cells.derive import derive
from ramify.cells.genotype import Genotype, States
from ramify.cells.networks import Network
from ramify.cells.stacking import CellPlan, Parts, Plan
from ramify.cells.supernet import Supernet
from ramify.errors import RamifyError

Build = Callable[[int, int, bool], nn.Module]
"""`build(channels, stride, searching)`: an operation that keeps the number of channels.

It must not overwrite its input (no `inplace=True` in its first layer), since other edges read it
too. In a supernet (`searching`) norms have no weights, since the mixing weights set the scale.
"""


@dataclass(frozen=True)
class Space:
    """A search space; calling it with some of these arguments gives a variant.

    Attributes:
        name: its name in genotypes.
        operations: a builder for each, in the order of the mixing logits.
        stack: the stacking rule.
        kinds: the kinds of cells, each with its own logits.
        inputs: number of input states of a cell.
        states: number of intermediate states of a cell.
        keep: number of edges that derivation keeps for each state, the strongest; None for all.
        never: operations that derivation does not choose.
        concat: whether a cell's output concatenates all intermediate states or is the last one.

    Example:
        >>> from ramify.cells import DARTS
        >>> len(DARTS.edges), DARTS(states=3).edges[-1]
        (14, (3, 4))
    """

    name: str
    operations: Mapping[str, Build]
    stack: Callable[[Plan], Parts]
    kinds: tuple[str, ...] = ("cell",)
    inputs: int = 1
    states: int = 3
    keep: int | None = None
    never: tuple[str, ...] = ()
    concat: bool = False

    def __post_init__(self) -> None:
        # Check the counts, the names (used in texts and modules), and that derivation has a choice.
        for name in ("inputs", "states", "keep"):
            count = getattr(self, name)
            if count is not None and count < 1:
                raise RamifyError(f"space {self.name} has {name}={count}: give 1 or more.")
        if not self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise RamifyError(
                f"space {self.name} has kinds {self.kinds}: name each kind of cell, once."
            )
        for name in (*self.operations, *self.kinds):
            # They appear in texts and in names of modules.
            if not re.fullmatch(r"\w+", name) or hasattr(nn.ModuleDict, name):
                raise RamifyError(
                    f"space {self.name} has {name!r}, which cannot be the name of an operation or "
                    "a kind: give one of letters, digits and underscores that no module has."
                )
        unknown = [name for name in self.never if name not in self.operations]
        if unknown:
            raise RamifyError(
                f"space {self.name} never derives {', '.join(unknown)}, which is none of its "
                f"operations ({', '.join(self.operations)}): correct the name."
            )
        if len(self.never) == len(self.operations):
            raise RamifyError(f"space {self.name} has no operation that can be derived: add one.")

    def __call__(self, **changes: Any) -> Space:
        """The space with some attributes replaced."""
        return dataclasses.replace(self, **changes)

    @cached_property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """(source, target) of every edge: the rows of the mixing logits."""
        targets = range(self.inputs, self.inputs + self.states)
        return tuple((source, target) for target in targets for source in range(target))

    def stacked(self, plan: Plan) -> Parts:
        """The result of the stacking rule, with its cells checked against the space.

        Args:
            plan: the argument of the rule.

        Returns:
            The parts.

        Raises:
            RamifyError: A cell has an unknown kind, or does not prepare each of its inputs.
        """
        parts = self.stack(plan)
        for cell in parts.layers:
            if not isinstance(cell, CellPlan):
                continue
            if cell.kind not in self.kinds:
                raise RamifyError(
                    f"the stacking rule of space {self.name} returned a cell of kind "
                    f"{cell.kind!r}, and its kinds are {', '.join(self.kinds)}: correct one of "
                    "them."
                )
            if len(cell.prepare) != self.inputs:
                raise RamifyError(
                    f"the stacking rule of space {self.name} gave a {cell.kind} cell "
                    f"{len(cell.prepare)} modules in prepare, and cells have {self.inputs} "
                    "input states: give one for each."
                )
        return parts

    @property
    def multiplier(self) -> int:
        """The ratio of the channels of a cell's output to those of its states."""
        return self.states if self.concat else 1

    def supernet(
        self,
        *,
        channels: int,
        cells: int,
        classes: int = 10,
        in_channels: int = 3,
        mixing: str = "softmax",
        partial: int = 1,
    ) -> Supernet:
        """The network in which every edge is a mixture of all operations.

        Args:
            channels: channels of the first cells.
            cells: the depth, in the unit that the space's stacking rule defines.
            classes: number of classes.
            in_channels: channels of the images.
            mixing: how logits become mixing weights, `softmax` ((3.6) of the thesis) or `sigmoid`
                (FairDARTS, Chu and others, 2020: operations do not compete).
            partial: the candidates of each edge read one in ``partial`` channels, and the others
                bypass them (PC-DARTS, Xu and others, 2020: less time and memory).

        Returns:
            The supernet, with newly initialised weights.

        Raises:
            RamifyError: A number is not positive, `partial` does not divide the channels, or the
                mixing is unknown.

        Example:
            >>> from ramify.cells import NATS
            >>> net = NATS.supernet(channels=4, cells=1)
            >>> [tuple(alpha.shape) for alpha in net.arch_parameters()]
            [(6, 5)]
        """
        plan = Plan(channels, cells, classes, in_channels, self.multiplier, searching=True)
        return Supernet(self, plan, mixing, partial)

    def derive(self, supernet: Supernet) -> Genotype:
        """The architecture with the largest mixing weights in a supernet (RARTS thesis, §3.1.3).

        Each edge gets the operation with the largest mixing weight, except those in `never`; each
        state keeps the `keep` edges for which that weight is largest, the strongest first. Ties go
        to the first operation and the earliest source.

        Args:
            supernet: a supernet of this space.

        Returns:
            The genotype.

        Raises:
            RamifyError: The supernet is of another space, or a logit is not finite.
        """
        return derive(self, supernet)

    def network(
        self,
        genotype: Genotype | str,
        *,
        channels: int,
        cells: int,
        classes: int = 10,
        in_channels: int = 3,
        auxiliary: bool = False,
        drop_path: float = 0.0,
    ) -> Network:
        """The network of a genotype, to be trained from scratch.

        Args:
            genotype: the genotype, or its text.
            channels: channels of the first cells.
            cells: the depth, in the unit that the space's stacking rule defines.
            classes: number of classes.
            in_channels: channels of the images.
            auxiliary: whether to add an auxiliary head, for `Network.forward_with_auxiliary`.
            drop_path: the initial probability of dropping an edge for a sample in training;
                `network.drop_path.rate` may be changed at any time.

        Returns:
            The network, with newly initialised weights.

        Raises:
            RamifyError: The genotype does not fit the space, a number is out of its range, or the
                space has no auxiliary head.

        Example:
            >>> from ramify.cells import NATS
            >>> text = "|skip_connect~0|+|none~0|none~1|+|none~0|none~1|nor_conv_3x3~2|"
            >>> net = NATS.network(text, channels=16, cells=5)
            >>> sum(parameter.numel() for parameter in net.parameters())
            316346
        """
        known = self.parse(genotype) if isinstance(genotype, str) else genotype
        plan = Plan(channels, cells, classes, in_channels, self.multiplier, auxiliary=auxiliary)
        return Network(self, self.check(known), plan, drop_path)

    def parse(self, text: str) -> Genotype:
        """Read the text of a genotype of this space (`Genotype.parse` reads the built-in spaces).

        Args:
            text: the genotype's text.

        Returns:
            The genotype.

        Raises:
            RamifyError: The text has no known form, or does not fit the space.
        """
        cells = Genotype.parse(text).cells
        if len(cells) == len(self.kinds) == 1:  # the text of a single kind does not name it
            cells = ((self.kinds[0], cells[0][1]),)
        return self.check(Genotype(self.name, self.inputs, cells))

    def check(self, genotype: Genotype) -> Genotype:
        """Check that this space can build a genotype, and return it.

        Args:
            genotype: the genotype to check.

        Returns:
            The same genotype.

        Raises:
            RamifyError: A kind, a state, a source or an operation does not belong to this space.
        """
        kinds = tuple(kind for kind, _ in genotype.cells)
        if kinds != self.kinds:
            raise RamifyError(
                f"the genotype has cells {', '.join(kinds)}, space {self.name} has "
                f"{', '.join(self.kinds)}: give a genotype of this space."
            )
        for kind, states in genotype.cells:
            self._check_cell(kind, states)
        return genotype

    def _check_cell(self, kind: str, states: States) -> None:
        if len(states) != self.states:
            raise RamifyError(
                f"the {kind} cell of the genotype has {len(states)} states, those of space "
                f"{self.name} have {self.states}: give a genotype of this space."
            )
        for number, edges in enumerate(states, start=self.inputs):
            for operation, source in edges:
                if operation not in self.operations:
                    raise RamifyError(
                        f"operation {operation} of the {kind} cell is none of space {self.name} "
                        f"({', '.join(self.operations)}): correct it, or add it to the space."
                    )
                if not 0 <= source < number:
                    raise RamifyError(
                        f"state {number} of the {kind} cell reads state {source}: a state reads "
                        f"earlier ones, 0 to {number - 1}."
                    )
            if not edges:
                raise RamifyError(
                    f"state {number} of the {kind} cell reads nothing: give it an edge."
                )
