"""Optimizers that torch does not have: what they keep is told by what it is, or refused by name."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import StepLR

import ramify
from ramify import Prune, RamifyError, Split
from ramify.edit.state_trial import try_states

UNEVEN = [Split("0", 0, weights=(1.5, -0.5)), Split("2", 1, weights=(0.3, 0.7)), Prune("0", 3)]


class Own(torch.optim.Optimizer):
    """What the optimizers of these tests share: a state of one entry, made by a method."""

    key = "entry"

    def __init__(self, params: Any, lr: float = 0.01) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    state = self.state[p]
                    state["step"] = state.get("step", 0) + 1
                    self.update(p, state)
                    p.sub_(p.grad, alpha=group["lr"])

    def update(self, p: Tensor, state: dict[str, Any]) -> None:
        raise NotImplementedError


class Slow(Own):
    """An average of the weights that lags behind them."""

    def update(self, p: Tensor, state: dict[str, Any]) -> None:
        state.setdefault("entry", p.clone()).lerp_(p, 0.3)


class Start(Own):
    """The weights as they were at the first step."""

    def update(self, p: Tensor, state: dict[str, Any]) -> None:
        state.setdefault("entry", p.clone())


class Mean(Own):
    """Means of gradients under no usual name."""

    def update(self, p: Tensor, state: dict[str, Any]) -> None:
        state.setdefault("entry", torch.zeros_like(p)).mul_(0.9).add_(p.grad)


class Variance(Own):
    """The variance of gradients around their mean."""

    def update(self, p: Tensor, state: dict[str, Any]) -> None:
        mean = state.setdefault("mean", torch.zeros_like(p))
        mean.lerp_(p.grad, 0.1)
        state.setdefault("entry", torch.zeros_like(p)).lerp_((p.grad - mean).square(), 0.1)


class Sizes(Own):
    """A running mean of the sizes of gradients."""

    def update(self, p: Tensor, state: dict[str, Any]) -> None:
        state.setdefault("entry", torch.zeros_like(p)).lerp_(p.grad.abs(), 0.1)


class Signs(Own):
    """A running mean of signs."""

    def update(self, p: Tensor, state: dict[str, Any]) -> None:
        state.setdefault("entry", torch.zeros_like(p)).lerp_(p.grad.sign(), 0.1)


class Mask(Own):
    """What a sparse optimizer leaves at zero."""

    def update(self, p: Tensor, state: dict[str, Any]) -> None:
        state.setdefault("entry", torch.ones_like(p, dtype=torch.bool))


class Cubes(Own):
    """Third moments: of no kind that follows."""

    def update(self, p: Tensor, state: dict[str, Any]) -> None:
        state.setdefault("entry", torch.zeros_like(p)).lerp_(p.grad**3, 0.1)


class Preconditioner(Own):
    """A matrix over the rows, which has the shape of a square weight by chance."""

    def update(self, p: Tensor, state: dict[str, Any]) -> None:
        rows = p.grad.flatten(1) if p.dim() > 1 else p.grad[:, None]
        state.setdefault("entry", torch.eye(len(rows))).add_(rows @ rows.T)


class Lists(Own):
    """Matrices in a list."""

    def update(self, p: Tensor, state: dict[str, Any]) -> None:
        state.setdefault("entry", [torch.eye(n) for n in p.shape])


class Codes(Own):
    """Moments in eight bits."""

    def update(self, p: Tensor, state: dict[str, Any]) -> None:
        state.setdefault("entry", torch.zeros_like(p, dtype=torch.uint8)).add_(1)


class Beside(Own):
    """Slow weights in a list of its own, as older wrappers keep them."""

    def update(self, p: Tensor, state: dict[str, Any]) -> None:
        kept = vars(self).setdefault("slow", [])
        if len(kept) < len(self.param_groups[0]["params"]):
            kept.append(p.clone())


def trained(make: Callable[[Any], Any], steps: int = 4) -> tuple[nn.Sequential, Tensor, Any]:
    """A network after some steps of an optimizer."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    x = torch.randn(8, 4)
    optimizer = make(net.parameters())
    go_on(net, x, optimizer, steps)
    return net, x, optimizer


