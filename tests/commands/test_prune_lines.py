"""What a run of prune says on the terminal: phases by their names, and what came of a cut."""

import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ramify.commands import display, prune_lines
from ramify.commands.display import Display
from ramify.commands.jobs import run_jobs
from ramify.commands.prune import run_phase
from ramify.commands.prune_lines import CHOOSING
from ramify.commands.prune_settings import PruneSettings
from ramify.commands.run_folder import RunFolder
from ramify.data import Dataset

SMALL = {"data": "digits", "width": 4, "epochs": 1, "batch_size": 15, "probe_samples": 20}


def resolve(**given: Any) -> PruneSettings:
    return PruneSettings.resolve({**SMALL, "lr": 0.05, **given})


def shown(path: Path, dataset: Dataset, terminal: bool = False, **given: Any) -> tuple[str, Any]:
    """What a run prints, and its bar."""
    config = resolve(**given)
    console = Console(file=io.StringIO(), force_terminal=terminal, width=300)
    folder = RunFolder.create(path, config.to_json())
    with Display(console, config, []) as following:
        run_jobs(config, folder, dataset, following.event, following.tick, run=run_phase)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue(), following.progress.tasks[0]


def test_a_cut_is_told_with_what_was_predicted_and_measured(
    tmp_path: Path, dataset: Dataset
) -> None:
    text, bar = shown(tmp_path / "run", dataset, epochs=2)
    patterns = [
        r"full network: finished, test accuracy [\d.]+ %, 363 parameters, [\d,]+ MACs, 6 steps in",
        CHOOSING,
        r"cut: pruned \d of 12 channels, 363 -> \d+ parameters, [\d,]+ -> [\d,]+ MACs, test "
        r"accuracy [\d.]+ -> [\d.]+ % before fine-tuning",
        r"cut: loss predicted \+[\d.e-]+, measured \+[\d.e-]+ \([\d.]+ -> [\d.]+\) on 20 samples "
        "not used for the cut",
        r"fine-tuning: learning rate [\d.]+, found by trials of 10 steps: loss [\d.]+ -> [\d.]+ at "
        r"0.01, ",
        r"small network: finished, test accuracy [\d.]+ %, \d+ parameters, [\d,]+ MACs, 6 steps in",
    ]
    # On a slow machine epochs are shown too.
    told = [line for line in text.splitlines() if ": epoch " not in line]
    lines = [line for line in told if not line.startswith("warning")]
    assert len(lines) == len(patterns)
    for line, pattern in zip(lines, patterns, strict=True):
        assert re.match(pattern, line), line
    assert bar.total == bar.completed == 5  # epochs, and the cut


