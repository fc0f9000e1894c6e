"""The two schemes of the Lanczos benchmark on a matrix that is known."""

import torch

from benchmarks.lanczos.__main__ import errors
from benchmarks.lanczos.schemes import Passes, Point, lanczos, rayleigh


class Known:
    """A probe whose products are those of given matrices (W, D, D)."""

    samples = 1

    def __init__(self, matrices):
        self.matrices = matrices

    def product(self, vectors):
        return [torch.einsum("wde,we->wd", self.matrices, vectors[0])]


def known():
    torch.manual_seed(0)
    half = torch.randn(3, 12, 12).double()
    matrices = half + half.mT
    values = torch.linalg.eigvalsh(matrices)
    return Known(matrices), [(values[:, 0], values[:, -1])], matrices


def test_both_schemes_near_the_ends_with_more_passes():
    probe, true, like = known()
    ours = lanczos([probe], [(3, 12)], like, (4, 12))
    theirs = list(rayleigh([probe], [(3, 12)], like, (8, 2048)))
    assert [point.passes for point in ours + theirs] == [4, 12, 8, 2048]
    assert errors(ours[1], true).max() < 1e-12 < errors(ours[0], true).max()
    assert errors(theirs[1], true).max() < 0.02 < errors(theirs[0], true).max()


def test_a_repeated_run_costs_no_products():
    probe, _, _ = known()
    passes = Passes([probe])
    first = passes([torch.eye(3, 12).double()])
    passes.again()
    assert passes([torch.eye(3, 12).double()]) is first
    assert len(passes.seconds) == 1


def test_an_error_is_that_of_the_worse_end_over_the_radius():
    true = [(torch.tensor([-1.0, 0.5]), torch.tensor([4.0, 2.0]))]
    found = Point(1, 0.0, [(torch.tensor([-0.6, 0.5]), torch.tensor([3.9, 1.0]))])
    torch.testing.assert_close(errors(found, true), torch.tensor([0.1, 0.5]))
