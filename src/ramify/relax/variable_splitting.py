r"""Relaxed variable splitting: sparse weights by a second copy that has the penalty.

.. math:: \min_{w, u} \; L(w) + \lambda P(u) + \tfrac\beta2 \lVert u - w \rVert^2

Source: RARTS thesis, section 2.1.2, (2.6); T. Dinh and J. Xin, "Convergence of a relaxed variable
splitting method for learning sparse neural networks via l1, l0, and transformed-l1 penalties",
2018.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ramify.arguments import arguments_checked
from ramify.errors import RamifyError
from ramify.relax.proximal import Prox


class RelaxedSplitting:
    r"""A sparse copy u of chosen weights w, for use with any optimizer.

    .. math:: w^{t+1} &= w^t - \eta \nabla L(w^t) - \eta \beta (w^t - u^t) \\
              u^{t+1} &= \mathrm{prox}_{\lambda/\beta}(w^t)

    Call `pull` between `loss.backward()` and `optimizer.step()`: it adds β (w − u) to the
    gradients, then updates u. At the end `put` writes u, with its exact zeros, into the weights.

    Args:
        params: the weights to make sparse, of one model.
        prox: the proximal map of P: `prox_l0`, `prox_l1`, `prox_tl1`, or for whole channels
            `prox_group_l1` or `by_group(prox_l0)`.
        lam: λ, 0 or more.
        beta: β, above 0.

    Attributes:
        params: w, the parameters themselves.
        copies: u, one tensor per weight; initially prox(w).

    Raises:
        RamifyError: λ or β is out of range, or there is no parameter.

    Example:
        >>> from torch import nn
        >>> from ramify.relax import prox_l0
        >>> net = nn.Linear(2, 1, bias=False)
        >>> _ = net.weight.data.copy_(torch.tensor([[1.0, 0.1]]))
        >>> splitting = RelaxedSplitting(net.parameters(), prox_l0, lam=0.02, beta=1.0)
        >>> net(torch.ones(1, 2)).sum().backward()
        >>> splitting.pull()
        >>> net.weight.grad, splitting.copies[0]
        (tensor([[1.0000, 1.1000]]), tensor([[1., 0.]]))
    """

    @arguments_checked
    def __init__(
        self, params: Iterable[torch.nn.Parameter], prox: Prox, lam: float, beta: float
    ) -> None:
        self.params = list(params)
        if not self.params:
            raise RamifyError("there are no weights to make sparse; give at least one parameter.")
        if not (0 <= lam < math.inf and 0 < beta < math.inf):
            raise RamifyError(f"λ is {lam} and β is {beta}; give λ of 0 or more and β above 0.")
        self.prox, self.lam, self.beta = prox, lam, beta
        self.copies: list[Tensor] = []
        self._update()

    def pull(self) -> None:
        """Add β (w − u) to the gradients, then set u to prox(w); call it before each step.

        Raises:
            RamifyError: the shape of a parameter has changed.
        """
        # The quadratic term's gradient with the current copies; then the copies are updated.
        for param, copy in zip(self.params, self.copies, strict=True):
            if param.shape != copy.shape:
                raise RamifyError(
                    f"a weight of shape {tuple(copy.shape)} now has the shape "
                    f"{tuple(param.shape)}; make a new RelaxedSplitting after the edit."
                )
            apart = self.beta * (param.detach() - copy)
            param.grad = apart if param.grad is None else param.grad + apart
        self._update()

    def put(self) -> None:
        """Write u into the weights."""
        with torch.no_grad():
            for param, copy in zip(self.params, self.copies, strict=True):
                param.copy_(copy)

    def distance(self) -> float:
        """‖u − w‖ over all weights."""
        pairs = zip(self.params, self.copies, strict=True)
        return math.sqrt(sum(float((p.detach() - u).square().sum()) for p, u in pairs))

    def sparsity(self) -> float:
        """The share of the entries of u that are exactly zero."""
        zeros = sum(int((copy == 0).sum()) for copy in self.copies)
        return zeros / sum(copy.numel() for copy in self.copies)

    def state_dict(self) -> dict[str, Any]:
        """The copies u, by number; λ and β are not included."""
        return {str(number): copy.clone() for number, copy in enumerate(self.copies)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the copies of a `state_dict`.

        Args:
            state: from `state_dict`, for weights of the same number and shapes.

        Raises:
            RamifyError: it belongs to other weights.
        """
        shapes = {name: tuple(copy.shape) for name, copy in state.items()}
        own = {str(number): tuple(copy.shape) for number, copy in enumerate(self.copies)}
        if shapes != own:
            raise RamifyError(
                f"the state holds the shapes {list(shapes.values())}, the weights have "
                f"{list(own.values())}; load it for the weights it was taken of."
            )
        self.copies = [
            state[str(number)].to(copy).clone() for number, copy in enumerate(self.copies)
        ]

    def _update(self) -> None:
        with torch.no_grad():
            self.copies = [self.prox(param.detach(), self.lam / self.beta) for param in self.params]
