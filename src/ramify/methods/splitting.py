"""Splitting steepest descent: S2D (Liu et al., 2019), and S3D (Wu et al., 2020) for signed > 1.

Shape letters: `W` channels of a group, `D` parameters of one channel.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ramify.arguments import arguments_checked, check_settings
from ramify.cost import Cost, CostModel
from ramify.edit import Split
from ramify.errors import RamifyError
from ramify.methods.aliases import accepts_old_keywords
from ramify.methods.draws import (
    Unit,
    check_positive,
    check_unit,
    producer_kernels,
    step_lengths,
)
from ramify.methods.proposal import Proposal, best_first
from ramify.probe.lanczos import Extremes, exact_extremes, lanczos_extremes
from ramify.probe.loss import Loss
from ramify.probe.splitting_matrix import SplittingOperator, mean_product, splitting_operators
from ramify.probe.targets import Target, vector_shapes, why_no_target
from ramify.tracing import ChannelGraph
from ramify.tracing.recorder import tensors_of


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

    With :math:`p = \tfrac{c+1}{2}` and :math:`n = \tfrac{c-1}{2}`, the largest sums of positive and
    of negative weights,

    .. math:: G_2 = \min(\lambda_{min}, -\tfrac{n}{p} \lambda_{max}, 0), \quad
              G_3 = \min(p \lambda_{min}, -n \lambda_{max},
                         \tfrac{c}{p} \lambda_{min} - \tfrac{n}{p} \lambda_{max}, 0), \quad
              G_4 = p \min(\lambda_{min}, 0) - n \max(\lambda_{max}, 0)

    The third term of :math:`G_3` is not in Theorem 2.2 of S3D, whose proof assumes that the copies
    move along one eigenvector; see :func:`_triplets`. A scheme has no copies of weight zero: at c =
    1 the schemes of any number of copies are the half-and-half split of S2D, and a definite matrix
    needs no fourth copy.

    Args:
        low: λ_min of the splitting matrix.
        high: λ_max.
        signed: c, the largest sum of absolute weights; 1 allows positive weights only.
        copies: the numbers of copies to consider, of 2, 3 and 4.

    Returns:
        The schemes, at least one; a scheme with a non-negative gain does not lower the loss.

    Source: S3D, Theorems 2.1, 2.2 and 2.3; for c = 1, S2D, Theorem 2.3.
    """
    up, down = (signed + 1) / 2, (signed - 1) / 2
    both = low < 0 < high
    binary = Scheme(low, (0.5, 0.5), ((1, 0), (-1, 0)))
    if down == 0:
        return [binary]
    found = []
    if 2 in copies:
        ratio = down / up
        found += [binary, Scheme(-ratio * high, (up, -down), ((0, ratio), (0, 1)))]
    if 3 in copies or (4 in copies and not both):
        found += _triplets(low, high, up, down)
    if 4 in copies and both:
        weights = (up / 2, up / 2, -down / 2, -down / 2)
        found.append(Scheme(up * low - down * high, weights, ((1, 0), (-1, 0), (0, 1), (0, -1))))
    return sorted(found, key=lambda scheme: (scheme.gain, len(scheme.weights)))


def _triplets(low: float, high: float, up: float, down: float) -> list[Scheme]:
    r"""The two schemes of S3D, Theorem 2.2, and where both eigenvalues matter the one using both.

    Let the two positive copies separate along v_min and move together along v_max just far enough
    that the negative copy can move by all of v_max:
    :math:`\delta_{1,2} = \pm\sqrt{1 - s^2} v_{min} + s v_{max}`, :math:`\delta_3 = v_{max}`,
    :math:`s = n / p`. The mean displacement is zero, the norms are one, and with
    :math:`p (1 - s^2) = c / p`

    .. math:: \Pi = \tfrac{c}{p} \lambda_{min} - \tfrac{n}{p} \lambda_{max},

    which is below both of the theorem's values for :math:`n < \lambda_{max} / |\lambda_{min}| <
    c / n^2`: an interval for every c below 2 + √5. No triplet is better: for two positive weights,
    :math:`\sum w_i \|\delta_i\|^2 \le p` bounds what their spread about their mean
    :math:`\tfrac{n}{p} \delta_3` can gain by
    :math:`p (1 - s^2 \|\delta_3\|^2) \lambda_{min}`, and the rest is at least
    :math:`-\tfrac{n}{p} \lambda_{max} \|\delta_3\|^2`; the sum is linear in
    :math:`\|\delta_3\|^2`.

    Args:
        low: λ_min.
        high: λ_max.
        up: p, above 1.
        down: n = p - 1.

    Returns:
        Two schemes, or three.
    """
    pair, share = (up / 2, up / 2, -down), down / up
    found = [
        Scheme(up * low, pair, ((1, 0), (-1, 0), (0, 0))),
        Scheme(-down * high, (-down / 2, -down / 2, up), ((0, 1), (0, -1), (0, 0))),
    ]
    if low < 0 < high:
        apart = math.sqrt(1 - share**2)
        gain = up * (1 - share**2) * low - share * high
        found.append(Scheme(gain, pair, ((apart, share), (-apart, share), (0, 1))))
    return found


