"""How long rounds are and what the learning rate is: plateaus, spans, and both after a resume."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ramify.errors import RamifyError
from ramify.train.epoch import Training
from ramify.train.loop import Grown, train
from tests.train.growing import assert_same, data, loss, net, run

EPOCHS, ROUNDS = 5, 3


def losses_by_round(grown: Grown) -> list[list[float]]:
    epochs = [event for event in grown.history if event["event"] == "epoch"]
    rounds = range(grown.history[-1]["round"] + 1)
    return [[e["train_loss"] for e in epochs if e["round"] == number] for number in rounds]


def rates(grown: Grown) -> list[float]:
    return [event["lr"] for event in grown.history if event["event"] == "epoch"]


def patient(**settings: Any) -> Training:
    """Training that moves so slowly that some rounds come to a plateau."""
    return Training(**{"epochs": EPOCHS, "lr": 0.003, "patience": 1} | settings)


def assert_ended_at_plateaus(grown: Grown, training: Training) -> int:
    """Every round but the last ends at its first plateau; the number of epochs that this saved."""
    *before, _ = losses_by_round(grown)
    for losses in before:
        assert len(losses) == EPOCHS or training.flat(losses)
        assert not any(training.flat(losses[:count]) for count in range(len(losses)))
    return sum(EPOCHS - len(losses) for losses in before)


def test_a_round_ends_at_a_plateau_but_not_the_last_one() -> None:
    training = patient()
    grown = run(net(), data(), rounds=ROUNDS, training=training)
    assert Counter(event["event"] for event in grown.history)["edit"] == ROUNDS
    assert assert_ended_at_plateaus(grown, training) > 0
    assert len(losses_by_round(grown)[-1]) == EPOCHS


def test_epochs_saved_are_trained_at_the_end_of_a_schedule_over_the_run() -> None:
    training = patient(span="run")
    grown = run(net(), data(), rounds=ROUNDS, training=training)
    saved = assert_ended_at_plateaus(grown, training)
    assert saved > 0
    assert len(losses_by_round(grown)[-1]) == EPOCHS + saved
    total = EPOCHS * (ROUNDS + 1) * 3  # three batches
    steps = np.arange(2, total, 3)  # the rate of an epoch is that of its last step
    assert rates(grown) == pytest.approx(0.5 * 0.003 * (1 + np.cos(np.pi * steps / total)))


@pytest.mark.parametrize("patience", [None, 1])
def test_a_budget_that_is_reached_early_leaves_the_schedule_as_it_is(patience: int | None) -> None:
    training = patient(span="run", patience=patience)
    grown = run(net(), data(), rounds=8, training=training, budget={"params": 50})
    edits = Counter(event["event"] for event in grown.history)["edit"]
    assert 0 < edits < 8
    assert grown.history[-1]["reason"] == "budget"
    assert len(rates(grown)) == EPOCHS * 9
    steps = np.arange(2, EPOCHS * 27, 3)
    expected = 0.5 * 0.003 * (1 + np.cos(np.pi * steps / (EPOCHS * 27)))
    assert rates(grown) == pytest.approx(expected)


def test_a_network_trains_on_to_the_epochs_of_the_whole_run_after_its_last_edit() -> None:
    training = Training(epochs=2, lr=0.003, span="run", total_epochs=11)
    grown = run(net(), data(), rounds=2, training=training)
    assert [len(losses) for losses in losses_by_round(grown)] == [2, 2, 7]
    assert grown.history[-1]["reason"] == "rounds"
    steps = np.arange(2, 33, 3)
    assert rates(grown) == pytest.approx(0.5 * 0.003 * (1 + np.cos(np.pi * steps / 33)))


@pytest.mark.parametrize("total", [0, 5])
def test_a_total_that_is_no_total_is_refused(total: int) -> None:
    with pytest.raises(RamifyError, match=f"total_epochs is {total}"):
        run(net(), data(), rounds=2, training=Training(2, span="run", total_epochs=total))


def test_a_total_goes_with_a_schedule_over_the_run() -> None:
    with pytest.raises(RamifyError, match="total_epochs is 9 with span='round'"):
        Training(2, total_epochs=9)


def test_a_run_that_ends_at_a_plateau_trains_its_last_round_to_the_end() -> None:
    """Nothing pays, and the rate is still high: the round goes on to the end of its schedule."""

    class Nothing:
        def select(self, proposals: object) -> list[Any]:
            return []

    training = patient(lr=1e-9, epochs=9)
    grown = run(net(), data(), rounds=ROUNDS, training=training, rule=Nothing())
    [losses] = losses_by_round(grown)
    assert len(losses) == 9
    assert any(training.flat(losses[:count]) for count in range(9))
    assert grown.history[-1]["reason"] == "no morphism pays"
    assert grown.history[-2]["ended"]["reason"] == "no morphism pays"


@pytest.mark.parametrize("span", ["round", "run"])
def test_a_resume_is_exact_at_every_event(tmp_path: Path, span: str) -> None:
    total = 30 if span == "run" else None
    training = patient(span=span, lr=1e-4, total_epochs=total)
    settings: dict[str, Any] = {"rounds": ROUNDS, "training": training}
    settings["budget"] = {"params": 60}
    expected = run(net(), data(), **settings)
    assert assert_ended_at_plateaus(expected, settings["training"]) > 0
    file, stopped = tmp_path / "c", 0
    while True:

        def stop(event: dict[str, Any]) -> None:
            raise KeyboardInterrupt

        try:
            resumed = run(net(), data(), checkpoint=file, log=stop, **settings)
            break
        except KeyboardInterrupt:
            stopped += 1
    assert stopped == len(expected.history)
    assert_same(resumed, expected)


def test_the_rate_jumps_at_an_edit_where_rounds_are_spanned_and_nowhere_else() -> None:
    by_round = rates(run(net(), data(), training=Training(epochs=3, lr=0.05)))
    over_run = rates(run(net(), data(), training=Training(epochs=3, lr=0.05, span="run")))
    assert by_round == by_round[:3] * 3
    assert over_run == sorted(over_run, reverse=True)


def test_plain_training_never_ends_early() -> None:
    done = train(net(), data()[0][0], loss, data(), training=patient(lr=1e-9))
    assert len(rates(done)) == EPOCHS
