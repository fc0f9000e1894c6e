"""Random networks of the fuzz of edits: none is wrong, and the fuzz sees what would be."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

import ramify
from benchmarks.fuzz_edits import __main__ as command
from benchmarks.fuzz_edits.axes import Axis, Beside, Each, Edits, Fixed, Member, shares, sources
from benchmarks.fuzz_edits.trial import NONE, RIGHT, Trial, run

NETWORKS = 20
SEED = 4  # a network whose edits are right, and whose optimizer has a state


def test_random_networks_under_random_edits_are_right() -> None:
    trials = [run(seed) for seed in range(NETWORKS)]
    assert not [trial for trial in trials if trial.outcome in ("wrong", "raw")]
    assert sum(trial.outcome == RIGHT for trial in trials) > NETWORKS // 2
    offered = sum(trial.offered_params for trial in trials)
    assert offered > 0.8 * sum(trial.params for trial in trials)
    assert sum(trial.outcome == NONE for trial in trials) < NETWORKS // 4


def _a_weight(graph: ramify.ChannelGraph, optimizers: Iterable[torch.optim.Optimizer]) -> None:
    next(graph.model.parameters()).data.view(-1)[0] += 1e-3


def _a_gradient(graph: ramify.ChannelGraph, optimizers: Iterable[torch.optim.Optimizer]) -> None:
    next(p.grad for p in graph.model.parameters() if p.grad is not None).add_(1e-3)


def _a_state(graph: ramify.ChannelGraph, optimizers: Iterable[torch.optim.Optimizer]) -> None:
    for optimizer in optimizers:
        for state in optimizer.state.values():
            next(t for t in state.values() if isinstance(t, torch.Tensor) and t.dim()).add_(1e-3)


def _a_group(graph: ramify.ChannelGraph, optimizers: Iterable[torch.optim.Optimizer]) -> None:
    next(iter(optimizers)).param_groups[0]["params"].pop()


@pytest.mark.parametrize("hurt", [_a_weight, _a_gradient, _a_state, _a_group])
def test_the_fuzz_sees_what_is_wrong(
    hurt: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ramify.apply

    def apply(graph: Any, edits: Any, *, optimizer: Any, followers: Any) -> Any:
        edited = real(graph, edits, optimizer=optimizer, followers=followers)
        hurt(edited, optimizer)
        return edited

    assert run(SEED).outcome == RIGHT
    monkeypatch.setattr(ramify, "apply", apply)
    assert run(SEED).outcome == "wrong"


def test_what_a_refused_edit_changes_and_an_error_that_is_no_sentence_are_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(graph: Any, edits: Any, **_: Any) -> Any:
        next(graph.model.parameters()).data.add_(1)
        raise ramify.RamifyError("no")

    monkeypatch.setattr(ramify, "apply", refuse)
    assert run(SEED).said.startswith("what was to stay has changed")

    def fail(graph: Any, edits: Any, **_: Any) -> Any:
        raise KeyError("no")

    monkeypatch.setattr(ramify, "apply", fail)
    assert (run(SEED).outcome, run(SEED).said) == ("raw", "KeyError: 'no'")


def test_places_are_found_by_what_an_entry_is() -> None:
    heads, width = Axis(2), Axis(3)
    edits = Edits(gone={width: {0}}, copies={heads: {1: (0.3, 0.7)}})
    members = edits.members()
    assert members[heads] == [Member(0), Member(1, 0.3), Member(1, 0.7, 1)]
    term = Beside((Each((heads, width)), Fixed(2)))
    assert sources(term, members) == [1, 2, 4, 5, 4, 5, 6, 7]
    assert shares(term, members) == [1, 1, 0.3, 0.3, 0.7, 0.7, 1, 1]


def test_a_run_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[int] = []

    def once(seed: int) -> Trial:
        made.append(seed)
        return Trial(seed, "wrong", "the 3rd of 'a'", params=4, offered_params=3)

    monkeypatch.setattr(command, "run", once)
    for networks in ("2", "3"):
        arguments = ["--networks", networks, "--seed", "7", "--out", str(tmp_path / "rows.jsonl")]
        command.main(arguments)
    assert made == [7, 8, 9]
    said = capsys.readouterr().out
    assert "--seed 9 --networks 1: wrong: the 3rd of 'a'" in said
    assert "| wrong | 3 |" in said
    assert "| parameters in them | 75 % |" in said
