"""Steps of every searcher against their equations written out, on any kind of model and loss."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.optim import SGD
from torch.utils._python_dispatch import TorchDispatchMode

import ramify
from ramify import RamifyError
from ramify.relax import DARTS, RARTS, Searcher, darts
from tests.relax.searching import (
    KINDS,
    SGD_ALONE,
    Batch,
    Named,
    batches,
    loss,
    network,
    same,
    searcher,
)

ARCH = ("mix", "gate")


def split(model: nn.Module) -> tuple[Named, Named]:
    """The model's weights and α as leaves of their own."""
    leaves = {n: p.detach().clone().requires_grad_() for n, p in model.named_parameters()}
    return {n: p for n, p in leaves.items() if n not in ARCH}, {n: leaves[n] for n in ARCH}


def at(model: nn.Module, weights: Named, alpha: Named, batch: Batch) -> Tensor:
    out: Any = functional_call(model, weights | alpha, (batch[0],))
    return F.cross_entropy(out, batch[1])


def slopes(value: Tensor, named: Named, **kinds: Any) -> Named:
    found = torch.autograd.grad(value, list(named.values()), **kinds)
    return dict(zip(named, found, strict=True))


def moved(named: Named, gradients: Named, rate: float) -> Named:
    return {n: (p - rate * gradients[n]).detach().requires_grad_() for n, p in named.items()}


def written(kind: str, model: nn.Module, a: Batch, p: Batch) -> Named:
    """One step of plain gradient descent by the equations, all passes literal."""
    w, alpha = split(model)
    value = partial(at, model)
    if kind == "rarts":
        u, (w, _) = w, split(model)
        g = slopes(0.7 * value(w, alpha, a) + 0.2 * distance(u, w), w)
        w = moved(w, g, 0.1)
        u = moved(u, slopes(value(u, alpha, p) + 0.2 * distance(u, w), u), 0.1)
        total = 0.7 * value(w, alpha, a) + value(u, alpha, p)
        return u | moved(alpha, slopes(total, alpha), 0.2) | {f"w {n}": t for n, t in w.items()}
    if kind == "joint":
        total = value(w, alpha, a) + value(w, alpha, p)
        g = slopes(total, w | alpha)
        return moved(w, g, 0.1) | moved(alpha, g, 0.2)
    w = moved(w, slopes(value(w, alpha, a), w), 0.1)
    if kind == "darts-1":
        total = value(w, alpha, p)
    elif kind == "milenas":
        total = value(w, alpha, a) + 0.6 * value(w, alpha, p)
    else:
        xi = 0.1 if kind == "darts-2 exact" else 0.3
        g = slopes(value(w, alpha, a), w, create_graph=True)
        total = value({n: t - xi * g[n] for n, t in w.items()}, alpha, p)
    return w | moved(alpha, slopes(total, alpha), 0.2)


def distance(one: Named, other: Named) -> Tensor:
    return torch.stack([(one[n] - other[n]).square().sum() for n in one]).sum()


def found(made: Searcher) -> Named:
    tensors = made.state_dict()["tensors"]
    return tensors["model"] | {f"w {n}": t for n, t in tensors.get("auxiliary", {}).items()}


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_is_that_of_the_equations(kind: str, mode: bool) -> None:
    model, (a, p, b, q) = network().train(mode), batches(4)
    made = searcher(kind, model, **SGD_ALONE)
    first = made.step(a, p)
    assert model.training is mode
    tolerance = 1e-6 if kind == "darts-2" else 1e-12
    same(found(made), written(kind, network(), a, p), tolerance)
    assert first.loss_a == pytest.approx(float(loss(network(), a).mean().detach()))
    if kind != "rarts":  # whose copies are no longer alike, and are not in the model alone
        before = copy.deepcopy(model)
        made.step(b, q)
        same(found(made), written(kind, before, b, q), tolerance)
    assert made.steps == (1 if kind == "rarts" else 2)


def arch_gradient(order: int = 2, **settings: Any) -> Tensor:
    """α's gradient in one step, all of it."""
    model, (a, p) = network(dropout=0.3), batches(2)
    before = torch.cat([model.mix, model.gate]).detach().clone()
    torch.manual_seed(1)
    DARTS(model, arch=[model.mix, model.gate], loss=loss, order=order, **SGD_ALONE | settings).step(
        a, p
    )
    return (before - torch.cat([model.mix, model.gate]).detach()) / 0.2


