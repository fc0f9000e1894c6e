"""What NATS-Bench measured for each of its 15,625 cells, from small tables of its numbers.

Source: X. Dong and others, "NATS-Bench: Benchmarking NAS algorithms for architecture topology and
size", 2021; latencies by H. Lee and others, "HELP: Hardware-adaptive efficient latency prediction
for NAS via meta-learning", 2021.

Shape letters: `A` architectures.
"""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ramify.cells.genotype import Genotype
from ramify.cells.nats import NATS
from ramify.errors import RamifyError

DATASETS = ("cifar10", "cifar100", "imagenet16")
_CORE, _FULL, _LATENCY = "nb201_core.npz", "nb201.parquet", "nb201_latency_help.parquet"
_GET = "set RAMIFY_DATA to a folder that holds nb201/ with it, or give that folder itself"

Column = NDArray[np.float64]


class NatsTables:
    """Look-ups by architecture; the 1 GB of the original is never needed.

    Args:
        folder: where the tables lie; by default `nb201` in the folder that the environment variable
            RAMIFY_DATA names. `nb201_core.npz` is enough for accuracies after 200 epochs,
            parameters and multiply-accumulates; `nb201.parquet` has single seeds and 12 epochs,
            `nb201_latency_help.parquet` the latencies. Parquet needs `ramify[tables]`.

    Raises:
        RamifyError: The folder or its core table is missing or damaged.
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
        """The architecture of a number.

        Args:
            index: from 0 to 15,624.

        Returns:
            The architecture.

        Raises:
            RamifyError: There is none of this number.
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
        self,
        genotype: Genotype | str,
        dataset: str = "cifar10",
        split: str = "test",
        *,
        epochs: int = 200,
        seed: int | None = None,
    ) -> float:
        """Accuracy of a trained network, in %.

        Args:
            genotype: the architecture, or its text.
            dataset: `cifar10`, `cifar100` or `imagenet16` (ImageNet16-120).
            split: `test`, `valid`, or `valtest`, which is both together (not for CIFAR-10).
            epochs: 200 or 12.
            seed: 777, 888 or 999, known for 200 epochs on CIFAR-10's `valid` and the others'
                `valtest`; None is the mean over the benchmark's seeds of the architecture.

        Returns:
            The accuracy.

        Raises:
            RamifyError: The table has no such number; the sentence says which it has.
        """
        row = self.index(genotype)
        value = float(self._accuracies(dataset, split, epochs, seed)[row])
        if np.isnan(value):
            raise RamifyError(
                f"architecture {row} was not trained with seed {seed} on {dataset}: give another "
                "seed, or None for the mean over those that there are."
            )
        return value

    def percentile(
        self, genotype: Genotype | str, dataset: str = "cifar10", split: str = "test"
    ) -> float:
        """The part of all architectures, in %, that are worse after 200 epochs."""
        values = self._accuracies(dataset, split, 200, None)
        return 100 * float((values < values[self.index(genotype)]).mean())

    def params(self, genotype: Genotype | str, dataset: str = "cifar10") -> int:
        """Parameters, counted from the structure."""
        return int(self._column(f"params_{dataset}")[self.index(genotype)])

    def macs(self, genotype: Genotype | str, dataset: str = "cifar10") -> float:
        """Multiply-accumulates of one image, which the benchmark calls FLOPs."""
        return float(1e6 * self._column(f"mflops_{dataset}")[self.index(genotype)])

    @cached_property
    def devices(self) -> tuple[str, ...]:
        """What latencies were measured on; a number at the end is the batch size."""
        start = "lat_ms_"
        return tuple(name.removeprefix(start) for name in self._latency if name.startswith(start))

    def latency(self, genotype: Genotype | str, device: str) -> float:
        """Milliseconds of a forward on one of `devices`.

        Args:
            genotype: the architecture, or its text.
            device: one of `devices`.

        Returns:
            The measured latency.

        Raises:
            RamifyError: The device is unknown, or the table is missing.
        """
        if device not in self.devices:
            raise RamifyError(
                f"no latencies were measured on {device!r}: give one of {', '.join(self.devices)}."
            )
        return float(self._latency[f"lat_ms_{device}"][self.index(genotype)])

    def _accuracies(self, dataset: str, split: str, epochs: int, seed: int | None) -> Column:
        """(A,) accuracies."""
        if dataset not in DATASETS:
            raise RamifyError(f"there is no data set {dataset!r}: give {', '.join(DATASETS)}.")
        name = f"{dataset}_{split}" + (f"_seed{seed}" if seed is not None else "")
        return self._column(name + (f"_{epochs}ep" if epochs != 200 else ""))

    def _column(self, name: str) -> Column:
        short = name.removesuffix("_cifar10")
        for known in (name, short):
            if known in self._core:
                return self._core[known].astype(np.float64)
        if name not in self._full:
            raise RamifyError(
                f"the tables have no column {name}: {', '.join(self._full)} are there."
            )
        return self._full[name]

    @cached_property
    def _full(self) -> dict[str, Column]:
        return self._read_parquet(_FULL)

    @cached_property
    def _latency(self) -> dict[str, Column]:
        return self._read_parquet(_LATENCY)

    def _read_core(self) -> dict[str, NDArray[Any]]:
        path = self.folder / _CORE
        if not path.is_file():
            raise RamifyError(f"{path} is missing, the tables of NATS-Bench: {_GET}.")
        try:
            with np.load(path, allow_pickle=False) as file:
                return {"ops": file["ops"], "op_names": file["op_names"], **file}
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise RamifyError(f"{path} cannot be read ({error!r}): get it again.") from error

    def _read_parquet(self, name: str) -> dict[str, Column]:
        path = self.folder / name
        if not path.is_file():
            raise RamifyError(f"{path} is missing, which holds what was asked for: {_GET}.")
        try:
            from pyarrow import ArrowException, parquet
        except ModuleNotFoundError as error:
            raise RamifyError(
                f'{path} is read by pyarrow, which is not installed: pip install "ramify[tables]".'
            ) from error
        try:
            table = parquet.read_table(path)
        except (OSError, ArrowException) as error:
            raise RamifyError(f"{path} cannot be read ({error!r}): get it again.") from error
        if table.num_rows != 5**6:
            raise RamifyError(f"{path} has {table.num_rows} rows, not 15625: get it again.")
        return {
            column: table[column].to_numpy().astype(np.float64)
            for column in table.column_names
            if column not in ("arch", "index")
        }


def _folder() -> Path:
    root = os.environ.get("RAMIFY_DATA")
    if not root:
        raise RamifyError(
            f"the tables of NATS-Bench are looked for in RAMIFY_DATA, which is not set: {_GET}."
        )
    return Path(root).expanduser() / "nb201"