@accepts_old_keywords(every="best_of_each")
@dataclass(frozen=True)
class SplittingDescent:
    """Splitting steepest descent: S2D with `signed=1`, S3D with larger values.

    Args:
        signed: c of S3D, at least 1: the largest sum of absolute outgoing weights.
        copies: the numbers of copies to consider, of 2, 3 and 4.
        step: ε, how far copies move along the eigenvector.
        unit: of the step: ``absolute``, as in the papers, or ``kernel``: relative to the norm of
            the channel's own kernels (where several layers produce the channel, to the root mean
            square of their norms), which means the same in every layer even where a following norm
            cancels the scale.
        eigen: `lanczos` (products only) or `exact` (whole matrices, the oracle).
        surrogate: β of the softplus whose curvature replaces the kinks of piecewise-linear
            activations; None for the true curvature, which is zero almost everywhere.
        tolerance: Lanczos residual over spectral radius; the eigenvalue's error is much smaller.
        best_of_each: propose the best scheme for each number of copies, so that a rule can choose
            the number per channel (S3D, appendix C.1); else only the best scheme.

    Example:
        >>> import ramify, torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))
        >>> x = torch.randn(16, 4)
        >>> loss = lambda model, x: model(x).square().squeeze(1)  # one number a sample
        >>> graph = ramify.trace(net, x)
        >>> best = SplittingDescent(step=0.1).propose(graph, loss, [x])[0]
        >>> best.gain == -0.5 * 0.1**2 * best.splitting_index  # S2D, Theorem 2.3
        True

    Source: S2D (Liu et al., 2019), Algorithm 1 and equation (7); S3D (Wu et al., 2020),
    Algorithm 1.
    """

    signed: float = 1.0
    copies: tuple[int, ...] = (2,)
    step: float = 0.01
    eigen: Literal["lanczos", "exact"] = "lanczos"
    surrogate: float | None = 3.0
    tolerance: float = 1e-3
    best_of_each: bool = False
    unit: Unit = "absolute"

    def __post_init__(self) -> None:
        check_settings(self)
        if not 1 <= self.signed < math.inf:
            raise RamifyError(f"signed (c in S3D) must be at least 1, but got {self.signed}")
        given = self.copies if isinstance(self.copies, tuple) else ()
        if not given or not set(given) <= {2, 3, 4}:
            raise RamifyError(
                f"copies must be a tuple of some of 2, 3 and 4, but got {self.copies}"
            )
        if self.eigen not in ("lanczos", "exact"):
            raise RamifyError(f"eigen must be 'lanczos' or 'exact', but got '{self.eigen}'")
        check_positive("step", self.step)
        check_unit(self.unit)
        if self.surrogate is not None:
            check_positive("surrogate", self.surrogate)

    @property
    def every(self) -> bool:
        """The old name of `best_of_each`."""
        return self.best_of_each

    def propose(self, graph: ChannelGraph, loss: Loss, batches: Iterable[Any]) -> list[Proposal]:
        """The best splits of every channel, largest gain first; rules skip gains of 0 and below.

        Args:
            graph: the traced model.
            loss: `loss(model, batch)` -> (S,), one number per sample.
            batches: the sample that the splitting matrices are averaged over.

        Returns:
            The proposals; `gain` is -ε²/2 · G, with ε the distance that this channel moves, and
            `splitting_index` is G, which for S2D is λ_min.

        Raises:
            RamifyError: the loss is not per sample, or loss or weights are not finite.
        """
        found, operators = splitting_operators(graph, loss, batches, self.surrogate)
        prices = CostModel(graph)
        out: list[Proposal] = []
        for target, pairs in zip(found, self._extremes(graph, found, operators), strict=True):
            out += self._of_group(prices, target, pairs, operators[0])
        return best_first(out)

    def _extremes(
        self, graph: ChannelGraph, found: Sequence[Target], operators: Sequence[SplittingOperator]
    ) -> list[Extremes]:
        if not found:
            return []
        if self.eigen == "exact":
            return [exact_extremes(matrix) for matrix in _matrices(graph, found, operators)]
        tensors = tensors_of(graph.model)
        like = next(iter(graph.model.parameters())).detach()
        return lanczos_extremes(
            lambda vectors: mean_product(operators, vectors),
            vector_shapes(found, tensors),
            like,
            tolerance=self.tolerance,
        )

    def _of_group(
        self, prices: CostModel, target: Target, pairs: Extremes, operator: SplittingOperator
    ) -> list[Proposal]:
        vectors = [operator.as_kernels(target, v) for v in (pairs.low_vector, pairs.high_vector)]
        held = producer_kernels(prices.graph, target.group)
        steps = step_lengths(self.step, self.unit, held).tolist()
        costs: dict[int, Cost] = {}
        out = []
        ends = zip(pairs.low.tolist(), pairs.high.tolist(), strict=True)
        for channel, (low, high) in enumerate(ends):
            for scheme in self._chosen(low, high):
                offsets = {
                    part.name: torch.stack(
                        [
                            steps[channel] * (a * below[channel] + b * above[channel])
                            for a, b in scheme.moves
                        ]
                    )
                    for part, below, above in zip(target.kernels, *vectors, strict=True)
                }
                edit = Split(target.group.name, channel, scheme.weights, offsets)
                count = len(scheme.weights)
                if count not in costs:
                    costs[count] = prices.added([edit])
                gain, index = -0.5 * steps[channel] ** 2 * scheme.gain, scheme.gain
                out.append(
                    Proposal(edit, gain, costs[count], splitting_index=index, graph=prices.graph)
                )
        return out

    def _chosen(self, low: float, high: float) -> list[Scheme]:
        """The best scheme, or the best for each number of copies."""
        found = schemes(low, high, self.signed, self.copies)
        if not self.best_of_each:
            return found[:1]
        best: dict[int, Scheme] = {}
        for scheme in found:
            best.setdefault(len(scheme.weights), scheme)
        return list(best.values())


