"""The commands of the RARTS thesis as smoke tests, on the embedded digits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ramify
from experiments.rarts.darts import __main__ as darts
from experiments.rarts.darts import study
from experiments.rarts.nats import __main__ as nats
from experiments.rarts.width import __main__ as width
from experiments.rarts.width.study import Study
from ramify import relax
from ramify.relax import RARTS
from tests.cells.spaces import write_nats_table

NATS = "--data digits --channels 2 --samples 32 --batch 16 --epochs 1 --seeds 1".split()
WIDTH = "--data digits --model digits_net --width 6 --samples 100 --batch 50 --pretrain 1".split()
WIDTH += "--search 1 --tune 1 --ratios 0.5 --seeds 1".split()


DARTS = "--data digits --pooled 1 --channels 2 --cells 3 --samples 32 --batch 16 --epochs 1".split()
DARTS += "--large_channels 2 --large_cells 3 --large_samples 32 --large_epochs 1 --seeds 1".split()


def tables(folder: Path) -> None:
    """What NATS-Bench measured, made up, for both data sets."""
    folder.mkdir()
    write_nats_table(folder)
    file = folder / "nb201_core.npz"
    with np.load(file) as core:
        known = dict(core)
    np.savez(file, **known, cifar100_test=known["cifar10_test"])


def test_cells_are_searched_and_looked_up_and_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tables(tmp_path / "nb201")
    monkeypatch.setenv("RAMIFY_DATA", str(tmp_path))
    given = [*NATS, "--out", str(tmp_path / "out")]
    nats.main([*given, "--methods", "darts1"])
    known = nats.run
    done: list[str] = []
    monkeypatch.setattr(nats, "run", lambda name, *rest: done.append(name) or known(name, *rest))
    nats.main([*given, "--methods", "darts1,milenas"])
    assert done == ["milenas"]
    text = (tmp_path / "out" / "results.md").read_text()
    assert "| DARTS-1 | mixing weights |" in text
    assert "| MiLeNAS | mixing weights |" in text
    assert "MiLeNAS" in capsys.readouterr().out
    assert "| method | operations by | 1 steps |" in text
    for name in ("space.png", "steps.png", "alpha.png"):
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")


def test_a_killed_search_of_cells_goes_on_from_its_last_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables(tmp_path / "nb201")
    monkeypatch.setenv("RAMIFY_DATA", str(tmp_path))
    given = [*NATS, "--methods", "rarts", "--epochs", "3", "--out"]
    nats.main([*given, str(tmp_path / "whole")])
    stopped = tmp_path / "stopped"
    made: list[int] = []
    step = RARTS.step

    def watched(searcher: RARTS, *pair: Any) -> Any:
        made.append(searcher.steps)
        if len(made) == 3:  # one step an epoch
            raise KeyboardInterrupt
        return step(searcher, *pair)

    monkeypatch.setattr(RARTS, "step", watched)
    with pytest.raises(KeyboardInterrupt):
        nats.main([*given, str(stopped)])
    nats.main([*given, str(stopped)])
    assert made == [0, 1, 2, 2]
    assert not list((stopped / "searches").rglob("*.safetensors"))
    whole, gone_on = (
        json.loads((tmp_path / name / "results.jsonl").read_text()) for name in ("whole", "stopped")
    )
    assert gone_on["seconds"] > 0
    assert gone_on == whole | {"seconds": gone_on["seconds"]}


def test_random_search_alone_has_no_path_over_the_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables(tmp_path / "nb201")
    monkeypatch.setenv("RAMIFY_DATA", str(tmp_path))
    nats.main([*NATS, "--methods", "random", "--candidates=2", "--out", str(tmp_path / "out")])
    assert "steps" not in (tmp_path / "out" / "results.md").read_text()
    assert not (tmp_path / "out" / "steps.png").exists()


def test_missing_tables_are_said_before_any_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAMIFY_DATA", str(tmp_path))
    monkeypatch.setattr(nats, "run", lambda *rest: pytest.fail("it searched first"))
    with pytest.raises(ramify.RamifyError, match=r"nb201_core.npz is missing"):
        nats.main([*NATS, "--out", str(tmp_path / "out")])


def test_widths_are_searched_and_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*WIDTH, "--methods", "darts1,l1", "--out", str(tmp_path)]
    width.main(given)
    text = (tmp_path / "results.md").read_text()
    assert all(f"| 50% | {name} |" in text for name in ("DARTS-1", "L1"))
    assert "DARTS-1" in capsys.readouterr().out
    monkeypatch.setattr(width, "Study", None)  # nothing is left to do
    width.main(given)
    assert (tmp_path / "results.md").read_text() == text


def test_a_killed_search_of_widths_does_not_train_the_network_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [*WIDTH, "--methods", "l1", "--out"]
    width.main([*given, str(tmp_path / "whole")])
    stopped = [*given, str(tmp_path / "stopped")]
    trained: list[int] = []
    train = Study.train

    def watched(study: Any, model: Any, epochs: int, *rest: Any) -> None:
        trained.append(epochs)
        if len(trained) == 4:  # behind the network, the baseline and plain training
            raise KeyboardInterrupt
        train(study, model, epochs, *rest)

    monkeypatch.setattr(Study, "train", watched)
    with pytest.raises(KeyboardInterrupt):
        width.main(stopped)
    width.main(stopped)
    assert len(trained) == 4 + 2  # the tuning alone, with and without distillation
    whole, gone_on = ((tmp_path / n / "results.md").read_text() for n in ("whole", "stopped"))
    assert gone_on == whole


def test_cells_of_darts_are_trained_out_and_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(study, "REPEATS", 1)
    methods = ["--methods", "darts1,darts1-latency,random"]
    whole, stopped = ([*DARTS, "--out", str(tmp_path / name)] for name in ("whole", "stopped"))
    darts.main([*whole, *methods])
    text = (tmp_path / "whole" / "results.md").read_text()
    for name in ("DARTS-1", "DARTS-1, expected latency", "a random cell"):
        assert f"| {name} | 1 |" in text
    assert "DARTS-1" in capsys.readouterr().out
    assert not list(tmp_path.rglob("*.safetensors"))
    trained = study.train
    with monkeypatch.context() as patch:
        patch.setattr(study, "train", interrupted)
        with pytest.raises(KeyboardInterrupt):
            darts.main([*stopped, "--methods", "darts1"])
    assert study.train is trained
    with monkeypatch.context() as patch:
        patch.setattr(relax.DARTS, "step", lambda *rest: pytest.fail("it searched again"))
        darts.main([*stopped, "--methods", "darts1"])
    first, again = (
        json.loads((tmp_path / name / "results.jsonl").read_text().splitlines()[0])
        for name in ("whole", "stopped")
    )
    assert again == first


def interrupted(*rest: Any, **others: Any) -> None:
    raise KeyboardInterrupt
