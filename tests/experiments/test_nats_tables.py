"""The full tables of NATS-Bench: seeds, epochs and latencies, in files of their form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ramify
from experiments.rarts.nats.tables import FullTables
from tests.cells.spaces import COUNT, nats_strings, write_nats_table


@pytest.fixture
def folder(tmp_path):
    return write_nats_table(tmp_path)


def write_parquet(path: Path, columns: dict[str, np.ndarray]) -> None:
    pyarrow = pytest.importorskip(
        "pyarrow", reason="needs the extra: pip install 'ramify[experiments]'"
    )
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table(columns), path)


def test_seeds_epochs_and_latencies(folder):
    tables = FullTables(folder)
    text = tables.genotype(5).text
    seeds = np.arange(COUNT) / 100
    seeds[5] = np.nan
    columns = {
        "index": np.arange(COUNT),
        "cifar10_valid_seed777": np.arange(COUNT) / 100,
        "cifar10_valid_seed999": seeds,
        "cifar10_test_12ep": np.arange(COUNT) / 200,
        "params_cifar100": np.arange(COUNT) + 9,
    }
    write_parquet(folder / "nb201.parquet", columns)
    assert tables.trained(text, split="valid", seed=777) == 0.05
    assert tables.trained(text, epochs=12) == 0.025
    assert tables.column("params_cifar100")[5] == 14
    with pytest.raises(ramify.RamifyError, match="not trained with seed 999 on cifar10"):
        tables.trained(text, split="valid", seed=999)
    with pytest.raises(ramify.RamifyError, match="no column cifar10_test_seed777"):
        tables.trained(text, seed=777)
    write_parquet(folder / "nb201_latency_help.parquet", {"lat_ms_fpga": np.arange(COUNT) / 10})
    assert tables.devices == ("fpga",)
    assert tables.latency(text, "fpga") == 0.5
    with pytest.raises(ramify.RamifyError, match="no latencies were measured on 'abacus'"):
        tables.latency(text, "abacus")


def test_what_is_missing_is_said(folder):
    text = nats_strings(1)[0]
    with pytest.raises(ramify.RamifyError, match="nb201.parquet is missing, which holds"):
        FullTables(folder).accuracy(text, "cifar100")
    (folder / "nb201.parquet").write_bytes(b"torn")
    pytest.importorskip("pyarrow")
    with pytest.raises(ramify.RamifyError, match="nb201.parquet cannot be read"):
        FullTables(folder).accuracy(text, "cifar100")
    write_parquet(folder / "nb201.parquet", {"cifar100_test": np.zeros(3)})
    with pytest.raises(ramify.RamifyError, match="has 3 rows, not 15625"):
        FullTables(folder).accuracy(text, "cifar100")
