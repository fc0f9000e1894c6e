"""Plain training: the same numbers as growing without an edit, and after an interruption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ramify.errors import RamifyError
from ramify.store.checkpoint import Checkpoint, write_checkpoint
from ramify.train.epoch import Training
from ramify.train.history import Event
from ramify.train.loop import Grown, train
from tests.train.growing import data, loss, net, run

TRAINING = Training(epochs=3, lr=0.05)


def plain(**settings: Any) -> Grown:
    return train(net(), torch.zeros(1, 2), loss, data(), **({"training": TRAINING} | settings))


def numbers(done: Grown) -> list[Event]:
    return [{k: v for k, v in event.items() if k != "t"} for event in done.history]


def same(one: Grown, other: Grown) -> None:
    assert numbers(one) == numbers(other)
    for name, tensor in one.graph.model.state_dict().items():
        assert torch.equal(tensor, other.graph.model.state_dict()[name]), name


def test_it_is_growing_without_an_edit() -> None:
    done = plain()
    assert [event["event"] for event in done.history] == ["epoch"] * 3 + ["stop"]
    assert done.history[-1]["reason"] == "rounds"
    same(done, run(net(), data(), rounds=0, training=TRAINING))


def test_an_interruption_changes_nothing(tmp_path: Path) -> None:
    def stop(event: Event) -> None:
        if event.get("epoch") == 1:
            raise KeyboardInterrupt

    file = tmp_path / "c"
    with pytest.raises(KeyboardInterrupt):
        plain(checkpoint=file, log=stop)
    torch.manual_seed(99)
    again = plain(checkpoint=file)
    same(again, plain())
    assert plain(checkpoint=file).history == again.history


def test_growing_goes_on_from_plain_training(tmp_path: Path) -> None:
    plain(checkpoint=tmp_path / "c")
    grown = run(net(), data(), rounds=1, training=TRAINING, checkpoint=tmp_path / "c")
    same(grown, run(net(), data(), rounds=1, training=TRAINING))


def test_a_checkpoint_of_a_search_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "c", Checkpoint("search", {}, [], []))
    with pytest.raises(RamifyError, match="c is not the checkpoint of a training run; restore it"):
        plain(checkpoint=tmp_path / "c")
