"""What users do beside a search: autocast around it, schedulers of their own, a changed model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import StepLR

import ramify
from ramify import RamifyError
from ramify.relax import RARTS, Searcher
from tests.relax.searching import KINDS, Batch, Mixed, batches, loss, network, searcher

PLAIN: dict[str, Any] = {
    "weight_optimizer": partial(SGD, lr=0.1),
    "arch_optimizer": partial(SGD, lr=0.2),
}


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_around_the_step_sees_the_weights_as_they_are(kind: str) -> None:
    def half(model: nn.Module, batch: Batch) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return loss(model, batch)

    a, p = ((x.float(), y) for x, y in batches(2))
    inside, around = network().float(), network().float()
    searcher(kind, inside, loss=half, **PLAIN).step(a, p)
    with torch.autocast("cpu", torch.bfloat16):
        searcher(kind, around, **PLAIN).step(a, p)
    assert state(inside) == state(around)


def state(model: nn.Module) -> dict[str, list[float]]:
    return {name: tensor.flatten().tolist() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("rate", [0.1, torch.tensor(0.1)])
@pytest.mark.parametrize("own", [True, False])
def test_the_auxiliary_weights_go_at_the_rate_of_the_weights(
    own: bool, rate: float | Tensor
) -> None:
    def optimizer(parameters: list[Tensor]) -> SGD:
        return SGD(parameters, lr=copy.deepcopy(rate), foreach=False)

    halved = partial(StepLR, step_size=1, gamma=0.5)
    given: dict[str, Any] = {"schedules": {"weights": halved}} if own else {}
    made = searcher("rarts", weight_optimizer=optimizer, **given)
    theirs = None if own else halved(made.optimizers["weights"])
    rates = []
    for _ in range(3):
        before = {name: w.clone() for name, w in auxiliary(made).items()}
        made.step(*batches(2))
        rates.append([float(o.param_groups[0]["lr"]) for o in made.optimizers.values()])
        moved = [not torch.equal(w, before[name]) for name, w in auxiliary(made).items()]
        assert all(moved)
        if theirs is not None:
            theirs.step()
    weights, _, copies = zip(*rates, strict=True)
    assert weights == copies
    assert weights == pytest.approx([0.05, 0.025, 0.0125] if own else [0.1, 0.05, 0.025])


def auxiliary(made: Searcher) -> dict[str, Tensor]:
    found: dict[str, Tensor] = made.state_dict()["tensors"]["auxiliary"]
    return found


def scale_of(model: nn.Module) -> Tensor:
    return model.get_parameter("scale")


def test_sparse_gradients_are_those_of_a_dense_embedding() -> None:
    tables = []
    for sparse in (False, True):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Embedding(5, 3, sparse=sparse), nn.Flatten(), nn.Linear(6, 2))
        scale = nn.Parameter(torch.ones(1))
        net.register_parameter("scale", scale)
        made = RARTS(
            net, arch=scale, loss=lambda model, batch: scale_of(model) * loss(model, batch), **PLAIN
        )
        x, y = torch.tensor([[0, 1], [1, 3]]), torch.tensor([0, 1])
        for _ in range(3):
            made.step((x, y), (x.flip(0), y))
        tables.append(net.get_parameter("0.weight"))
    assert torch.allclose(tables[0], tables[1], rtol=1e-6)


@pytest.mark.parametrize(
    "change, seen",
    [
        (lambda m: setattr(m, "out", nn.Linear(4, 2).double()), "out.weight"),
        (lambda m: m.one.requires_grad_(False), "one.weight"),
        (lambda m: m.still.requires_grad_(), "still.weight"),
        (lambda m: m.load_state_dict(m.state_dict(), assign=True), "mix"),
    ],
)
@pytest.mark.parametrize("kind", ["rarts", "darts-1"])
def test_a_model_that_changed_is_not_searched_on(
    kind: str, change: Callable[[Mixed], object], seen: str
) -> None:
    model = network()
    model.still = nn.Linear(1, 1).requires_grad_(False)
    made = searcher(kind, model)
    made.step(*batches(2))
    change(model)
    before = state(model)
    with pytest.raises(RamifyError, match=f"'{seen}' was replaced.*make a new searcher"):
        made.step(*batches(2))
    assert state(model) == before


def test_gates_that_were_folded_are_not_searched_on(tmp_path: Path) -> None:
    net, x = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1)), torch.ones(4, 2)
    gates = ramify.gate(ramify.trace(net, x))
    made = RARTS(net, arch=gates, loss=lambda m, batch: m(batch).square().mean(), **PLAIN)
    made.step(x, x)
    with pytest.raises(RamifyError, match="ramify.fold"):
        ramify.save(net, tmp_path / "net")
    ramify.fold(net)
    with pytest.raises(RamifyError, match="make a new searcher"):
        made.step(x, x)
