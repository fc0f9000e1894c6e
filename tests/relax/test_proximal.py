"""The proximal maps against brute force, and relaxed splitting in a small training."""

from functools import partial

import pytest
import torch
from torch import nn

from ramify.errors import RamifyError
from ramify.relax import (
    RelaxedSplitting,
    by_group,
    prox_group_l1,
    prox_l0,
    prox_l1,
    prox_tl1,
)

PENALTIES = {
    "l0": (prox_l0, lambda u: (u != 0).double()),
    "l1": (prox_l1, torch.abs),
    **{
        f"tl1 {a}": (partial(prox_tl1, a=a), lambda u, a=a: (a + 1) * u.abs() / (a + u.abs()))
        for a in (0.1, 1.0, 7.0, 100.0)
    },
}


def objective(penalty, u, w, strength):
    return strength * penalty(u) + (u - w).square() / 2


def brute(penalty, w, strength, rounds=6, points=2001):
    """The least value of the objective over u between 0 and w, by ever finer grids."""
    zero = objective(penalty, torch.zeros_like(w), w, strength)
    low, high = torch.zeros_like(w), w.clone()
    share = torch.linspace(0, 1, points, dtype=w.dtype)
    for _ in range(rounds):
        grid = low[:, None] + (high - low)[:, None] * share
        values = objective(penalty, grid, w[:, None], strength[:, None])
        values = torch.where(grid == 0, torch.inf, values)  # 0 is judged apart: it may be a jump
        best = values.argmin(1)
        step = (high - low) / (points - 1)
        low, high = low + (best - 1).clamp_min(0) * step, low + (best + 1).clamp_max(points) * step
    inner = (low + high) / 2
    value = objective(penalty, inner, w, strength)
    return torch.where(value < zero, inner, 0.0), torch.minimum(value, zero)


@pytest.mark.parametrize("name", PENALTIES)
def test_minimises(name):
    prox, penalty = PENALTIES[name]
    w = 3 * torch.randn(300, dtype=torch.float64)
    strength = torch.rand(300, dtype=torch.float64) ** 2 * 4
    u, least = brute(penalty, w, strength)
    found = prox(w, strength)
    torch.testing.assert_close(objective(penalty, found, w, strength), least, rtol=0, atol=1e-12)
    torch.testing.assert_close(found, u, rtol=0, atol=2e-6)
    assert 0.02 < (found == 0).double().mean() < 0.98


def threshold(name, strength):
    if name == "l0":
        return (2 * strength) ** 0.5
    if name == "l1":
        return strength
    a = float(name.split()[1])
    weak = strength <= a**2 / (2 * (a + 1))
    return strength * (a + 1) / a if weak else (2 * strength * (a + 1)) ** 0.5 - a / 2


@pytest.mark.parametrize("strength", [0.01, 0.245, 0.25, 0.26, 3.0, 40.0, 60.0])
@pytest.mark.parametrize("name", PENALTIES)
def test_both_sides_of_the_threshold(name, strength):
    """0.25 is where transformed l1 with a = 1 begins to jump."""
    prox, penalty = PENALTIES[name]
    edge = threshold(name, strength)
    w = edge * torch.tensor([1 - 1e-6, 1.0, 1 + 1e-6], dtype=torch.float64)
    for sign in (1, -1):
        below, at, above = prox(sign * w, strength)
        assert below == 0
        assert above * sign > 0
        _, least = brute(penalty, sign * w, torch.full((3,), strength, dtype=torch.float64))
        value = objective(penalty, torch.stack([below, at, above]), sign * w, strength)
        torch.testing.assert_close(value, least, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("name", PENALTIES)
def test_a_number_is_as_exact_as_a_tensor(name):
    prox, _ = PENALTIES[name]
    w = 3 * torch.randn(51, dtype=torch.float64)
    w[-1] = 0.2**0.5 * (1 + 1e-12)  # just above the threshold of l0
    assert torch.equal(prox(w, 0.1), prox(w, torch.tensor(0.1, dtype=torch.float64)))
    assert name != "l0" or prox(w, 0.1)[-1] != 0


def test_ties_go_to_zero():
    assert prox_l0(torch.tensor([2.0, -2.0]), 2.0).tolist() == [0, 0]
    assert prox_tl1(torch.tensor([3.5, -3.5]), 4.0).tolist() == [0, 0]  # √16 − ½
    w = torch.tensor(3.5, dtype=torch.float64)
    other = prox_tl1(w + 1e-12, 4.0)
    assert other > 1
    penalty = PENALTIES["tl1 1.0"][1]
    torch.testing.assert_close(objective(penalty, other, w, 4.0), w**2 / 2 + 0 * w)


def test_transformed_l1_between_l0_and_l1():
    w = torch.randn(200, dtype=torch.float64)
    torch.testing.assert_close(prox_tl1(w, 0.3, a=1e9), prox_l1(w, 0.3), rtol=0, atol=1e-8)
    torch.testing.assert_close(prox_tl1(w, 0.3, a=1e-9), prox_l0(w, 0.3), rtol=0, atol=1e-8)
    assert prox_tl1(w.float(), 0.3, a=1e6).sub(prox_l1(w, 0.3)).abs().max() < 1e-5


@pytest.mark.parametrize("prox", [prox_l0, prox_l1, prox_tl1, prox_group_l1])
def test_no_strength_changes_nothing(prox):
    w = torch.randn(4, 5)
    torch.testing.assert_close(prox(w, 0.0), w)
    assert prox(torch.zeros(3), 0.0).tolist() == [0, 0, 0]


@pytest.mark.parametrize("dim", [0, 1, -1, None])
def test_groups(dim):
    """Stationary where a group stays; where it goes, it lay within the ball of the strength."""
    w, strength = torch.randn(4, 3, 2, dtype=torch.float64), 2.0
    u = prox_group_l1(w, strength, dim)
    slices = [slice(None)] if dim is None else range(w.shape[dim])
    for one in slices:
        w_g = w if dim is None else w.select(dim, one)
        u_g = u if dim is None else u.select(dim, one)
        if u_g.any():
            gradient = strength * u_g / u_g.norm() + u_g - w_g
            assert gradient.abs().max() < 1e-12
        else:
            assert w_g.norm() <= strength


def test_group_of_one_is_the_plain_map():
    w = torch.randn(9)
    torch.testing.assert_close(prox_group_l1(w, 0.4), prox_l1(w, 0.4))


def test_any_map_by_group():
    """Brute force over the length, since the direction of the best u is that of w."""
    w = torch.randn(50, 4, dtype=torch.float64)
    u = by_group(prox_tl1)(w, 1.5)
    length, _ = brute(PENALTIES["tl1 1.0"][1], w.norm(dim=1), torch.full((50,), 1.5).double())
    torch.testing.assert_close(u.norm(dim=1), length, rtol=0, atol=2e-6)
    torch.testing.assert_close(u, w * (u * w).sum(1, True) / w.square().sum(1, True))
    assert 0 < (u.norm(dim=1) == 0).sum() < 50


def test_a_above_zero():
    with pytest.raises(RamifyError, match="give a number above 0"):
        prox_tl1(torch.ones(1), 1.0, a=0.0)


# ------------------------------------------------------------------ relaxed splitting


def problem():
    """Eight of forty inputs matter, and one hidden unit of twelve is never needed."""
    x = torch.randn(256, 40)
    y = (x[:, :8].sum(1, keepdim=True)).tanh()
    return x, y


def trained(prox, lam, beta=1.0, steps=400, momentum=0.9):
    x, y = problem()
    net = nn.Sequential(nn.Linear(40, 12), nn.Tanh(), nn.Linear(12, 1))
    weight = net[0].weight
    splitting = RelaxedSplitting([weight], prox, lam, beta)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=momentum)
    first = splitting.distance()
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.mse_loss(net(x), y).backward()
        splitting.pull()
        optimizer.step()
    return net, splitting, first, nn.functional.mse_loss(net(x), y).item()