def go_on(net: nn.Module, x: Tensor, optimizer: Any, steps: int) -> None:
    if hasattr(optimizer, "train"):
        optimizer.train()
    for step in range(steps):
        optimizer.zero_grad()
        net(x + 0.1 * step).square().sum().backward()
        optimizer.step()


# The factor of the rows that make a copy of share w (g = w, f = 1), and of the columns that read
# it (g = 1, f = w).
CARRIED: dict[type[Own], tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    Slow: (torch.ones_like, lambda w: w),
    Start: (torch.ones_like, lambda w: w),
    Mean: (lambda w: w, torch.ones_like),
    Variance: (torch.square, lambda w: w**-2),
    Sizes: (torch.abs, lambda w: 1 / w.abs()),
    Signs: (torch.sign, torch.abs),
}


@pytest.mark.parametrize("kind", CARRIED, ids=lambda kind: kind.__name__)
def test_each_kind_of_state_follows_as_what_it_is(kind: type[Own]) -> None:
    net, x, optimizer = trained(kind)
    before = [optimizer.state[p]["entry"].clone() for p in net.parameters()]
    ramify.apply(ramify.trace(net, x), [Split("0", 0, weights=(1.5, -0.5))], optimizer=optimizer)
    share, old = torch.tensor([1.5, 1.0, 1.0, 1.0, -0.5]), [0, 1, 2, 3, 0]
    made, read = CARRIED[kind]
    found = [optimizer.state[p]["entry"] for p in net.parameters()]
    torch.testing.assert_close(found[0], before[0][old] * made(share)[:, None])
    torch.testing.assert_close(found[1], before[1][old] * made(share))
    torch.testing.assert_close(found[2], before[2][:, old] * read(share))
    go_on(net, x, optimizer, 2)
    assert all(p.isfinite().all() for p in net.parameters())


def test_a_copy_of_the_weight_stays_one_also_where_copies_move_apart() -> None:
    net, x, optimizer = trained(Start, steps=1)
    for parameter in net.parameters():  # as a wrapper leaves them when it has just looked back
        optimizer.state[parameter]["entry"].copy_(parameter.detach())
    offset = {"0.weight": torch.randn(2, 4)}
    edits = [Split("0", 0, weights=(1.5, -0.5), offsets=offset), Split("2", 1), Prune("0", 3)]
    ramify.apply(ramify.trace(net, x), edits, optimizer=optimizer)
    for parameter in net.parameters():
        assert torch.equal(optimizer.state[parameter]["entry"], parameter)


