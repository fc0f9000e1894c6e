"""What searchers refuse, and that a step that is refused leaves the model as it was."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import LBFGS, SGD
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau

from ramify import RamifyError
from ramify.relax import Joint
from tests.relax.searching import (
    KINDS,
    SGD_ALONE,
    Batch,
    Mixed,
    batches,
    loss,
    network,
    same,
    searcher,
)

Wrong = Callable[[Mixed, Batch, Batch], object]


def made(kind: str = "rarts", **settings: Any) -> Wrong:
    """A searcher that cannot be made."""
    return lambda model, a, p: searcher(kind, model, **settings)


def stepped(**settings: Any) -> Wrong:
    """A searcher whose step cannot be taken."""
    return lambda model, a, p: searcher("joint", model, **settings).step(a, p)


def stepped_ahead(**settings: Any) -> Wrong:
    """The same with the loss at other weights too."""
    return lambda model, a, p: searcher("darts-2", model, **settings).step(a, p)


def overwriting(model: nn.Module, batch: Batch) -> Tensor:
    losses = loss(model, batch).exp()
    return losses.mul_(2.0)


def frozen(model: Mixed, a: Batch, p: Batch) -> None:
    model.mix.requires_grad_(False)
    searcher("rarts", model)


def without_gradients(model: Mixed, a: Batch, p: Batch) -> None:
    with torch.no_grad():
        searcher("joint", model).step(a, p)


def longer_than_its_schedule(model: Mixed, a: Batch, p: Batch) -> None:
    schedule = partial(OneCycleLR, max_lr=0.1, total_steps=2)
    one = searcher("joint", model, schedules={"weights": schedule})
    for _ in range(3):
        one.step(a, p)


def over(part: str) -> Wrong:
    def case(model: Mixed, a: Batch, p: Batch) -> None:
        parameters = model.get_submodule(part).parameters()
        searcher("rarts", model, weight_optimizer=SGD(parameters, lr=0.1))

    return case


@pytest.mark.parametrize(
    "wrong, says",
    [
        (
            made(arch=[nn.Parameter(torch.ones(2))]),
            r"0 of arch, a Parameter of shape \(2,\) is not",
        ),
        (made(arch=[torch.ones(2)]), "number 0 of arch, a Tensor .*leaf parameters"),
        (made(arch=[]), "arch is empty"),
        (frozen, "'mix' takes no gradients"),
        (lambda m, a, p: searcher("joint", m, arch=m.parameters()), "no weights beside arch"),
        (over(""), r"weights optimizer holds a parameter of shape \(2,\)"),
        (over("one"), "leaves out 4 of 6 weights, such as 'two.weight'"),
        (made(weight_optimizer=lambda p: 0.1), "the weights optimizer is a float"),
        (stepped(loss=lambda m, b: m.one(b[0]).sum()), "none of 2 parameters .* such as 'mix'"),
        (without_gradients, "depends on none of 6 parameters"),
        (stepped(loss=lambda m, b: m(b["x"])), "failed on a batch of type tuple .TypeError"),
        (stepped_ahead(loss=lambda m, b: m(b["x"])), "failed on a batch of type tuple .TypeError"),
        (stepped(loss=overwriting), "write that operation out of place"),
        (stepped_ahead(loss=overwriting), "write that operation out of place"),
        (stepped(loss=lambda m, b: m(b[0])), r"the loss gave shape \(6, 2\)"),
        (stepped(loss=lambda m, b: 1.0), "the loss gave 1.0; it gives one number"),
        (stepped(loss=lambda m, b: loss(m, b)[:0]), "a batch holds no sample"),
        (stepped(loss=lambda m, b: torch.inf * loss(m, b)), r"not finite \(inf here\) in step 0"),
        (
            stepped(
                loss=lambda m, b: 1e4 * loss(m, b),
                weight_optimizer=partial(SGD, lr=0.0),
                arch_optimizer=partial(SGD, lr=1e308),
            ),
            "'(mix|gate)' is no longer finite after step 0",
        ),
        (made(gamma=0.1), "no penalty for it to weigh"),
        (made(gamma=-0.1, penalty=sum), "gamma is -0.1"),
        (stepped(gamma=0.1, penalty=lambda arch: arch[0]), r"a tensor of shape \(\)"),
        (made(lam=-1), "lam is -1"),
        (made(beta=float("nan")), "beta is nan"),
        (made("milenas", lam=-1), "lam is -1"),
        (made(clip=0.0), "clip is 0.0"),
        (made("darts-1", order=3), "order is 3"),
        (made("darts-1", exact=True), "looks no step ahead"),
        (made("darts-1", xi=0.1), "looks no step ahead"),
        (made("darts-2", xi=-0.1), "xi is -0.1"),
        (made(weight_optimizer=LBFGS), r"LBFGS has step\(closure\), but a searcher calls step\(\)"),
        (
            made(schedules={"weights": ReduceLROnPlateau}),
            r"weights schedule ReduceLROnPlateau has step\(metrics",
        ),
        (longer_than_its_schedule, "weights schedule OneCycleLR failed at step 3 .Tried to step"),
        (
            made("joint", schedules={"auxiliary": None}),
            "'auxiliary', and Joint moves weights, arch",
        ),
    ],
)
def test_refusals(wrong: Wrong, says: str) -> None:
    with pytest.raises(RamifyError, match=says):
        wrong(network(), *batches(2))


def test_a_wrapped_model_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DistributedDataParallel, "__init__", lambda self: nn.Module.__init__(self))
    wrapped = DistributedDataParallel()  # type: ignore[call-arg]
    with pytest.raises(RamifyError, match=r"search on model\.module"):
        Joint(wrapped, arch=[], loss=loss, **SGD_ALONE)


def test_what_is_not_finite_does_not_move_the_model() -> None:
    model = network()
    before = {n: t.detach().clone() for n, t in model.state_dict().items()}
    for kind in KINDS:
        made = searcher(kind, model, loss=lambda m, b: loss(m, b) * torch.nan)
        with pytest.raises(RamifyError, match="not finite"):
            made.step(*batches(2))
        assert made.steps == 0
        same(dict(model.state_dict()), before)
