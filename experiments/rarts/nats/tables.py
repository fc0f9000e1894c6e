"""All NATS-Bench measurements of a cell: single seeds, 12 epochs, latencies on 27 devices.

`ramify.cells.NatsTables` has the means after 200 epochs; this module reads the parquet files,
which need pyarrow (`pip install "ramify[experiments]"`).

Source: X. Dong and others, "NATS-Bench: Benchmarking NAS algorithms for architecture topology and
size", 2021; latencies by H. Lee and others, "HELP: Hardware-adaptive efficient latency prediction
for NAS via meta-learning", 2021.

Shape letters: `A` architectures.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ramify.cells import Genotype, NatsTables
from ramify.errors import RamifyError
from ramify.imports import require

Column = NDArray[np.float64]


class FullTables(NatsTables):
    """Look-ups by architecture; `nb201.parquet` and `nb201_latency_help.parquet` in the folder."""

    def trained(
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
            RamifyError: The tables have no such number; the message says which they have.
        """
        name = f"{dataset}_{split}" + (f"_seed{seed}" if seed is not None else "")
        row = self.index(genotype)
        value = float(self.column(name + (f"_{epochs}ep" if epochs != 200 else ""))[row])
        if np.isnan(value):
            raise RamifyError(
                f"architecture {row} was not trained with seed {seed} on {dataset}: give another "
                "seed, or None for the mean over those that there are."
            )
        return value

    @cached_property
    def devices(self) -> tuple[str, ...]:
        """The devices with measured latencies; a number at the end is the batch size."""
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

    def column(self, name: str) -> Column:
        """Values of all architectures, (A,), from the small table or else from the large one."""
        if name in self._core:
            return super().column(name)
        if name not in self._full:
            raise RamifyError(
                f"the tables have no column {name}: {', '.join(self._full)} are there."
            )
        return self._full[name]

    @cached_property
    def _full(self) -> dict[str, Column]:
        return self._read_parquet("nb201.parquet")

    @cached_property
    def _latency(self) -> dict[str, Column]:
        return self._read_parquet("nb201_latency_help.parquet")

    def _read_parquet(self, name: str) -> dict[str, Column]:
        path = self.folder / name
        if not path.is_file():
            raise RamifyError(
                f"{path} is missing, which holds what was asked for: set RAMIFY_DATA to a folder "
                "that holds nb201/ with it, or give that folder itself."
            )
        require("pyarrow", "experiments", f"{path} is read by")
        from pyarrow import ArrowException, parquet

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
