"""The state of a search: from it, new objects go on to the same numbers, bit for bit."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW

from ramify import RamifyError
from ramify.relax import Searcher
from ramify.store.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from tests.relax.searching import KINDS, batches, cosine, network, searcher, stairs

SETTINGS: dict[str, Any] = {
    "schedules": {"weights": stairs, "arch": cosine},
    "gamma": 0.01,
    "penalty": lambda arch: torch.stack([a.abs().sum() for a in arch]).sum(),
    "clip": 1.0,
}
OPTIMIZERS: dict[str, Any] = {
    "momentum": {"weight_optimizer": partial(SGD, lr=0.1, momentum=0.9)},
    "adam": {"weight_optimizer": partial(Adam, lr=0.01), "arch_optimizer": partial(AdamW, lr=0.1)},
}


def fresh(kind: str, optimizers: str, seed: int) -> Searcher:
    torch.manual_seed(seed)
    model = network(norm=True, dropout=0.4)
    if seed:  # other values than those of the search that is resumed
        with torch.no_grad():
            for tensor in model.state_dict().values():
                tensor.add_(1)
    return searcher(kind, model, **SETTINGS | OPTIMIZERS[optimizers])


def go(made: Searcher, steps: range) -> list[Any]:
    data = batches(20)
    return [made.step(data[2 * k], data[2 * k + 1]) for k in steps]


def flat(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for key, item in items for k, v in flat(item, f"{name}/{key}").items()}
    return {name: value}


def same(one: Any, other: Any) -> None:
    one, other = flat(one), flat(other)
    assert one.keys() == other.keys()
    for name, value in one.items():
        equal = torch.equal(value, other[name]) if isinstance(value, Tensor) else None
        assert (value == other[name]) if equal is None else equal, name


@pytest.mark.parametrize("optimizers", OPTIMIZERS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_search_goes_on_bit_for_bit(kind: str, optimizers: str, tmp_path: Path) -> None:
    made = fresh(kind, optimizers, 0)
    go(made, range(4))
    torch.save(made.state_dict(), tmp_path / "state.pt")
    file = tmp_path / "state.safetensors"
    write_checkpoint(file, Checkpoint("search", made.state_dict(), [], []))
    expected = go(made, range(4, 9))
    end = copy.deepcopy(made.state_dict())
    states = [torch.load(tmp_path / "state.pt", weights_only=True)]
    states.append(read_checkpoint(file).state)
    for state in states:
        again = fresh(kind, optimizers, 1)
        again.load_state_dict(state)
        assert go(again, range(4, 9)) == expected
        same(again.state_dict(), end)
    assert end["steps"] == 9
    rates = [group["settings"]["lr"] for group in end["optimizers"]["weights"]["groups"]]
    assert rates == pytest.approx([(0.1 if optimizers == "momentum" else 0.01) / 8])


def test_the_same_state_twice_is_not_shared() -> None:
    made = fresh("rarts", "adam", 0)
    go(made, range(3))
    state = copy.deepcopy(made.state_dict())
    one, two = fresh("rarts", "adam", 1), fresh("rarts", "adam", 2)
    one.load_state_dict(state)
    two.load_state_dict(state)
    go(one, range(3, 6))
    torch.manual_seed(0)
    two.load_state_dict(state)
    go(two, range(3, 6))
    same(one.state_dict(), two.state_dict())


def test_names_of_the_state_are_those_of_parameters() -> None:
    made = fresh("rarts", "momentum", 0)
    go(made, range(1))
    state = made.state_dict()
    names = [name for name, _ in made.model.named_parameters()]
    weights = [name for name in names if name not in ("mix", "gate")]
    assert list(state["tensors"]["model"]) == names + [n for n, _ in made.model.named_buffers()]
    for role in ("weights", "auxiliary"):
        assert list(state["optimizers"][role]["state"]) == weights
        assert state["optimizers"][role]["groups"][0]["params"] == weights
    assert state["optimizers"]["arch"]["groups"][0]["params"] == ["mix", "gate"]
    assert list(state["schedules"]) == ["weights", "arch", "auxiliary"]


def other(kind: str = "rarts", **settings: Any) -> Searcher:
    return searcher(kind, network(norm=True), **SETTINGS | OPTIMIZERS["momentum"] | settings)


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda: other("milenas"), "that of RARTS, but this is MiLeNAS"),
        (lambda: other(weight_optimizer=partial(Adam, lr=0.1)), "holds the state of SGD over 8"),
        (
            lambda: other(schedules=None),
            "schedules of weights, arch, auxiliary, and here .* nothing",
        ),
        (
            lambda: other(schedules={"weights": cosine, "arch": cosine}),
            "kinds .*MultiStepLR.*, and here they are .*'weights': 'CosineAnnealingLR'",
        ),
        (lambda: searcher("rarts", network()), "'norm.weight' is .* in the state and absent here"),
        (lambda: searcher("rarts", network(norm=True).float()), "'mix' is .*float64.*float32"),
    ],
)
def test_a_state_of_something_else_changes_nothing(make: Any, says: str) -> None:
    state = fresh("rarts", "momentum", 0).state_dict()
    made = make()
    before = copy.deepcopy(made.state_dict())
    with pytest.raises(RamifyError, match=says):
        made.load_state_dict(state)
    same(made.state_dict(), before)


def test_what_is_no_state_is_refused() -> None:
    with pytest.raises(RamifyError, match="the state is that of no searcher"):
        other().load_state_dict({})
