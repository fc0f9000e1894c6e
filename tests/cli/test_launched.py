"""Commands under torchrun: as many processes, one run; and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from ramify.cli import app
from ramify.commands.command_line import command_line

CODE = """
from types import SimpleNamespace
import torch
from torch import nn

def data():
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(1)).double().float()
    y = (x[:, 0] * x[:, 1] > 0).long()
    return SimpleNamespace(x_train=x[:45], y_train=y[:45], x_test=x[45:], y_test=y[45:])

def net(in_features, classes):
    return nn.Sequential(nn.Linear(in_features, 5), nn.Tanh(), nn.Linear(5, classes))
"""
RUN = (
    "grow --data small:data --model small:net --method random --rounds 1 --epochs 2 --batch-size 8"
)
TORCHRUN = "torch.distributed.run --nproc-per-node 2 --standalone -m"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "small.py").write_text(CODE)
    return tmp_path


def start(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    """Run a module of Python in the folder."""
    return subprocess.run(
        [sys.executable, "-m", *text.split()],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.skipif(not torch.distributed.is_available(), reason="no torch.distributed")
def test_two_processes_make_the_run_of_one(folder: Path) -> None:
    """Without a norm over the batch the steps are the same, and so is the network, to rounding."""
    both = start(folder, f"{TORCHRUN} ramify {RUN} --out both")
    assert both.returncode == 0, both.stderr
    assert both.stdout.count("to look at it, open") == 1
    one = start(folder, f"ramify {RUN} --out one")
    assert one.returncode == 0, one.stderr
    found, expected = (load_file(folder / name / "model.safetensors") for name in ("both", "one"))
    assert found["0.weight"].shape[0] > 5
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    again = (folder / "both" / "command.txt").read_text()
    assert again.startswith("torchrun --nproc-per-node 2 -m ramify grow --data small:data")


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torchrun tells each of two processes."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")


@pytest.mark.usefixtures("two")
def test_what_takes_one_process_says_so() -> None:
    sweep = CliRunner().invoke(app, ["sweep", "grow", "--vary", "method=s2d,random"])
    assert sweep.exit_code == 2
    assert "rank 1: ramify sweep works in one process, and torchrun started 2" in sweep.output


@pytest.mark.usefixtures("two")
def test_the_command_line_to_copy_starts_as_many() -> None:
    assert command_line("prune", {"data": "digits"}) == (
        "torchrun --nproc-per-node 2 -m ramify prune --data digits"
    )
