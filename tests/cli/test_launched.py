"""Commands under torchrun: as many processes, one run; and what is refused."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from ramify.cli import app
from ramify.commands import launched as launched_module
from ramify.commands.command_line import command_line
from tests.processes import clean_processes

CODE = """
import os
import sys
from types import SimpleNamespace
import torch
from torch import nn

def data():
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(1)).double().float()
    y = (x[:, 0] * x[:, 1] > 0).long()
    return SimpleNamespace(x_train=x[:45], y_train=y[:45], x_test=x[45:], y_test=y[45:])

def drawn():
    torch.manual_seed(int(os.environ["RANK"]))
    return SimpleNamespace(**{**vars(data()), "x_train": torch.randn(45, 4)})

def exits():
    if os.environ["RANK"] == "1":
        sys.exit(7)
    return data()

def net(in_features, classes):
    return nn.Sequential(nn.Linear(in_features, 5), nn.Tanh(), nn.Linear(5, classes))
"""
RUN = (
    "grow --data small:data --model small:net --method random --rounds 1 --epochs 2 --batch-size 8"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "small.py").write_text(CODE)
    return tmp_path


@pytest.mark.skipif(not torch.distributed.is_available(), reason="no torch.distributed")
@pytest.mark.usefixtures("no_pages")
def test_two_processes_make_the_run_of_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a norm over the batch the steps are the same, and so is the network, to rounding."""
    torchrun = "torch.distributed.run --nproc-per-node 2 --standalone -m"
    both = subprocess.run(
        [sys.executable, "-m", *f"{torchrun} ramify {RUN} --out both".split()],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert both.returncode == 0, both.stderr
    assert both.stdout.count("to view it, open") == 1
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    one = CliRunner().invoke(app, f"{RUN} --out one".split())
    assert one.exit_code == 0, one.output
    found, expected = (load_file(folder / name / "model.safetensors") for name in ("both", "one"))
    assert found["0.weight"].shape[0] > 5
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    again = (folder / "both" / "command.txt").read_text()
    assert again.startswith("torchrun --nproc-per-node 2 -m ramify grow --data small:data")


MISTAKES = {
    "grow --nosuch 3": "No such option: --nosuch",
    "retrain nothere": "nothere is neither a run folder nor",
    "sweep grow --vary method=s2d,random": "ramify sweep works in one process",
    "grow --data small:drawn --model small:net": "the data set small:drawn is not the same on rank",
    "grow --data small:exits --model small:net": "rank 1: SystemExit: 7",
}


def one_rank(text: str, rank: int, port: int, folder: Path) -> None:
    """Give a command as torchrun does; what is said goes to a file."""
    world = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    meeting = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "TORCHELASTIC_USE_AGENT_STORE": True,
    }
    os.environ.update({name: str(value) for name, value in {**world, **meeting}.items()})
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    torch.set_num_threads(1)
    result = CliRunner().invoke(app, text.split())
    (folder / f"{port}-{rank}").write_text(json.dumps((result.exit_code, result.output)))
    os._exit(0)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="no torch.distributed")
def test_a_mistake_is_said_once(folder: Path) -> None:
    """One process says it, both end with the same exit code, and nothing is written."""
    context, stores, running = clean_processes(), {}, []
    for text in MISTAKES:
        store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        stores[text] = store  # where they meet, as torchrun has it
        for rank in range(2):
            given = (text, rank, store.port, folder)
            running.append(context.Process(target=one_rank, args=given, daemon=True))
            running[-1].start()
    for process in running:
        process.join(200)
        process.kill()
    for text, wanted in MISTAKES.items():
        files = [folder / f"{stores[text].port}-{rank}" for rank in range(2)]
        both = [json.loads(file.read_text()) for file in files]
        assert [code for code, _ in both] == [2, 2], (text, both)
        silent, spoken = sorted((words for _, words in both), key=len)
        assert silent == "", text
        assert wanted in spoken, text
    assert not (folder / "runs").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_process_ends_where_torchrun_is_gone(tmp_path: Path) -> None:
    """The one that started it is killed, and nobody sends a signal."""
    seen, started = tmp_path / "seen", tmp_path / "started"
    torchrun = os.fork()
    if torchrun == 0:
        if os.fork():
            while not started.exists():
                time.sleep(0.01)
            os._exit(0)
        try:
            with launched_module._ended_by_torchrun():
                started.touch()
                time.sleep(100)
        except KeyboardInterrupt as error:
            (tmp_path / "half").write_text(str(error))
            (tmp_path / "half").rename(seen)
        os._exit(0)
    os.waitpid(torchrun, 0)
    for _ in range(1000):
        if seen.exists():
            break
        time.sleep(0.01)
    assert seen.read_text() == "torchrun has ended, so this process ends as well"


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torchrun tells each of two processes."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")


@pytest.mark.skipif(not torch.distributed.is_available(), reason="no torch.distributed")
@pytest.mark.usefixtures("two")
def test_processes_that_cannot_meet_end_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torchrun was killed while they began: nobody listens any more."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    meeting = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "TORCHELASTIC_USE_AGENT_STORE": True,
    }
    for name, value in meeting.items():
        monkeypatch.setenv(name, str(value))
    for rank, said in enumerate(["error: rank 0: torchrun has ended: nothing answers at 127.", ""]):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        monkeypatch.setenv("RANK", str(rank))
        result = CliRunner().invoke(app, ["grow"])
        assert (result.exit_code, result.output[: len(said) or None]) == (2, said)


@pytest.mark.usefixtures("two")
def test_the_command_line_to_copy_starts_as_many() -> None:
    assert command_line("prune", {"data": "digits"}) == (
        "torchrun --nproc-per-node 2 -m ramify prune --data digits"
    )
