"""Large matrices go through single precision where it is enough: same order, same costs."""

import torch

from ramify.refit import ridge, surgery
from ramify.refit.surgery import ReaderState, curvature_of, eliminate
from ramify.refit.symmetric import LARGE, bearable


def large_block(strength, largest=1.0):
    draw = torch.Generator().manual_seed(0)
    base = torch.randn(30, LARGE, generator=draw, dtype=torch.float64)
    noise = torch.randn(400, LARGE, generator=draw, dtype=torch.float64)
    mixed = torch.randn(400, 30, generator=draw, dtype=torch.float64) @ base
    reads = torch.relu(mixed + 0.3 * noise)
    reads[:, :2] *= largest
    weight = torch.randn(1, LARGE, 24, generator=draw, dtype=torch.float64)
    slopes = torch.randn(24, 24, generator=draw, dtype=torch.float64)
    where = torch.arange(LARGE).view(1, -1, 16)
    moments = (reads.t() @ reads / 400)[None]
    return ReaderState.of(
        moments, curvature_of(weight, (slopes @ slopes.t())[None]), where, strength
    )


def test_channels_go_in_the_same_order_in_single_precision(monkeypatch):
    for strength in (0.01, 0.1):
        block = large_block(strength)
        assert block.inverse.dtype == torch.float32
        order, costs = eliminate([block], 0)
        with monkeypatch.context() as patch:
            patch.setattr(surgery, "SINGLE", float("inf"))
            wide = large_block(strength)
            assert wide.inverse.dtype == torch.float64
            wanted, exact = eliminate([wide], 0)
        assert order == wanted
        # The smallest squares lie λ below the largest numbers of H, and roundings of so many
        # features add up as a random walk does.
        rtol = LARGE**0.5 * torch.finfo(torch.float32).eps / strength
        assert torch.allclose(torch.tensor(costs), torch.tensor(exact), rtol=rtol, atol=0)


def test_small_pulls_and_small_matrices_stay_in_double_precision():
    assert large_block(surgery.SINGLE / 10).inverse.dtype == torch.float64
    assert large_block(0.1, largest=100.0).inverse.dtype == torch.float64  # of few, λ is too small
    eye = torch.eye(LARGE, dtype=torch.float64)[None]
    pull = torch.full((1, 1), 0.1, dtype=torch.float64)
    assert bearable(eye, pull, ridge.ROUGHLY) == torch.float32
    assert bearable(eye, pull / 1e4, ridge.ROUGHLY) == torch.float64
    assert bearable(eye[:, 1:, 1:], pull, ridge.ROUGHLY) == torch.float64