def test_every_epoch_is_of_a_phase(
    tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(display, "QUIET", -1.0)
    given = {"searcher": "rarts", "search_epochs": 2, "ratio": 0.4, "seeds": 2}
    text, bar = shown(tmp_path / "run", dataset, **given)
    for seed in (0, 1):
        for phase in ("full network", "fine-tuning"):
            assert f"{phase}, seed {seed}: epoch 1 of 1, test accuracy" in text
        assert f"search, seed {seed}: epoch 2 of 2, losses on the two halves" in text
        assert f"search, seed {seed}: finished, test accuracy" in text
    assert bar.total == bar.completed == 2 * (1 + 2 + 1 + 1)


def test_cuts_in_rounds_have_numbers(
    tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(display, "QUIET", -1.0)
    text, bar = shown(tmp_path / "run", dataset, rounds=2)
    for words in ("cut 1 of 2: pruned", "fine-tuning 1 of 2: epoch 1 of 1", "cut 2 of 2: loss"):
        assert words in text
    assert bar.total == bar.completed == 1 + 2 * 2


EDIT: dict[str, Any] = {
    "event": "edit",
    "job": "pruned-0",
    "arm": "pruned",
    "seed": 0,
    "round": 0,
    "passes": 0,
    "proposals": [
        {"group": "conv", "channel": c, "copies": 0, "selected": c < 2} for c in range(4)
    ],
    "widths_before": {"conv": 4, "head": 3},
    "params_before": 100,
    "params_after": 60,
    "macs_before": 2000,
    "macs_after": 900,
    "test_accuracy_before": 0.98,
    "test_accuracy_after": 0.9,
    "loss_before": 0.1,
    "loss_after": 0.17,
    "predicted_gain": None,
    "held": True,
    "held_samples": 150,
    "held_loss_before": 0.1,
    "held_loss_after": 0.17,
    "held_accuracy_before": 0.97,
    "held_accuracy_after": 0.96,
    "warnings": ["'conv' (40 to 2) lost 90 % of the channels or more: raise keep= if it is bad"],
}


def lines(event: dict[str, Any], **given: Any) -> list[str]:
    console = Console(file=io.StringIO(), force_terminal=False, width=40)
    with Display(console, resolve(**given), []) as following:
        following.event(event)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_warnings_and_what_was_allowed_are_whole_sentences() -> None:
    allowed = {"accuracy": -1.0, "loss": 0.1}
    assert lines(EDIT | {"accept": allowed}) == [
        "cut: pruned 2 of 4 channels, 100 -> 60 parameters, 2,000 -> 900 MACs, test accuracy "
        "98.00 -> 90.00 % before fine-tuning",
        "cut: loss measured +0.07 (0.100 -> 0.170) on 150 samples not used for the cut",
        "cut: accuracy 97.00 -> 96.00 % (-1 allowed); loss 0.100 -> 0.170 (+0.1 allowed), "
        "on 150 samples that this run does not train on",
        "warning: 'conv' (40 to 2) lost 90 % of the channels or more: raise --keep if it is bad.",
    ]
    assert lines(EDIT | {"held": False, "predicted_gain": -0.03})[1] == (
        "cut: loss predicted +0.03, measured +0.07 (0.100 -> 0.170) on the samples used for the cut"
    )


def test_a_run_says_when_it_cuts() -> None:
    full = {"event": "result", "job": "baseline-0", "arm": "baseline", "seed": 0, "steps": 4}
    full |= {"test_accuracy": 0.9, "params": 100, "macs": 2000, "seconds": 1.0}
    console = Console(file=io.StringIO(), force_terminal=True, width=200)
    with Display(console, resolve(), []) as following:
        following.event(full)
        assert following.status.plain == CHOOSING
        following.event(EDIT)
        following.event({**EDIT, **full, "event": "epoch", "arm": "pruned", "epoch": 0})
        assert following.status.plain.startswith("fine-tuning: epoch 1 of 1, test accuracy 90.00 %")
    with Display(console, resolve(searcher="rarts"), []) as following:
        following.event(full)
        assert following.status.plain != CHOOSING  # a search comes first
    text = io.StringIO()
    with Display(Console(file=text, width=200), resolve(), []) as following:  # no terminal
        following.event(full)
    assert text.getvalue().splitlines()[1:] == [CHOOSING]


def test_a_tuning_that_did_harm_is_told_right_behind_it() -> None:
    settings = resolve(epochs=1)
    text = io.StringIO()
    tags = {"job": "pruned-0", "arm": "pruned", "seed": 0, "round": 0}
    cut = {**tags, "event": "edit", "passes": 0, "test_accuracy_after": 0.9}
    rate = {**tags, "event": "rate", "lr": 0.03}
    done = {**tags, "event": "result", "test_accuracy": 0.5, "params": 9, "macs": 9}
    with Display(Console(file=text, width=300), settings, [cut, rate]) as following:  # resumed
        following.event({**done, "steps": 6, "seconds": 1.0})
    assert text.getvalue().splitlines()[1] == (
        "warning: small network: fine-tuning made the network worse than it was right "
        "after the cut, test accuracy 90.00 -> 50.00 %: give a --tuning-lr below 0.03, "
        "more --epochs, or --epochs 0 to keep the network as it was right after the cut."
    )


def test_a_tuning_beyond_what_was_allowed_is_told() -> None:
    tags = {"job": "pruned-0", "arm": "pruned", "seed": 0, "round": 0, "held_samples": 150}
    stop = {**tags, "event": "stop", "reason": "rounds", "held_loss": 0.3, "held_accuracy": 0.95}
    cut = {**EDIT, **tags, "accept": {"accuracy": -1.0, "loss": 0.25}}
    text = io.StringIO()
    with Display(Console(file=text, width=300), resolve(epochs=1), [cut]) as following:
        following.event(stop)
        following.event(stop | {"held_accuracy": 0.96})
    shown = [line for line in text.getvalue().splitlines() if line.startswith("warning")]
    assert shown == [
        "warning: small network: after fine-tuning it is worse on the held-out samples than "
        "--accept allows, accuracy 97.00 -> 95.00 % (-1 allowed): give a --tuning-lr below 0.01, "
        "more --epochs, or --epochs 0 to keep the network as it was right after the cut."
    ]


def test_the_trials_of_learning_rates_in_one_line() -> None:
    event = {"event": "rate", "round": 1, "lr": 0.003, "loss": 0.0345}
    event |= {"trial_steps": 19, "trials": [[0.01, None], [0.003, 0.0412]], "seed": 0}
    assert prune_lines.LINES["rate"](event, resolve(rounds=2)) == [
        "fine-tuning 2 of 2: learning rate 0.003, found by trials of 19 steps: loss 0.0345 -> not "
        "finite at 0.01, 0.0412 at 0.003"
    ]
