r"""Proximal maps in closed form: `prox(w, s)` is the minimiser over u of `s P(u) + ½ ‖u − w‖²`.

In relaxed variable splitting, (2.6), the strength s is λ/β; in a proximal step it is the step size
times the weight of the penalty. All maps except `prox_group_l1` are componentwise; a strength may
be a tensor that broadcasts against the weights.

Source: RARTS thesis, section 2.1.2.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ramify.arguments import arguments_checked
from ramify.errors import RamifyError

Strength = float | Tensor
Prox = Callable[[Tensor, Strength], Tensor]


@arguments_checked
def prox_l0(weights: Tensor, strength: Strength) -> Tensor:
    r"""Hard thresholding, the proximal map of the number of non-zero entries.

    .. math:: H_s(w) = w \text{ where } |w| > \sqrt{2 s}, \quad 0 \text{ elsewhere}

    At :math:`|w| = \sqrt{2 s}`, where 0 and w are equally good, the result is 0.

    Args:
        weights: of any shape.
        strength: s, 0 or more.

    Returns:
        The minimiser, of the same shape.

    Example:
        >>> prox_l0(torch.tensor([3.0, -0.5]), 0.5)
        tensor([3., 0.])

    Source: RARTS thesis, 2.1.2.
    """
    threshold = (2 * _like(strength, weights)).sqrt()
    return torch.where(weights.abs() > threshold, weights, 0)


@arguments_checked
def prox_l1(weights: Tensor, strength: Strength) -> Tensor:
    r"""Soft thresholding, the proximal map of the sum of absolute values.

    .. math:: S_s(w) = \mathrm{sign}(w) \max(|w| - s, 0)

    Args:
        weights: of any shape.
        strength: s, 0 or more.

    Returns:
        The minimiser, of the same shape.

    Example:
        >>> prox_l1(torch.tensor([3.0, -0.5]), 1.0)
        tensor([2., -0.])

    Source: RARTS thesis, 2.1.2.
    """
    return weights.sign() * (weights.abs() - strength).clamp_min(0)


@arguments_checked
def prox_tl1(weights: Tensor, strength: Strength, a: float = 1.0) -> Tensor:
    r"""The proximal map of the transformed l1 penalty, which lies between l0 and l1.

    .. math:: \rho_a(u) = \frac{(a + 1)|u|}{a + |u|}, \quad
              \varphi(w) = \arccos\Bigl(1 - \frac{27 s a (a + 1)}{2 (a + |w|)^3}\Bigr), \quad
              g(w) = \tfrac23 (a + |w|) \cos\tfrac{\varphi(w)}{3} - \tfrac{2a}{3} + \tfrac{|w|}{3}

    and the map is sign(w) g(w) above a threshold, 0 up to it. While :math:`s \le a^2 / 2(a+1)` the
    threshold is :math:`s (a+1)/a`, and the map is continuous; for stronger penalties it is
    :math:`\sqrt{2 s (a+1)} - a/2`, where the map jumps: there 0 and g are equally good, and the
    result is 0. With a → 0 the penalty becomes l0, with a → ∞ l1.

    Args:
        weights: of any shape.
        strength: s, 0 or more.
        a: above 0.

    Returns:
        The minimiser, of the same shape.

    Raises:
        RamifyError: a is not above 0.

    Example:
        >>> prox_tl1(torch.tensor([3.0, -0.1]), 0.1)
        tensor([2.9874, 0.0000])

    Source: S. Zhang and J. Xin, "Minimization of transformed L1 penalty: closed form representation
    and iterative thresholding algorithms", 2017, Theorem 3.1.
    """
    if not a > 0:
        raise RamifyError(f"a of the transformed l1 penalty is {a}; give a number above 0.")
    scaled = (a + 1) * _like(strength, weights)
    threshold = torch.where(
        scaled <= a**2 / 2, scaled / a, (2 * scaled).clamp_min(0).sqrt() - a / 2
    )
    size = weights.abs()
    reach = a + size
    # The formula above with its cosines written as sines, to lose no precision for large a.
    sine = (27 / 4 * a * scaled / reach**3).clamp(0, 1).sqrt()
    shrunk = size - 4 / 3 * reach * (sine.asin() / 3).sin() ** 2
    return torch.where(size > threshold, weights.sign() * shrunk.clamp_min(0), 0)


def _like(strength: Strength, weights: Tensor) -> Tensor:
    """A strength in the type of the weights, without rounding, and on their device."""
    return torch.as_tensor(strength, dtype=weights.dtype, device=weights.device)


def group_norms(weights: Tensor, dim: int | None) -> Tensor:
    """The Euclidean norm of each slice along a dimension, or of all, with dimensions kept."""
    others = [axis for axis in range(weights.ndim) if dim is None or axis != dim % weights.ndim]
    # With no dimensions torch would compute the norm over all of them.
    return torch.linalg.vector_norm(weights, dim=others, keepdim=True) if others else weights.abs()


@arguments_checked
def by_group(prox: Prox, dim: int | None = 0) -> Prox:
    r"""The proximal map of a penalty on the Euclidean norm of each group of weights.

    .. math:: \arg\min_u \; s\,P(\lVert u \rVert) + \tfrac12 \lVert u - w \rVert^2
              = \frac{w}{\lVert w \rVert} \, \mathrm{prox}_{sP}(\lVert w \rVert)

    Args:
        prox: the map of P for one number.
        dim: each slice along this dimension is a group: 0 for the output channels of a layer, 1 for
            the input channels of a convolution or linear layer; None makes the whole tensor one
            group.

    Returns:
        The map, which sets whole groups to zero.

    Example:
        >>> by_group(prox_l0)(torch.tensor([[3.0, 4.0], [0.3, 0.4]]), 0.5)
        tensor([[3., 4.],
                [0., 0.]])
    """

    def grouped(weights: Tensor, strength: Strength) -> Tensor:
        norm = group_norms(weights, dim)
        kept = prox(norm, strength) / norm.clamp_min(torch.finfo(norm.dtype).tiny)
        return weights * kept

    return grouped


@arguments_checked
def prox_group_l1(weights: Tensor, strength: Strength, dim: int | None = 0) -> Tensor:
    r"""The proximal map of the sum over groups of their Euclidean norms.

    .. math:: w_g \max\bigl(1 - s / \lVert w_g \rVert, 0\bigr)

    Args:
        weights: of any shape.
        strength: s, 0 or more.
        dim: what a group is, as for `by_group`.

    Returns:
        The minimiser, of the same shape.

    Example:
        >>> prox_group_l1(torch.tensor([[3.0, 4.0], [0.3, 0.4]]), 2.5)
        tensor([[1.5000, 2.0000],
                [0.0000, 0.0000]])

    Source: RARTS thesis, sections 2.1.2 and 4.1.1; M. Yuan and Y. Lin, "Model selection and
    estimation in regression with grouped variables", 2006.
    """
    return by_group(prox_l1, dim)(weights, strength)
