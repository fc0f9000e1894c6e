"""The loop of a search: events, a kill and a resume to the same numbers, a stop at a collapse."""

from __future__ import annotations

import json
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

import ramify
from ramify import RamifyError
from ramify.relax import L1, RARTS, Pairs, Searcher
from ramify.store.checkpoint import Checkpoint, write_checkpoint
from ramify.train.history import Event
from tests.processes import clean_processes
from tests.relax.searching import KINDS, batches, cosine, loss, network, searcher


def made(kind: str = "rarts", **settings: Any) -> Searcher:
    torch.manual_seed(0)
    model = network(norm=True, dropout=0.3)
    return searcher(kind, model, schedules={"weights": cosine}, **settings)


def pairs() -> Pairs:
    data = batches(8)
    return Pairs(data[:4], lambda epoch: data[4:][:: -1 if epoch % 2 else 1])


def numbers(history: list[Event]) -> list[Event]:
    return [{k: v for k, v in event.items() if k not in ("t", "seconds")} for event in history]


def test_events_say_what_an_epoch_saw() -> None:
    told: list[Event] = []
    history = ramify.search(
        made(),
        pairs(),
        epochs=3,
        log=told.append,
        evaluate=lambda model: {"training": model.training, "each": [1, 2]},
        tags={"job": "a"},
    )
    assert told == history
    assert list(history[0])[:3] == ["event", "job", "t"]
    assert [(e["event"], e["job"], e["epoch"], e["step"]) for e in history] == [
        ("epoch", "a", n, 4 * n + 4) for n in range(3)
    ]
    plain, steps = made(), []
    for epoch in range(3):
        steps = [plain.step(*pair) for pair in pairs()(epoch)]
    for key in ("loss_a", "loss_p"):
        mean = sum(getattr(step, key) for step in steps) / 4
        assert history[-1][key] == pytest.approx(mean, rel=1e-12)
    entries = torch.cat([alpha.detach().flatten() for alpha in plain.arch])
    expected = [float(entries.min()), float(entries.mean()), float(entries.max()), 0.0]
    assert list(history[-1]["alpha"].values()) == pytest.approx(expected, rel=1e-6)
    assert history[-1]["training"] is False  # what is measured changes no statistics of norms
    assert 0 < history[0]["seconds"] <= history[0]["t"] < history[1]["t"]
    json.dumps(history)


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_search_goes_on_to_the_same_numbers(kind: str, tmp_path: Path) -> None:
    whole = made(kind)
    expected = ramify.search(whole, pairs(), epochs=4)
    path = tmp_path / "c.safetensors"

    def interrupted(event: Event) -> None:
        if event["epoch"] == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ramify.search(made(kind), pairs(), epochs=4, checkpoint=path, log=interrupted)
    torch.manual_seed(99)
    again = made(kind)
    torch.manual_seed(99)
    found = ramify.search(again, pairs(), epochs=4, checkpoint=path)
    assert numbers(found) == numbers(expected)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name
    assert ramify.search(again, pairs(), epochs=4, checkpoint=path) == found


def killed(path: Path) -> None:
    """A search whose process is killed in the middle of its second epoch."""
    step = RARTS.step

    def dying(self: RARTS, a: Any, p: Any) -> Any:
        if self.steps == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, a, p)

    RARTS.step = dying  # type: ignore[method-assign]
    torch.set_num_threads(1)
    ramify.search(made(), pairs(), epochs=3, checkpoint=path)


def test_a_killed_search_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "c"
    process = clean_processes().Process(target=killed, args=(path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    again = made()
    found = ramify.search(again, pairs(), epochs=3, checkpoint=path)
    whole = made()
    assert numbers(found) == numbers(ramify.search(whole, pairs(), epochs=3))
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name


def test_after_epoch_ends_a_search_for_good(tmp_path: Path) -> None:
    path = tmp_path / "c"
    for _ in range(2):
        history = ramify.search(
            made(), pairs(), epochs=9, checkpoint=path, after_epoch=lambda e: e["epoch"] == 1
        )
        assert len(history) == 2


def gated(rate: float, penalty: Any, weight: float) -> tuple[Searcher, Pairs]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    data = [(x.float(), y) for x, y in batches(4)]
    gates = ramify.gate(ramify.trace(net, data[0][0]))
    sgd = partial(SGD, lr=rate)
    settings: dict[str, Any] = {"weight_optimizer": sgd, "arch_optimizer": sgd}
    made = RARTS(net, arch=gates, loss=loss, gamma=weight, penalty=penalty, **settings)
    return made, Pairs(data[:2], data[2:])


def test_a_layer_without_gates_stops_the_search_with_its_last_good_checkpoint(
    tmp_path: Path,
) -> None:
    path = tmp_path / "c"
    ramify.search(*gated(0.05, None, 0.0), epochs=1, checkpoint=path)
    good = path.read_bytes()
    made, data = gated(0.05, L1(by_proximal=True), 50.0)
    with pytest.raises(RamifyError, match="after epoch 1: all 4 gates of '0' are zero"):
        ramify.search(made, data, epochs=3, checkpoint=path)
    assert path.read_bytes() == good


def test_what_is_not_finite_stops_the_search_with_its_last_good_checkpoint(tmp_path: Path) -> None:
    path, made = tmp_path / "c", gated(0.05, None, 0.0)
    ramify.search(*made, epochs=1, checkpoint=path)
    good, (first, second) = path.read_bytes(), made[1].a

    def broken(epoch: int) -> list[tuple[Tensor, Tensor]]:
        return [first, (second[0] * torch.nan, second[1])]

    with pytest.raises(RamifyError, match="search, epoch 1, step 1: the loss is not finite"):
        ramify.search(made[0], Pairs(broken, made[1].p), epochs=3, checkpoint=path)
    assert path.read_bytes() == good
    again, data = gated(0.05, None, 0.0)
    assert [e["step"] for e in ramify.search(again, data, epochs=2, checkpoint=path)] == [2, 4]


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "c"
    write_checkpoint(path, Checkpoint("training", {"a": torch.ones(1)}, [], []))
    with pytest.raises(RamifyError, match="c is not the checkpoint of a search run; restore"):
        ramify.search(made(), pairs(), epochs=1, checkpoint=path)
    path.unlink()
    ramify.search(made(), pairs(), epochs=1, checkpoint=path)
    with pytest.raises(RamifyError, match="c: the state is that of RARTS, but this is Joint"):
        ramify.search(made("joint"), pairs(), epochs=1, checkpoint=path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RamifyError, match="c is not a readable safetensors file"):
        ramify.search(made(), pairs(), epochs=1, checkpoint=path)
