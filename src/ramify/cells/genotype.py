"""Genotypes: the operations on the edges of each kind of cell, as data, JSON and text.

Two text forms are established: DARTS writes `Genotype(normal=[('sep_conv_3x3', 0), ...],
normal_concat=range(2, 6), ...)` with two edges for each state, and NATS-Bench writes a cell as
`|op~0|+|op~0|op~1|+|op~0|op~1|op~2|`, with plus signs between the states.
"""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from ramify.errors import RamifyError

States = tuple[tuple[tuple[str, int], ...], ...]
"""For each intermediate state in turn, the (operation, source) of each of its edges."""

MOST_STATES = 1000  # per cell; more are taken for a mistake
_DAMAGE = (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError)
_FORMS = "Genotype(normal=[('op', 0), ...], normal_concat=range(2, 6), ...) or |op~0|+|op~0|op~1|"


@dataclass(frozen=True)
class Genotype:
    """An architecture: the edges of each kind of cell.

    Attributes:
        space: name of the space.
        inputs: number of input states of a cell; they have the first numbers.
        cells: (kind, states) of every kind of cell.

    Example:
        >>> genotype = Genotype.parse("|none~0|+|skip_connect~0|nor_conv_1x1~1|")
        >>> genotype.share("skip_connect"), genotype["cell"][0]
        (0.3333333333333333, (('none', 0),))
        >>> Genotype.from_json(genotype.to_json()) == genotype
        True
    """

    space: str
    inputs: int
    cells: tuple[tuple[str, States], ...]

    def __getitem__(self, kind: str) -> States:
        """The states of a kind of cell."""
        return dict(self.cells)[kind]

    @property
    def operations(self) -> tuple[str, ...]:
        """The operation of every edge, one kind after another."""
        return tuple(name for _, states in self.cells for edges in states for name, _ in edges)

    def share(self, operation: str) -> float:
        """The share of all edges with this operation; for `skip_connect`, the skip ratio."""
        return Counter(self.operations)[operation] / len(self.operations)

    @property
    def text(self) -> str:
        """The established text form: that of NATS-Bench for one kind of cell, else that of DARTS.

        If there are several kinds of cells but not two inputs and two edges for each state, the
        text has each cell in the form of NATS-Bench, with `kind=` before it and `; ` between.
        """
        if len(self.cells) == 1:
            return _arch(self.cells[0][1])
        counts = {len(edges) for _, states in self.cells for edges in states}
        if self.inputs != 2 or counts != {2}:
            return "; ".join(f"{kind}={_arch(states)}" for kind, states in self.cells)
        parts = []
        for kind, states in self.cells:
            parts.append(f"{kind}={[edge for edges in states for edge in edges]}")
            parts.append(f"{kind}_concat=range(2, {2 + len(states)})")
        return f"Genotype({', '.join(parts)})"

    @classmethod
    def parse(cls, text: str) -> Genotype:
        """Read the text of DARTS (space `DARTS`), or of NATS-Bench (space `NATS`).

        No code in the text is run. For other spaces use `Space.parse`.

        Args:
            text: the genotype's text.

        Returns:
            The genotype.

        Raises:
            RamifyError: The text has neither form.
        """
        text = text.strip()
        if text.startswith("Genotype("):
            return cls("DARTS", 2, _parse_call(text))
        parts = [part.strip().rpartition("=") for part in text.split(";")]
        cells = tuple((kind or "cell", _parse_arch(arch)) for kind, _, arch in parts)
        return cls("NATS", 1, cells)

    def to_json(self) -> str:
        """The genotype as JSON, which `from_json` reads."""
        value = {"space": self.space, "inputs": self.inputs, "cells": dict(self.cells)}
        return json.dumps(value)

    @classmethod
    def from_json(cls, text: str) -> Genotype:
        """Read the output of `to_json`.

        Args:
            text: JSON.

        Returns:
            The genotype.

        Raises:
            RamifyError: It is not the JSON of a genotype.
        """
        try:
            value = json.loads(text)
            cells = tuple((kind, _states(states)) for kind, states in value["cells"].items())
            inputs = int(value["inputs"])
            _check_order(cells, inputs)
            return cls(str(value["space"]), inputs, cells)
        except _DAMAGE as error:
            raise RamifyError(
                f"this is not the JSON of a genotype ({str(error)[:200] or type(error).__name__}): "
                "give what to_json wrote."
            ) from error


def _states(value: Any) -> States:
    return tuple(tuple((str(name), int(source)) for name, source in edges) for edges in value)


def _check_order(cells: tuple[tuple[str, States], ...], inputs: int) -> None:
    """Check that every state reads only earlier states."""
    for _, states in cells:
        for number, edges in enumerate(states):
            if any(not 0 <= source < inputs + number for _, source in edges):
                raise ValueError(f"state {number} reads one that does not stand before it")


def _arch(states: States) -> str:
    """The form of NATS-Bench."""
    return "+".join(
        "|" + "".join(f"{operation}~{source}|" for operation, source in edges) for edges in states
    )


def _parse_arch(text: str) -> States:
    state = r"\|(?:[^|~+]+~\d{1,9}\|)+"
    if not re.fullmatch(rf"{state}(?:\+{state})*", text):
        raise RamifyError(f"{text[:300]!r} is not the text of a genotype: give {_FORMS}.")
    return tuple(
        tuple((name, int(source)) for name, source in re.findall(r"([^|~+]+)~(\d{1,9})", part))
        for part in text.split("+")
    )


def _parse_call(text: str) -> tuple[tuple[str, States], ...]:
    try:
        call = ast.parse(text, mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            raise ValueError("arguments need names")
        values = {keyword.arg or "": _literal(keyword.value) for keyword in call.keywords}
        kinds = [name for name in values if not name.endswith("_concat")]
        return tuple((kind, _pairs(values[kind], values[f"{kind}_concat"])) for kind in kinds)
    except (SyntaxError, MemoryError, *_DAMAGE) as error:  # a parser that ran out of stack
        raise RamifyError(
            f"{text[:300]!r} is not the text of a genotype ({str(error)[:200]}): give {_FORMS}."
        ) from error


def _literal(node: ast.expr) -> Any:
    """A literal, or the `range(a, b)` that DARTS writes."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range":
        found = range(*(ast.literal_eval(argument) for argument in node.args))
        if len(found) > MOST_STATES:
            raise ValueError(f"{found} has more states than a cell")
        return list(found)
    return ast.literal_eval(node)


def _pairs(edges: list[tuple[str, int]], concat: list[int]) -> States:
    """Split edges into states of two edges each; all states are concatenated."""
    if list(concat) != list(range(2, 2 + len(edges) // 2)) or len(edges) % 2:
        raise ValueError(
            f"{len(edges)} edges are two for each state, and the output is states 2 to "
            f"{1 + len(edges) // 2}, not {list(concat)}"
        )
    return _states([edges[i : i + 2] for i in range(0, len(edges), 2)])
