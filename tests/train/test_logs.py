from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ramify
from ramify.errors import RamifyError
from ramify.train.logs import TensorBoard, numbers, told_to


class Kept:
    """Any object with ``log(dict)``."""

    def __init__(self) -> None:
        self.data: list[dict[str, Any]] = []

    def log(self, data: dict[str, Any]) -> None:
        self.data.append(data)


def test_a_run_tells_a_function_events_and_a_logger_numbers() -> None:
    x = torch.randn(32, 2, generator=torch.Generator().manual_seed(0))

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return model(batch).square().sum(1)

    events: list[dict[str, Any]] = []
    logger = Kept()
    for log in (events.append, logger):
        torch.manual_seed(0)
        ramify.grow(
            nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)),
            x[:1],
            loss,
            [x],
            method=ramify.RandomSplit(),
            rule=ramify.TopFraction(0.5),
            training=ramify.Training(epochs=1, lr=0.01),
            rounds=1,
            log=log,
            tags={"job": "a", "seed": 3},
        )
    assert [event["event"] for event in events] == ["epoch", "edit", "epoch", "stop"]
    without_time = [{k: v for k, v in one.items() if k != "t"} for one in logger.data]
    assert without_time == [
        {k: v for k, v in numbers(event).items() if k != "t"} for event in events
    ]
    assert logger.data[1]["widths_after/0"] == 5
    assert all(type(v) is float for one in logger.data for v in one.values())
    assert "seed" not in logger.data[0]


def test_only_numbers_are_numbers() -> None:
    event = {"step": 3, "full": True, "reason": "budget", "loss": None, "list": [1], "t": {"a": 2}}
    assert numbers(event) == {"step": 3.0, "t/a": 2.0}


@pytest.mark.parametrize("wrong", [3, "log.txt", Kept, object()])
def test_what_cannot_be_told_is_refused(wrong: Any) -> None:
    with pytest.raises(RamifyError, match="`log` must be a function of an event, or an object"):
        told_to(wrong)
    assert told_to(None) is None


def test_a_tensorboard_log_goes_on_after_an_interruption(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs the extra: pip install 'ramify[tensorboard]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for steps, value in (((10, 20, 30), 1.0), ((20, 40), 2.0)):  # killed, then gone on from 10
        board = TensorBoard(tmp_path / "log")
        for step in steps:
            board.log({"step": step, "loss": value})
    read = EventAccumulator(str(tmp_path / "log"))
    read.Reload()
    assert [(one.step, one.value) for one in read.Scalars("loss")] == [(10, 1), (20, 2), (40, 2)]