def test_a_central_difference_is_off_by_the_square_of_its_radius(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exact = arch_gradient(exact=True, xi=0.5)
    errors = []
    for radius in (0.1, 0.01, 0.001):
        monkeypatch.setattr(darts, "RADIUS", radius)
        errors.append(float((arch_gradient(xi=0.5) - exact).abs().max()))
    assert errors[0] / errors[1] == pytest.approx(100, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(100, rel=0.1)
    assert errors[1] < 1e-4 * float((exact - arch_gradient(order=1)).abs().max())


class Complex(nn.Module):
    """Real features times complex weights, and a factor to learn in between."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 5)
        self.mixed = nn.Parameter(torch.randn(5, 3, dtype=torch.complex128))
        self.alpha = nn.Parameter(torch.ones(5))

    def forward(self, x: Tensor) -> Tensor:
        features = (torch.tanh(self.first(x)) * self.alpha).to(torch.complex128)
        return (features @ self.mixed).abs()


def test_a_central_difference_along_complex_weights() -> None:
    found = []
    for exact in (True, False):
        torch.manual_seed(0)
        model, x = Complex().double(), torch.randn(2, 6, 2).double()
        before = model.alpha.detach().clone()
        DARTS(
            model,
            order=2,
            exact=exact,
            arch=model.alpha,
            loss=lambda model, batch: model(batch).square().mean(1),
            **SGD_ALONE,
        ).step(*x)
        found.append(model.alpha.detach() - before)
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-7)


def test_the_lagrangian_of_complex_weights_is_real() -> None:
    """‖u − w‖² with all entries 3 + 4i apart."""
    torch.manual_seed(0)
    model, x = Complex().double(), torch.randn(2, 6, 2).double()
    made = RARTS(
        model,
        lam=0.0,
        beta=2.0,
        arch=model.alpha,
        loss=lambda model, batch: model(batch).square().mean(1),
        **SGD_ALONE,
    )
    before = made.lagrangian(*x)
    made.auxiliary["mixed"].add_(3 + 4j)
    assert made.lagrangian(*x) - before == pytest.approx(15 * 25)


def test_a_central_difference_draws_no_more_than_the_passes_it_stands_for() -> None:
    states = []
    for exact in (True, False):
        arch_gradient(exact=exact)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_ahead_goes_by_the_rate_of_each_group() -> None:
    model = network()
    groups = [{"params": [*model.one.parameters(), *model.two.parameters()], "lr": 0.5}]
    groups += [{"params": list(model.out.parameters()), "lr": 0.0}]
    a, p = batches(2)
    settings = SGD_ALONE | {"weight_optimizer": SGD(groups)}
    made = searcher("darts-2 exact", model, **settings)
    before = {n: getattr(model, n).detach().clone() for n in ARCH}
    made.step(a, p)
    w, alpha = split(model)
    alpha = {n: t.requires_grad_() for n, t in before.items()}
    g = slopes(at(model, w, alpha, a), w, create_graph=True)
    rates = {n: 0.0 if n.startswith("out") else 0.5 for n in w}
    value = at(model, {n: t - rates[n] * g[n] for n, t in w.items()}, alpha, p)
    same(
        {n: getattr(model, n).detach() for n in ARCH},
        {n: t.detach() for n, t in moved(alpha, slopes(value, alpha), 0.2).items()},
        1e-12,
    )


def test_running_statistics_are_each_copys_and_move_by_real_passes() -> None:
    a, p = batches(2)
    model = network(norm=True)
    slow = partial(SGD, lr=1e-9)
    made = searcher("rarts", model, weight_optimizer=slow, arch_optimizer=slow)
    made.step(a, p)
    for tensors, batch in zip(("auxiliary", "model"), (a, p), strict=True):
        plain = network(norm=True)
        for _ in range(2):  # to move the weights, and to move α
            plain(batch[0])
        held = made.state_dict()["tensors"][tensors]
        for name, buffer in plain.named_buffers():
            assert torch.allclose(held[name], buffer, rtol=1e-6), name
    for kind, passes in {"darts-1": 2, "darts-2": 1, "darts-2 exact": 1, "milenas": 3}.items():
        model = network(norm=True)
        searcher(kind, model).step(a, p)
        assert int(model.norm.num_batches_tracked) == passes, kind  # type: ignore[arg-type, union-attr]
    assert isinstance(made, RARTS)
    before = copy.deepcopy(made.state_dict()["tensors"])
    made.lagrangian(a, p)
    for part, tensors in made.state_dict()["tensors"].items():
        same(tensors, before[part])


class Sums(nn.Module):
    """A buffer that is replaced, not written to; a tied weight; a frozen one; a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.out = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 4)
        self.again = nn.Linear(4, 4)
        self.again.weight = self.out.weight
        self.still = nn.Linear(4, 1).requires_grad_(False)
        self.gate = nn.Parameter(torch.ones(4))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen = self.seen + len(x)
        held = self.rnn(x)[0][:, -1] * self.gate
        out: Tensor = self.still(torch.tanh(self.again(torch.tanh(self.out(held)))))
        return out


def test_recurrent_tied_frozen_and_replaced() -> None:
    torch.manual_seed(0)
    model, x = Sums().double(), torch.randn(5, 4, 3).double()
    still = copy.deepcopy(model.still.state_dict())
    made = RARTS(
        model,
        arch=model.gate,
        loss=lambda m, batch: m(batch).square().squeeze(1),
        weight_optimizer=partial(SGD, lr=0.1),
        arch_optimizer=partial(SGD, lr=0.1),
    )
    rnn = model.rnn.weight_ih_l0.detach().clone()
    for _ in range(3):
        made.step(x, x)
    assert not torch.equal(model.rnn.weight_ih_l0, rnn)
    assert model.again.weight is model.out.weight
    same(dict(model.still.state_dict()), dict(still))
    tensors = made.state_dict()["tensors"]
    assert "again.weight" not in tensors["auxiliary"]
    assert "still.weight" not in tensors["auxiliary"]
    assert float(tensors["auxiliary"]["seen"]) == float(model.seen) == 30
    assert not torch.equal(tensors["auxiliary"]["rnn.weight_ih_l0"], model.rnn.weight_ih_l0)
    one, two = (model(x) for _ in range(2))
    assert torch.equal(one, two)


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_in_the_loss(kind: str) -> None:
    def half(model: nn.Module, batch: Batch) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            out = model(batch[0])
        return F.cross_entropy(out, batch[1], reduction="none")

    model = network().float()
    made = searcher(kind, model, loss=half)
    [(x, y)] = batches(1)
    first, *_, last = [made.step((x.float(), y), (x.float(), y)) for _ in range(30)]
    assert last.loss_a + last.loss_p < first.loss_a + first.loss_p
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_one_number_is_as_good_as_one_a_sample(kind: str) -> None:
    each, mean = network(), network()
    searcher(kind, each).step(*batches(2))
    searcher(kind, mean, loss=lambda m, batch: loss(m, batch).mean()).step(*batches(2))
    same(dict(each.named_parameters()), dict(mean.named_parameters()))


class Passes(TorchDispatchMode):
    """Which weights' gradients are computed: masks of every backward pass of a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[bool] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.aten.convolution_backward.default:
            self.weights.append(args[-1][1])
        return func(*args, **(kwargs or {}))


def test_the_pass_of_a_cells_logits_takes_no_gradients_of_weights() -> None:
    class Cell(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.one, self.two = (nn.Conv2d(2, 2, 3, padding=1) for _ in range(3))
            self.mix = nn.Parameter(torch.zeros(2))

        def forward(self, x: Tensor) -> Tensor:
            x, share = torch.tanh(self.first(x)), self.mix.softmax(0)
            out: Tensor = share[0] * self.one(x) + share[1] * self.two(x)
            return out.square().mean((1, 2, 3))

    model, x = Cell(), torch.randn(2, 2, 5, 5)
    sgd = partial(SGD, lr=0.1)
    made = RARTS(
        model, arch=model.mix, loss=lambda m, b: m(b), weight_optimizer=sgd, arch_optimizer=sgd
    )
    with Passes() as passes:
        made.step(x, x)
    assert passes.weights == [True] * 6  # three convolutions for w, three for u, none for α


def test_a_proximal_penalty_moves_alpha_after_its_step() -> None:
    class Shrink:
        by_proximal = True

        def __call__(self, arch: list[Tensor]) -> Tensor:
            return torch.stack([a.abs().sum() for a in arch]).sum()

        def proximal(self, arch: list[Tensor], step: float) -> None:
            for a in arch:
                a.copy_(F.softshrink(a, step))

    penalty, (a, p) = Shrink(), batches(2)
    plain, mapped = network(), network()
    searcher("joint", plain, **SGD_ALONE).step(a, p)
    step = searcher("joint", mapped, **SGD_ALONE, gamma=0.5, penalty=penalty).step(a, p)
    assert step.penalty == pytest.approx(4.5)
    for name in ARCH:
        assert torch.equal(getattr(mapped, name), F.softshrink(getattr(plain, name), 0.2 * 0.5))
    penalty.by_proximal = False
    sloped = network()
    searcher("joint", sloped, **SGD_ALONE, gamma=0.5, penalty=penalty).step(a, p)
    assert torch.allclose(sloped.gate, plain.gate - 0.2 * 0.5)
    rates = [{"params": [mapped.mix], "lr": 0.1}, {"params": [mapped.gate], "lr": 0.2}]
    penalty.by_proximal = True
    made = searcher("joint", mapped, arch_optimizer=SGD(rates), gamma=0.5, penalty=penalty)
    with pytest.raises(RamifyError, match="needs one for all"):
        made.step(a, p)


def test_clip_is_of_each_copy_and_not_of_alpha() -> None:
    model, (a, p) = network(), batches(2)
    before = {n: t.detach().clone() for n, t in model.named_parameters()}
    made = searcher("rarts", model, **SGD_ALONE, clip=1e-3)
    made.step(a, p)
    u, w = made.state_dict()["tensors"]["model"], made.state_dict()["tensors"]["auxiliary"]
    assert all(torch.equal(tensor, w[name]) for name, tensor in made.auxiliary.items())
    for held in (u, w):
        move = torch.cat([(held[n] - before[n]).flatten() for n in w])
        assert float(move.norm()) == pytest.approx(0.1 * 1e-3, rel=1e-3)
    assert float((u["gate"] - before["gate"]).norm()) > 1e-3


def test_schedules_run_once_a_step_and_the_auxiliary_follows_the_weights() -> None:
    def falling(optimizer: torch.optim.Optimizer) -> Any:
        return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)

    made = searcher("rarts", schedules={"weights": falling})
    for _ in range(2):
        made.step(*batches(2))
    rates = {role: o.param_groups[0]["lr"] for role, o in made.optimizers.items()}
    assert rates == pytest.approx({"weights": 0.025, "auxiliary": 0.025, "arch": 0.05})


def test_an_optimizer_of_groups_is_made_again_for_the_auxiliary_weights() -> None:
    model = network()
    groups = [{"params": list(model.out.parameters()), "weight_decay": 0.1}]
    groups += [{"params": [*model.one.parameters(), *model.two.parameters()], "lr": 0.02}]
    optimizer = torch.optim.AdamW(groups, lr=0.01, betas=(0.8, 0.9))
    made = searcher("rarts", model, weight_optimizer=optimizer)
    other = made.optimizers["auxiliary"]
    assert made.optimizers["weights"] is optimizer
    assert isinstance(other, torch.optim.AdamW)
    for one, two in zip(optimizer.param_groups, other.param_groups, strict=True):
        assert {**one, "params": 0} == {**two, "params": 0}
        for x, y in zip(one["params"], two["params"], strict=True):
            assert x is not y
            assert torch.equal(x, y)


def test_the_model_is_left_as_it_was_but_for_its_values() -> None:
    model = network(norm=True)
    before = {n: sorted(vars(m)) for n, m in model.named_modules()}
    held = {n: id(t) for n, t in model.state_dict(keep_vars=True).items()}
    for kind in KINDS:
        searcher(kind, model).step(*batches(2))
    assert {n: sorted(vars(m)) for n, m in model.named_modules()} == before
    assert {n: id(t) for n, t in model.state_dict(keep_vars=True).items()} == held
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_the_public_names() -> None:
    for name in ("RARTS", "DARTS", "MiLeNAS", "Joint", "halves", "check_halves", "Pairs"):
        assert hasattr(ramify.relax, name)
    assert isinstance(searcher("rarts").arch, list)
