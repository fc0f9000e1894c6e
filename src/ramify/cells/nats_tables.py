"""The NATS-Bench results for each of its 15,625 cells, from a small table.

Source: X. Dong and others, "NATS-Bench: Benchmarking NAS algorithms for architecture topology and
size", 2021.

Shape letters: `A` architectures.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ramify.cells.genotype import Genotype
from ramify.cells.nats_space import NATS
from ramify.errors import RamifyError

DATASETS = ("cifar10", "cifar100", "imagenet16")
_CORE = "nb201_core.npz"
_GET = "set RAMIFY_DATA to a folder that holds nb201/ with it, or give that folder itself"

Column = NDArray[np.float64]


class NatsTables:
    """Look-ups by architecture, without the original file of 1 GB.

    Args:
        folder: the folder with `nb201_core.npz`, which holds accuracies after 200 epochs,
            parameters and MACs; by default `nb201` in the folder that the environment variable
            RAMIFY_DATA names.

    Raises:
        RamifyError: The folder or its core table is missing or damaged.

    Example:
        >>> tables = NatsTables()  # doctest: +SKIP
        >>> tables.accuracy(tables.genotype(0)), tables.params(tables.genotype(0))  # doctest: +SKIP
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = _folder() if folder is None else Path(folder)
        self._core = self._read_core()
        codes = self._core["ops"].astype(np.int64) @ 5 ** np.arange(6)
        self._rows = np.full(5**6, -1)
        self._rows[codes] = np.arange(len(codes))
        if (self._rows < 0).any():
            raise RamifyError(
                f"{self.folder / _CORE} does not have each of the 15625 architectures once: get "
                "it again."
            )

    def index(self, genotype: Genotype | str) -> int:
        """The number of an architecture in the benchmark."""
        known = NATS.parse(genotype) if isinstance(genotype, str) else NATS.check(genotype)
        chosen = {
            (source, target): name
            for target, edges in enumerate(known["cell"], start=1)
            for name, source in edges
        }
        if set(chosen) != set(NATS.edges):
            raise RamifyError(
                f"{known.text} does not have each of the 6 edges once: give a cell of the space."
            )
        names = [str(name) for name in self._core["op_names"]]
        code = sum(names.index(chosen[edge]) * 5**k for k, edge in enumerate(NATS.edges))
        return int(self._rows[code])

    def genotype(self, index: int) -> Genotype:
        """The architecture with this number.

        Args:
            index: from 0 to 15,624.

        Returns:
            The architecture.

        Raises:
            RamifyError: There is no such number.
        """
        if not 0 <= index < len(self._core["ops"]):
            raise RamifyError(
                f"there is no architecture {index}: give 0 to {len(self._core['ops']) - 1}."
            )
        names = iter(self._core["op_names"][self._core["ops"][index]])
        states: list[list[tuple[str, int]]] = [[] for _ in range(NATS.states)]
        for source, target in NATS.edges:
            states[target - 1].append((str(next(names)), source))
        return Genotype("NATS", 1, (("cell", tuple(map(tuple, states))),))

    def accuracy(
        self, genotype: Genotype | str, dataset: str = "cifar10", split: str = "test"
    ) -> float:
        """Accuracy of a network trained for 200 epochs, in %, averaged over the benchmark's seeds.

        Args:
            genotype: the architecture, or its text.
            dataset: `cifar10`, `cifar100` or `imagenet16` (ImageNet16-120).
            split: `test` or `valid`.

        Returns:
            The accuracy.

        Raises:
            RamifyError: The table has no such column; the message lists its columns.
        """
        return float(self.accuracies(dataset, split)[self.index(genotype)])

    def percentile(
        self, genotype: Genotype | str, dataset: str = "cifar10", split: str = "test"
    ) -> float:
        """The share of all architectures, in %, that are worse after 200 epochs."""
        values = self.accuracies(dataset, split)
        return 100 * float((values < values[self.index(genotype)]).mean())

    def params(self, genotype: Genotype | str) -> int:
        """Parameters of the network for CIFAR-10, counted from the structure."""
        return int(self.column("params")[self.index(genotype)])

    def macs(self, genotype: Genotype | str) -> float:
        """MACs for one image of CIFAR-10, which the benchmark calls FLOPs."""
        return float(1e6 * self.column("mflops")[self.index(genotype)])

    def accuracies(self, dataset: str, split: str) -> Column:
        """(A,) accuracies of all architectures, in the order of their numbers."""
        if dataset not in DATASETS:
            raise RamifyError(f"there is no data set {dataset!r}: give {', '.join(DATASETS)}.")
        return self.column(f"{dataset}_{split}")

    def column(self, name: str) -> Column:
        """(A,) values of one column for all architectures."""
        if name not in self._core:
            raise RamifyError(f"the table has no column {name}: {', '.join(self._core)} are there.")
        return self._core[name].astype(np.float64)

    def _read_core(self) -> dict[str, NDArray[Any]]:
        path = self.folder / _CORE
        if not path.is_file():
            raise RamifyError(f"{path} is missing, the tables of NATS-Bench: {_GET}.")
        try:
            with np.load(path, allow_pickle=False) as file:
                return {"ops": file["ops"], "op_names": file["op_names"], **file}
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise RamifyError(f"{path} cannot be read ({error!r}): get it again.") from error


def _folder() -> Path:
    root = os.environ.get("RAMIFY_DATA")
    if not root:
        raise RamifyError(
            f"the tables of NATS-Bench are looked for in RAMIFY_DATA, which is not set: {_GET}."
        )
    return Path(root).expanduser() / "nb201"
