"""Networks as ONNX: what cannot be tried leaves no file."""

from pathlib import Path

import pytest
from torch import nn

from ramify.commands.export import write_onnx
from ramify.data import Dataset
from ramify.errors import RamifyError


class Refusing(nn.Module):
    """What no exporter takes, for a reason without words."""

    def forward(self, x: object) -> object:
        raise AssertionError


def test_what_onnxruntime_cannot_run_is_not_written(
    tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
    monkeypatch.setattr("ramify.commands.export._exported", lambda *arguments: b"torn")
    with pytest.raises(RamifyError, match=r"onnxruntime [\d.]+ cannot run what torch exported"):
        write_onnx(nn.Flatten(), dataset, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_an_exporter_that_says_nothing_is_quoted_all_the_same(
    tmp_path: Path, dataset: Dataset
) -> None:
    pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
    with pytest.raises(RamifyError, match="torch cannot export this Refusing as ONNX"):
        write_onnx(Refusing(), dataset, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