def test_a_mask_is_copied_as_it_is() -> None:
    net, x, optimizer = trained(Mask)
    ramify.apply(ramify.trace(net, x), UNEVEN, optimizer=optimizer)
    for parameter in net.parameters():
        entry = optimizer.state[parameter]["entry"]
        assert entry.dtype == torch.bool
        assert entry.shape == parameter.shape
        assert entry.all()


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (Cubes, "Cubes keeps 'entry' for '0.weight', .* ramify.state_rule.Cubes, 'entry'"),
        (Preconditioner, "Preconditioner keeps 'entry' for '0.weight'"),
        (Lists, "Lists keeps 'entry' of type list for '0.weight'"),
        (Codes, "Codes keeps 'entry' for '0.weight'"),
        (Beside, "Beside keeps a tensor of shape .* in its attribute 'slow'"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_what_cannot_be_told_is_refused_by_name(kind: type[Own], says: str) -> None:
    net, x, optimizer = trained(kind)
    before = copy.deepcopy((net.state_dict(), optimizer.state_dict()["state"]))
    with pytest.raises(RamifyError, match=says):
        ramify.apply(ramify.trace(net, x), UNEVEN, optimizer=optimizer)
    after = net.state_dict(), optimizer.state_dict()["state"]
    assert str(before) == str(after)


def test_a_negative_value_is_no_variance() -> None:
    net, x, optimizer = trained(Variance)
    optimizer.state[net[0].weight]["entry"][0, 0] = -1.0
    with pytest.raises(RamifyError, match="Variance keeps 'entry' for '0.weight'"):
        ramify.apply(ramify.trace(net, x), UNEVEN, optimizer=optimizer)


def test_a_pure_prune_needs_no_law() -> None:
    net, x, optimizer = trained(Cubes)
    before = optimizer.state[net[0].weight]["entry"].clone()
    ramify.apply(ramify.trace(net, x), [Prune("0", 3)], optimizer=optimizer)
    assert torch.equal(optimizer.state[net[0].weight]["entry"], before[:3])
    net, x, optimizer = trained(Preconditioner)
    with pytest.raises(RamifyError, match="Preconditioner keeps 'entry'"):
        ramify.apply(ramify.trace(net, x), [Prune("0", 3)], optimizer=optimizer)


def test_a_rule_of_the_user_goes_before_what_is_seen() -> None:
    class Ruled(Cubes):
        """Another class, so that the rule is its own."""

    ramify.state_rule(Ruled, "entry", like=lambda g, f: g**3)
    net, x, optimizer = trained(Ruled)
    before = optimizer.state[net[0].weight]["entry"].clone()
    ramify.apply(ramify.trace(net, x), [Split("0", 0, weights=(1.5, -0.5))], optimizer=optimizer)
    found = optimizer.state[net[0].weight]["entry"]
    torch.testing.assert_close(found[[0, 4]], before[[0, 0]] * torch.tensor([[1.5], [-0.5]]) ** 3)
    with pytest.raises(RamifyError, match="must be one of 'weights', .* but got 'means'"):
        ramify.state_rule(Ruled, "entry", like="means")
    with pytest.raises(RamifyError, match="must be for a class of optimizers, but got a Ruled"):
        ramify.state_rule(optimizer, "entry", like="weights")  # type: ignore[arg-type]


def test_what_a_subclass_of_a_torch_optimizer_adds_is_recognised() -> None:
    class WithCopy(torch.optim.AdamW):
        """AdamW that keeps the weights of the step before."""

        def step(self, closure: Any = None) -> Any:
            for group in self.param_groups:
                for p in group["params"]:
                    if "last" in self.state[p]:
                        self.state[p]["last"].copy_(p.detach())
            super().step(closure)
            for group in self.param_groups:
                for p in group["params"]:
                    self.state[p].setdefault("last", p.detach().clone())

    net, x, optimizer = trained(lambda p: WithCopy(p, lr=0.01))
    before = optimizer.state[net[2].weight]["last"].clone()
    ramify.apply(ramify.trace(net, x), [Split("0", 0, weights=(1.5, -0.5))], optimizer=optimizer)
    found = optimizer.state[net[2].weight]
    torch.testing.assert_close(found["last"][:, 4], -0.5 * before[:, 0])
    assert (found["exp_avg_sq"] >= 0).all()


def test_the_trial_leaves_the_optimizer_alone() -> None:
    """Also under a schedule, which puts a `step` of its own on the optimizer."""
    net, _, optimizer = trained(Variance)
    StepLR(optimizer, 1)
    random = torch.get_rng_state()
    before = copy.deepcopy((net.state_dict(), optimizer.state_dict()))
    assert try_states(optimizer)[0, 0, 2, "entry"] == "squares"
    assert str(before) == str((net.state_dict(), optimizer.state_dict()))
    assert torch.equal(random, torch.get_rng_state())


def test_what_is_no_optimizer_is_named() -> None:
    net, x, optimizer = trained(Mean)
    graph = ramify.trace(net, x)
    for wrong in ("adam", torch.optim.Adam, StepLR(optimizer, 1), [net]):
        with pytest.raises(RamifyError, match="`optimizer` is the optimizer that trains the model"):
            ramify.apply(graph, [Prune("0", 3)], optimizer=wrong)  # type: ignore[arg-type]


# ------------------------------------------------------------------- packages, where installed

REAL: dict[str, tuple[str, Callable[[Any, Any], Any], str]] = {
    # name: (package, how it is made, what it keeps that is refused, or "" where it is carried)
    "schedule-free SGD": ("schedulefree", lambda m, p: m.SGDScheduleFree(p, lr=0.1), ""),
    "schedule-free AdamW": ("schedulefree", lambda m, p: m.AdamWScheduleFree(p, lr=0.01), ""),
    "schedule-free wrapper": (
        "schedulefree",
        lambda m, p: m.ScheduleFreeWrapper(torch.optim.SGD(p, lr=0.01, momentum=0.5)),
        "",
    ),
    "Prodigy": ("prodigyopt", lambda m, p: m.Prodigy(p), "'s'"),
    "Lion": ("lion_pytorch", lambda m, p: m.Lion(p, lr=1e-3), ""),
    "AdaBelief": ("pytorch_optimizer", lambda m, p: m.AdaBelief(p), ""),
    "AdEMAMix": ("pytorch_optimizer", lambda m, p: m.AdEMAMix(p), ""),
    "Adan": ("pytorch_optimizer", lambda m, p: m.Adan(p), ""),
    "Muon": (
        "pytorch_optimizer",
        lambda m, p: m.Muon([{"params": list(p), "use_muon": True}]),
        "",
    ),
    "Lookahead": (
        "pytorch_optimizer",
        lambda m, p: m.Lookahead(torch.optim.Adam(p, lr=1e-2)),
        "",
    ),
    "SOAP": ("pytorch_optimizer", lambda m, p: m.SOAP(p), "'exp_avg_sq'|'GG'"),
    "Shampoo": ("pytorch_optimizer", lambda m, p: m.Shampoo(p), "'pre_cond_0'"),
    "AdaFactor": ("pytorch_optimizer", lambda m, p: m.AdaFactor(p, lr=1e-3), "'exp_avg"),
}


@pytest.mark.parametrize("name", REAL)
def test_real_optimizers_are_carried_or_refused(name: str) -> None:
    package, make, refused = REAL[name]
    module = importlib.import_module(package) if _installed(package) else None
    if module is None:
        pytest.skip(f"needs {package}")
    net, x, optimizer = trained(lambda p: make(module, p), steps=9)
    graph = ramify.trace(net, x)
    if refused:
        with pytest.raises(RamifyError, match=refused):
            ramify.apply(graph, UNEVEN, optimizer=optimizer)
        return
    expected = net(x)
    kept = {id(p): dict(optimizer.state[p]) for p in net.parameters()}
    ramify.apply(graph, UNEVEN[:2], optimizer=optimizer)
    torch.testing.assert_close(net(x), expected)
    for parameter in net.parameters():
        for key, value in optimizer.state[parameter].items():
            old = kept[id(parameter)][key]
            if isinstance(value, Tensor) and value.numel() > 1:
                assert value.shape == parameter.shape
                assert bool((value >= 0).all()) or bool((old < 0).any())
    go_on(net, x, optimizer, 3)
    assert all(p.isfinite().all() for p in net.parameters())
    assert float((net(x) - expected).detach().abs().max()) < 1.0


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def test_a_layer_of_one_channel_keeps_its_momentum() -> None:
    """Its entries are tensors of one number, and follow all the same."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 1))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    x = torch.randn(4, 2)
    net(x).square().mean().backward()
    optimizer.step()
    ramify.apply(ramify.trace(net, x), [ramify.Split("0", 0)], optimizer=optimizer)
    for parameter in net.parameters():
        assert optimizer.state[parameter]["momentum_buffer"].shape == parameter.shape
    net(x).square().mean().backward()
    optimizer.step()


def test_rows_and_columns_of_a_matrix_are_refused_also_where_they_have_its_shape() -> None:
    """Adafactor's mean over all rows changes where one goes, also of a matrix of one column."""
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(1, 3), nn.ReLU(), nn.Linear(3, 1)), torch.randn(4, 1)
    optimizer = torch.optim.Adafactor(net.parameters())
    net(x).square().mean().backward()
    optimizer.step()
    assert optimizer.state[net[0].weight]["row_var"].shape == net[0].weight.shape
    assert optimizer.state[net[2].weight]["col_var"].shape == net[2].weight.shape
    graph = ramify.trace(net, x)
    for edit in (ramify.Split("0", 0), ramify.Prune("0", 0)):
        with pytest.raises(ramify.RamifyError, match="Adafactor keeps '..._var' of shape"):
            ramify.apply(graph, [edit], optimizer=optimizer)
