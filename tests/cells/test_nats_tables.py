"""Look-ups in tables of the benchmark's form; the published ones too, where they are at hand."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import ramify
from ramify.cells import NATS, Genotype, NatsTables
from tests.cells.spaces import COUNT, NAMES, nats_strings, write_nats_table

PUBLISHED = Path(os.environ.get("RAMIFY_DATA") or "none") / "nb201"
needs_tables = pytest.mark.skipif(
    not (PUBLISHED / "nb201_core.npz").is_file(), reason="RAMIFY_DATA has no nb201"
)


@pytest.fixture
def folder(tmp_path):
    return write_nats_table(tmp_path)


def test_every_architecture_is_found(folder):
    tables = NatsTables(folder)
    with np.load(folder / "nb201_core.npz") as core:
        for index in (0, 1, 777, COUNT - 1):
            # Slowly: the operations of edges 0-1, 0-2, 1-2, 0-3, 1-3, 2-3, written out.
            a, b, c, d, e, f = NAMES[core["ops"][index]]
            text = f"|{a}~0|+|{b}~0|{c}~1|+|{d}~0|{e}~1|{f}~2|"
            assert tables.index(text) == tables.index(Genotype.parse(text)) == index
            assert tables.genotype(index).text == text
            assert tables.accuracy(text) == index
            assert tables.params(text) == index + 7
            assert tables.macs(text) == index / 8 * 1e6
            assert tables.percentile(text) == pytest.approx(100 * index / COUNT)
    assert len({tables.index(text) for text in set(nats_strings(200))}) == len(
        set(nats_strings(200))
    )


def test_the_order_of_edges_does_not_matter(folder):
    tables = NatsTables(folder)
    text = "|none~0|+|skip_connect~0|none~1|+|nor_conv_1x1~0|nor_conv_3x3~1|avg_pool_3x3~2|"
    other = "|none~0|+|none~1|skip_connect~0|+|avg_pool_3x3~2|nor_conv_1x1~0|nor_conv_3x3~1|"
    assert tables.index(text) == tables.index(other)
    with pytest.raises(ramify.RamifyError, match="each of the 6 edges once"):
        tables.index("|none~0|+|none~0|none~0|+|none~0|none~1|none~2|")


def test_what_is_missing_is_said(folder, tmp_path_factory, monkeypatch):
    text = nats_strings(1)[0]
    with pytest.raises(ramify.RamifyError, match="no data set 'mnist': give cifar10"):
        NatsTables(folder).accuracy(text, "mnist")
    with pytest.raises(ramify.RamifyError, match="no architecture 15625: give 0 to 15624"):
        NatsTables(folder).genotype(15625)
    with pytest.raises(ramify.RamifyError, match="no column cifar100_test: ops, op_names, cifar10"):
        NatsTables(folder).accuracy(text, "cifar100")
    monkeypatch.setenv("RAMIFY_DATA", str(tmp_path_factory.mktemp("empty")))
    with pytest.raises(ramify.RamifyError, match="nb201_core.npz is missing, the tables of NATS"):
        NatsTables()
    monkeypatch.delenv("RAMIFY_DATA")
    with pytest.raises(ramify.RamifyError, match="RAMIFY_DATA, which is not set"):
        NatsTables()
    (folder / "nb201_core.npz").write_bytes(b"torn")
    with pytest.raises(ramify.RamifyError, match="nb201_core.npz cannot be read"):
        NatsTables(folder)


def test_a_table_that_lacks_an_architecture_is_refused(folder):
    with np.load(folder / "nb201_core.npz") as core:
        columns = dict(core)
    columns["ops"][0] = columns["ops"][1]
    np.savez(folder / "nb201_core.npz", **columns)
    with pytest.raises(ramify.RamifyError, match="each of the 15625 architectures once"):
        NatsTables(folder)


DARTS_1 = [
    "|none~0|+|skip_connect~0|none~1|+|skip_connect~0|nor_conv_1x1~1|none~2|",
    "|none~0|+|skip_connect~0|none~1|+|skip_connect~0|nor_conv_1x1~1|none~2|",
    "|skip_connect~0|+|skip_connect~0|none~1|+|skip_connect~0|nor_conv_1x1~1|nor_conv_3x3~2|",
]
DARTS_2 = [
    "|none~0|+|skip_connect~0|none~1|+|skip_connect~0|nor_conv_1x1~1|skip_connect~2|",
    "|skip_connect~0|+|nor_conv_3x3~0|none~1|+|skip_connect~0|none~1|none~2|",
    "|skip_connect~0|+|nor_conv_1x1~0|none~1|+|nor_conv_3x3~0|skip_connect~1|none~2|",
]


@needs_tables
@pytest.mark.parametrize("texts, error", [(DARTS_1, 38.74), (DARTS_2, 39.51)])
def test_the_rows_of_darts_in_table_3_3_of_the_thesis(texts, error):
    """CIFAR-100; the cells are those of exps/algos-v2/README.md of AutoDL-Projects, three runs."""
    tables = NatsTables()
    errors = [100 - tables.accuracy(text, "cifar100") for text in texts]
    assert np.mean(errors) == pytest.approx(error, abs=0.005)
    skips = [NATS.parse(text).share("skip_connect") for text in texts]
    assert 100 * np.mean(skips) == pytest.approx(38.9, abs=0.05)


@needs_tables
def test_networks_have_the_published_parameters_and_macs():
    tables = NatsTables()
    for text in nats_strings(500, seed=1):
        ones, threes = text.count("nor_conv_1x1"), text.count("nor_conv_3x3")
        assert tables.params(text) == 73_306 + 28_000 * ones + 243_040 * threes
        macs = 7_783_050 + 3_932_160 * (ones + 9 * threes)
        assert tables.macs(text) == pytest.approx(macs, rel=1e-6)