def _matrices(
    graph: ChannelGraph, found: Sequence[Target], operators: Sequence[SplittingOperator]
) -> list[Tensor]:
    """The splitting matrices (W, D, D) of each target; each product gives one column of all."""
    shapes = vector_shapes(found, tensors_of(graph.model))
    like = next(iter(graph.model.parameters())).detach()
    out = [torch.zeros(width, size, size).to(like) for width, size in shapes]
    for column in range(max((size for _, size in shapes), default=0)):
        vectors = []
        for width, size in shapes:
            vector = torch.zeros(width, size).to(like)
            if column < size:
                vector[:, column] = 1.0
            vectors.append(vector)
        for matrix, product in zip(out, mean_product(operators, vectors), strict=True):
            if column < matrix.shape[2]:
                matrix[:, :, column] = product
    return out


@arguments_checked
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

    with σ the complete channelwise path from the producers to each consumer's read.

    Args:
        graph: the traced model.
        group: any name that `graph[...]` takes.
        loss: `loss(model, batch)` -> (S,), one number per sample.
        batches: the sample to average over.
        surrogate: β of the softplus curvature at the kinks of piecewise-linear activations; None
            for the true curvature.

    Returns:
        Shape (W, D, D); D covers, for each producer in order, one channel's kernel flattened, then
        its bias if it has one.

    Raises:
        RamifyError: the group cannot be split, or its path cannot be followed.

    Example:
        >>> import ramify
        >>> from torch import nn
        >>> net, x = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1)), torch.randn(16, 4)
        >>> loss = lambda model, x: model(x).square().squeeze(1)
        >>> splitting_matrix(ramify.trace(net, x), "0", loss, [x]).shape
        torch.Size([3, 5, 5])

    Source: S2D, equation (7).
    """
    wanted = graph[group]
    found, operators = splitting_operators(graph, loss, batches, surrogate, wanted)
    if not found:
        raise RamifyError(f"'{wanted.name}' has no splitting matrix: {why_no_target(wanted)}")
    [matrix] = _matrices(graph, found, operators)
    return matrix