@pytest.mark.parametrize(
    "prox, lam", [(prox_l0, 2e-3), (prox_l1, 1e-2), (partial(prox_tl1, a=1.0), 5e-3)]
)
def test_exact_zeros_appear_and_copies_approach(prox, lam):
    net, splitting, first, loss = trained(prox, lam)
    assert loss < 0.02
    assert 0.4 < splitting.sparsity() < 1
    assert splitting.distance() < 0.35 * first
    zeros = int((splitting.copies[0] == 0).sum())
    splitting.put()
    assert int((net[0].weight == 0).sum()) == zeros


def test_whole_channels_go():
    net, splitting, _, loss = trained(prox_group_l1, 0.06, steps=600)
    splitting.put()
    gone = (net[0].weight == 0).all(1)
    assert 1 <= int(gone.sum()) < 12
    assert loss < 0.05
    assert (net[0].weight[~gone] != 0).all()


def test_steps_are_those_of_the_paper():
    torch.set_default_dtype(torch.float64)
    try:
        weight = nn.Parameter(torch.randn(6))
        splitting = RelaxedSplitting([weight], prox_l0, lam=0.3, beta=0.7)
        optimizer = torch.optim.SGD([weight], lr=0.1)
        w, u = weight.detach().clone(), prox_l0(weight.detach(), 0.3 / 0.7)
        for _ in range(5):
            optimizer.zero_grad()
            weight.pow(4).sum().backward()
            splitting.pull()
            optimizer.step()
            w, u = w - 0.1 * 4 * w**3 - 0.1 * 0.7 * (w - u), prox_l0(w, 0.3 / 0.7)
            torch.testing.assert_close(weight.detach(), w)
            torch.testing.assert_close(splitting.copies[0], u)
    finally:
        torch.set_default_dtype(torch.float32)


def test_state_goes_on_to_the_same_numbers():
    weight = nn.Parameter(torch.randn(6))
    splitting = RelaxedSplitting([weight], prox_l1, lam=0.3, beta=0.7)
    weight.data += 1
    state = splitting.state_dict()
    other = RelaxedSplitting([weight], prox_l1, lam=0.3, beta=0.7)
    assert not torch.equal(other.copies[0], splitting.copies[0])
    other.load_state_dict(state)
    assert torch.equal(other.copies[0], splitting.copies[0])
    splitting.pull()
    torch.testing.assert_close(weight.grad, 0.7 * (weight.detach() - other.copies[0]))
    with pytest.raises(RamifyError, match="for the weights it was taken of"):
        RelaxedSplitting([nn.Parameter(torch.ones(2))], prox_l1, 1.0, 1.0).load_state_dict(state)


def test_what_splitting_refuses():
    weight = nn.Parameter(torch.ones(3))
    with pytest.raises(RamifyError, match="at least one parameter"):
        RelaxedSplitting([], prox_l1, 1.0, 1.0)
    with pytest.raises(RamifyError, match="β above 0"):
        RelaxedSplitting([weight], prox_l1, 1.0, 0.0)
    splitting = RelaxedSplitting([weight], prox_l1, 1.0, 1.0)
    weight.data = torch.ones(2)
    with pytest.raises(RamifyError, match="after the edit"):
        splitting.pull()
