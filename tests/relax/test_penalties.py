"""Penalties against their formulas, written out by hand."""

import pytest
import torch

from ramify.errors import RamifyError
from ramify.relax import L1, ExpectedCost, GroupL1


def arch():
    return [torch.randn(3, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)]


def test_l1():
    first, second = arch()
    weights = [torch.tensor([1.0, 2.0, 0.0]), torch.tensor(0.5)]
    expected = sum(w * abs(a) for w, a in zip([1, 2, 0], first.tolist(), strict=True))
    expected += 0.5 * sum(abs(a) for row in second.tolist() for a in row)
    assert float(L1(weights)([first, second])) == pytest.approx(expected)
    assert float(L1()([first, second])) == pytest.approx(
        float(first.abs().sum() + second.abs().sum())
    )


def test_l1_by_proximal_steps():
    first, second = arch()
    before = [first.clone(), second.clone()]
    L1([torch.tensor([1.0, 2.0, 0.0]), torch.tensor(0.5)], by_proximal=True).proximal(
        [first, second], 0.4
    )
    for alpha, old, shift in zip(
        [first, second], before, [torch.tensor([0.4, 0.8, 0.0]), torch.tensor(0.2)], strict=True
    ):
        torch.testing.assert_close(alpha, old.sign() * (old.abs() - shift).clamp_min(0))


@pytest.mark.parametrize("dim", [0, None])
def test_group_l1(dim):
    first, second = arch()
    rows = [[a] for a in first.tolist()] + second.tolist()
    if dim is None:
        rows = [first.tolist(), second.flatten().tolist()]
    expected = sum(sum(a * a for a in row) ** 0.5 for row in rows)
    assert float(GroupL1(dim)([first, second])) == pytest.approx(expected)


def test_group_l1_gives_whole_groups_of_zeros():
    alpha = torch.tensor([[3.0, 4.0], [0.3, 0.4]])
    GroupL1(by_proximal=True).proximal([alpha], 1.0)
    torch.testing.assert_close(alpha, torch.tensor([[2.4, 3.2], [0.0, 0.0]]))


def test_group_l1_has_a_gradient_where_a_group_is_zero():
    alpha = torch.zeros(2, 3, requires_grad=True)
    GroupL1()([alpha]).backward()
    assert alpha.grad.tolist() == [[0.0] * 3] * 2


@pytest.mark.parametrize("shape", [(2, 4), (4,)])
def test_expected_cost(shape):
    [_, alpha] = arch()
    alpha.requires_grad_()
    cost = torch.rand(shape, dtype=torch.float64)
    probabilities = alpha.exp() / alpha.exp().sum(1, keepdim=True)
    expected = (probabilities * cost).sum()
    found = ExpectedCost([cost])([alpha])
    torch.testing.assert_close(found, expected)
    mine, theirs = (torch.autograd.grad(value, alpha)[0] for value in (found, expected))
    torch.testing.assert_close(mine, theirs)


def test_what_does_not_match():
    with pytest.raises(RamifyError, match="1 tensors for 2"):
        L1([torch.ones(3)])(arch())
    with pytest.raises(RamifyError, match=r"tensor 1 of the penalty has the shape \(3,\)"):
        ExpectedCost([torch.ones(3), torch.ones(3)])(arch())
