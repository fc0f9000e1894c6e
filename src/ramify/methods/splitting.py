"""Splitting steepest descent: S2D (Liu et al., 2019), and S3D (Wu et al., 2020) for signed > 1.

Shape letters: `W` channels of a group, `D` parameters of one channel.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ramify.cost import Cost, CostModel
from ramify.edit import Split
from ramify.eigen import Extremes, exact_extremes, lanczos_extremes
from ramify.errors import RamifyError
from ramify.methods.proposal import Proposal
from ramify.probe import Loss, Probe, Target, mean_product, probes, sizes
from ramify.trace import ChannelGraph
from ramify.trace.recorder import tensors_of


@dataclass(frozen=True)
class Scheme:
    """One way to split a channel; the loss changes by ε²/2 · `gain` (G of the S3D theorems).

    `weights` are the copies' outgoing weights, `moves` their steps along (v_min, v_max).
    """

    gain: float
    weights: tuple[float, ...]
    moves: tuple[tuple[float, float], ...]


def schemes(low: float, high: float, signed: float, copies: Sequence[int]) -> list[Scheme]:
    r"""The optimal schemes for extreme eigenvalues `low` and `high`, best first.

    .. math:: G_2 = \min(\lambda_{min}, -\tfrac{c-1}{c+1} \lambda_{max}, 0), \quad
              G_3 = \min(\tfrac{c+1}{2} \lambda_{min}, -\tfrac{c-1}{2} \lambda_{max}, 0), \quad
              G_4 = \tfrac{c+1}{2} \min(\lambda_{min}, 0) - \tfrac{c-1}{2} \max(\lambda_{max}, 0)

    Args:
        low: λ_min of the splitting matrix.
        high: λ_max.
        signed: c, the largest sum of absolute weights; 1 admits positive weights only.
        copies: numbers of copies to consider, of 2, 3 and 4.

    Returns:
        The schemes; one whose gain is not negative does not lower the loss.

    Source: S3D, Theorems 2.1, 2.2 and 2.3; for c = 1, S2D, Theorem 2.3.
    """
    c, found = signed, []
    if 2 in copies:
        found.append(Scheme(low, (0.5, 0.5), ((1, 0), (-1, 0))))
        ratio = (c - 1) / (c + 1)
        weights = ((c + 1) / 2, -(c - 1) / 2)
        found.append(Scheme(-ratio * high, weights, ((0, ratio), (0, 1))))
    if 3 in copies:
        up, down = (c + 1) / 4, -(c - 1) / 4
        pair = ((1.0, 0.0), (-1.0, 0.0), (0.0, 0.0))
        found.append(Scheme((c + 1) / 2 * low, (up, up, 2 * down), pair))
        pair = ((0.0, 1.0), (0.0, -1.0), (0.0, 0.0))
        found.append(Scheme(-(c - 1) / 2 * high, (down, down, 2 * up), pair))
    if 4 in copies:
        up, down = (c + 1) / 4, -(c - 1) / 4
        gain = (c + 1) / 2 * min(low, 0) - (c - 1) / 2 * max(high, 0)
        less, more = float(low < 0), float(high > 0)
        moves = ((less, 0.0), (-less, 0.0), (0.0, more), (0.0, -more))
        found.append(Scheme(gain, (up, up, down, down), moves))
    return sorted(found, key=lambda scheme: (scheme.gain, len(scheme.weights)))


@dataclass(frozen=True)
class SplittingDescent:
    """Splitting steepest descent: S2D with `signed=1`, S3D above.

    Args:
        signed: c of S3D, at least 1: the largest sum of absolute outgoing weights.
        copies: numbers of copies to consider, of 2, 3 and 4.
        step: ε, how far copies move along the eigenvector.
        eigen: `lanczos` (products only) or `exact` (whole matrices, the oracle).
        surrogate: β of the softplus whose curvature stands in at the kinks of piecewise-linear
            activations; None for the true curvature, which is zero almost everywhere.
        tolerance: Lanczos residual over spectral radius.

    Source: S2D, Algorithm 1 and equation (7); S3D, Algorithm 1.
    """

    signed: float = 1.0
    copies: tuple[int, ...] = (2,)
    step: float = 0.01
    eigen: Literal["lanczos", "exact"] = "lanczos"
    surrogate: float | None = 3.0
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        if self.signed < 1:
            raise RamifyError(f"signed is c of S3D and at least 1, and got {self.signed}")
        if not self.copies or not set(self.copies) <= {2, 3, 4}:
            raise RamifyError(f"copies are some of 2, 3 and 4, and got {self.copies}")
        if self.eigen not in ("lanczos", "exact"):
            raise RamifyError(f"eigen is 'lanczos' or 'exact', and got '{self.eigen}'")
        if self.step <= 0:
            raise RamifyError(f"step is a positive length, and got {self.step}")

    def propose(self, graph: ChannelGraph, loss: Loss, batches: Iterable[Any]) -> list[Proposal]:
        """The best split of every channel, largest gain first; rules leave gains of 0 and below.

        Args:
            graph: the traced model.
            loss: `loss(model, batch)` -> (S,), one number a sample.
            batches: the sample that the splitting matrices are averaged over.

        Returns:
            The proposals; `gain` is -ε²/2 · G.

        Raises:
            RamifyError: the loss is not per sample, or loss or weights are not finite.
        """
        found, made = probes(graph, loss, batches, self.surrogate)
        prices = CostModel(graph)
        out: list[Proposal] = []
        for target, pairs in zip(found, self._extremes(graph, found, made), strict=True):
            out += self._of_group(prices, target, pairs, made[0])
        return sorted(out, key=lambda proposal: -proposal.gain)

    def _extremes(
        self, graph: ChannelGraph, found: Sequence[Target], made: Sequence[Probe]
    ) -> list[Extremes]:
        if not found:
            return []
        if self.eigen == "exact":
            return [exact_extremes(matrix) for matrix in _matrices(graph, found, made)]
        tensors = tensors_of(graph.model)
        like = next(iter(graph.model.parameters())).detach()
        return lanczos_extremes(
            lambda vectors: mean_product(made, vectors),
            sizes(found, tensors),
            like,
            tolerance=self.tolerance,
        )

    def _of_group(
        self, prices: CostModel, target: Target, pairs: Extremes, probe: Probe
    ) -> list[Proposal]:
        lows, highs = pairs.low.tolist(), pairs.high.tolist()
        vectors = [probe.divide(target, v) for v in (pairs.low_vector, pairs.high_vector)]
        costs: dict[int, Cost] = {}
        out = []
        for channel, (low, high) in enumerate(zip(lows, highs, strict=True)):
            best = schemes(low, high, self.signed, self.copies)[0]
            offsets = {
                part.name: torch.stack(
                    [self.step * (a * below[channel] + b * above[channel]) for a, b in best.moves]
                )
                for part, below, above in zip(target.kernels, *vectors, strict=True)
            }
            edit = Split(target.group.name, channel, best.weights, offsets)
            count = len(best.weights)
            if count not in costs:
                costs[count] = prices.added([edit])
            gain = -0.5 * self.step**2 * best.gain
            out.append(Proposal(edit, gain, costs[count], index=low, graph=prices.graph))
        return out


def _matrices(graph: ChannelGraph, found: Sequence[Target], made: Sequence[Probe]) -> list[Tensor]:
    """The splitting matrices (W, D, D) of each target, one column of all of them a product."""
    shapes = sizes(found, tensors_of(graph.model))
    like = next(iter(graph.model.parameters())).detach()
    out = [torch.zeros(width, size, size).to(like) for width, size in shapes]
    for column in range(max((size for _, size in shapes), default=0)):
        vectors = []
        for width, size in shapes:
            vector = torch.zeros(width, size).to(like)
            if column < size:
                vector[:, column] = 1.0
            vectors.append(vector)
        for matrix, product in zip(out, mean_product(made, vectors), strict=True):
            if column < matrix.shape[2]:
                matrix[:, :, column] = product
    return out


def splitting_matrix(
    graph: ChannelGraph,
    group: str,
    loss: Loss,
    batches: Iterable[Any],
    *,
    surrogate: float | None = 3.0,
) -> Tensor:
    r"""The splitting matrix of every channel of a group, by the exact formula.

    .. math:: S = \mathbb{E}_x[\nabla_{\sigma} \Phi \; \nabla^2_{\theta\theta} \sigma(\theta, h)]

    with σ the whole channelwise path from the producers to each consumer's read.

    Args:
        graph: the traced model.
        group: any name that `graph[...]` takes.
        loss: `loss(model, batch)` -> (S,), one number a sample.
        batches: the sample to average over.
        surrogate: β of the softplus curvature at the kinks of piecewise-linear activations;
            None for the true curvature.

    Returns:
        Shape (W, D, D); D holds, for each producer in order, one channel's kernel flattened, then
        its bias if it has one.

    Raises:
        RamifyError: the group cannot be split, or its path cannot be followed.

    Source: S2D, equation (7).
    """
    wanted = graph[group]
    found, made = probes(graph, loss, batches, surrogate)
    chosen = [n for n, target in enumerate(found) if target.group is wanted]
    if not chosen:
        reason = wanted.why or "its channels pass a grouped convolution, which sums over others"
        raise RamifyError(f"'{wanted.name}' has no splitting matrix: {reason}")
    return _matrices(graph, found, made)[chosen[0]]
