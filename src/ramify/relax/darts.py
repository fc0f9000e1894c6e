"""The searchers: DARTS of first and second order, MiLeNAS and joint training.

They have one copy of the weights. `ramify.cells.DARTS` is a cell search space, not a searcher.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ramify import distributed
from ramify.errors import RamifyError, derivatives
from ramify.probe.replay import decomposed
from ramify.relax.partition import NamedTensors
from ramify.relax.searcher import (
    Gradients,
    Searcher,
    Step,
    Value,
    check_weight,
    combined,
    squares,
)
from ramify.store.state import set_torch_states, torch_states

RADIUS = 0.01  # half-width of the central difference, as in DARTS


@dataclass(eq=False, repr=False)
class DARTS(Searcher):
    r"""Differentiable architecture search: w on one half of the data, α on the other.

    In first order (2.21), α is updated by the gradient of the second half's loss at the new w: two
    forward and two backward passes per step. In second order, by the gradient of the loss after one
    step of gradient descent,

    .. math::
        ∇_α L_p(w − ξ ∇_w L_a(w, α), α)
        = ∇_α L_p(w', α) − ξ ∇²_{α,w} L_a(w, α) ∇_{w'} L_p(w', α)

    where the last term is an exact second derivative (`exact`) or a central difference of `∇_α L_a`
    at `w ± ε ξ ∇_{w'} L_p`: five forward and five backward passes per step, or three and four with
    the second backward pass through one of them. Buffers are updated only in the passes of (2.21).

    Attributes:
        order: 1 or 2.
        xi: ξ, the step size of the look-ahead; by default the current learning rate of each weight.
            Second order only.
        exact: Whether to use the exact second derivative. Second order only.

    Example:
        >>> import ramify
        >>> from functools import partial
        >>> net, sgd = torch.nn.Linear(2, 1), partial(torch.optim.SGD, lr=0.1)
        >>> searcher = ramify.relax.DARTS(
        ...     net,
        ...     arch=net.bias,
        ...     loss=lambda model, batch: model(batch).square().mean(1),
        ...     weight_optimizer=sgd,
        ...     arch_optimizer=sgd,
        ...     order=2,
        ... )
        >>> a, p = torch.randn(2, 16, 2)
        >>> first, *_, last = [searcher.step(a, p) for _ in range(20)]
        >>> last.loss_p < first.loss_p
        True

    Source: RARTS thesis, section 2.1.3 and (2.21); Liu, Simonyan, Yang, DARTS, ICLR 2019, (7), (8).
    """

    order: int = 1
    xi: float | None = None
    exact: bool = False

    def _prepare(self) -> None:
        if self.order not in (1, 2):
            raise RamifyError(f"order is {self.order}; DARTS is of order 1 or 2")
        if self.order == 1 and (self.xi is not None or self.exact):
            raise RamifyError(
                "DARTS of order 1 looks no step ahead; leave xi and exact out, or give order=2"
            )
        if self.xi is not None:
            check_weight("xi", self.xi)

    def _iterate(self, batch_a: Any, batch_p: Any) -> Step:
        r"""w, then α with the new w (2.21).

        .. math::
            w^{t+1} &= w^t − η_w ∇_w L_a(w^t, α^t) \\
            α^{t+1} &= α^t − η_α ∇_α L_p(w^{t+1}, α^t)

        Returns:
            The losses and the penalty.
        """
        loss_a = self._value(batch_a)
        [of_a] = self._gradients(loss_a, self._weights)
        self._update("weights", of_a)
        if self.order == 1:
            loss_p = self._value(batch_p)
            [of_p] = self._gradients(loss_p, self._alphas)
        else:
            loss_p, of_p = self._ahead(batch_a, batch_p)
        return self._seen(loss_a, loss_p, self._update_arch(of_p))

    @derivatives()
    def _ahead(self, batch_a: Any, batch_p: Any) -> tuple[Value, Gradients]:
        """L_p after one step, and its gradient with respect to α through that step."""
        # One step of gradient descent on L_a, which does not change the weights themselves.
        drawn, names = torch_states(), list(self._weights)
        with decomposed(self.model) if self.exact else contextlib.nullcontext():
            loss_a = self._virtual(batch_a, self._weights)
        slope = torch.autograd.grad(
            loss_a.mean, list(self._weights.values()), create_graph=self.exact, allow_unused=True
        )
        move = distributed.mean_gradients(slope, list(self._weights.values()), loss_a.samples)
        xi = self._rates()
        ahead = self._displaced(-1.0, [_scaled(g, xi[n]) for n, g in zip(names, move, strict=True)])
        # L_p there, its direct gradient by α, and the part that comes through the step.
        loss_p = self._virtual(batch_p, ahead)
        back, direct = self._gradients(loss_p, ahead, self._alphas)
        vectors = [_scaled(v, xi[name]) for name, v in zip(names, back, strict=True)]
        if self.exact:
            implicit = self._second_derivative(loss_a, slope, vectors)
        else:
            implicit = self._central_difference(batch_a, vectors, drawn)
        return loss_p, combined((1.0, direct), (-1.0, implicit))

    @derivatives()
    def _second_derivative(
        self, loss_a: Value, slope: tuple[Tensor | None, ...], vectors: Gradients
    ) -> Gradients:
        """`∇_α ⟨∇_w L_a(w, α), v⟩`, by a backward pass through the one that gave `slope`."""
        alphas = list(self._alphas.values())
        both = [
            (g, v)
            for g, v in zip(slope, vectors, strict=True)
            if g is not None and g.requires_grad and v is not None
        ]
        found: Iterable[Tensor | None] = [None] * len(alphas)
        if both:
            outputs, cotangents = zip(*both, strict=True)
            found = torch.autograd.grad(outputs, alphas, cotangents, allow_unused=True)
        return distributed.mean_gradients(list(found), alphas, loss_a.samples)

    def _central_difference(self, batch: Any, vectors: Gradients, drawn: list[Tensor]) -> Gradients:
        """The same by `[∇_α L_a(w + εv, α) − ∇_α L_a(w − εv, α)] / 2ε`, with the same dropout."""
        norm = torch.stack([squares(v.detach()) for v in vectors if v is not None]).sum()
        if not norm:
            return [None] * len(self._alphas)
        epsilon, now = RADIUS / norm.sqrt().item(), torch_states()
        sides = []
        for sign in (1.0, -1.0):
            set_torch_states(drawn)
            value = self._virtual(batch, self._displaced(sign * epsilon, vectors))
            sides += self._gradients(value, self._alphas)
        set_torch_states(now)
        return combined((0.5 / epsilon, sides[0]), (-0.5 / epsilon, sides[1]))

    def _displaced(self, factor: float, vectors: Gradients) -> NamedTensors:
        """Leaves `w + factor v`."""
        both = zip(self._weights.items(), vectors, strict=True)
        out: NamedTensors = {}
        for (name, w), v in both:
            moved = w.detach() if v is None else w.detach().add(v.detach(), alpha=factor)
            out[name] = moved.requires_grad_()
        return out

    def _virtual(self, batch: Any, weights: NamedTensors) -> Value:
        """The loss at other weights, in a pass that updates copies of the buffers."""
        return self._value(batch, weights | self._elsewhere.buffers_copied())

    def _rates(self) -> dict[str, float]:
        """The ξ of each weight."""
        groups = self.optimizers["weights"].param_groups
        rates = {id(p): float(group["lr"]) for group in groups for p in group["params"]}
        return {
            name: rates[id(w)] if self.xi is None else self.xi for name, w in self._weights.items()
        }


@dataclass(eq=False, repr=False)
class MiLeNAS(Searcher):
    r"""Mixed-level search: w on one half of the data, α on both, with one copy of the weights.

    Three forward and three backward passes per step.

    Attributes:
        lam: λ, the weight of the second half's loss.

    Example:
        >>> import ramify
        >>> from functools import partial
        >>> net, sgd = torch.nn.Linear(2, 1), partial(torch.optim.SGD, lr=0.1)
        >>> searcher = ramify.relax.MiLeNAS(
        ...     net,
        ...     arch=net.bias,
        ...     loss=lambda model, batch: model(batch).square().mean(1),
        ...     weight_optimizer=sgd,
        ...     arch_optimizer=sgd,
        ...     lam=1.0,
        ... )
        >>> a, p = torch.randn(2, 16, 2)
        >>> first, *_, last = [searcher.step(a, p) for _ in range(20)]
        >>> last.loss_p < first.loss_p
        True

    Source: RARTS thesis, (2.23); He, Ye, Shen, Zhang, MiLeNAS, CVPR 2020.
    """

    lam: float = 1.0

    def _prepare(self) -> None:
        check_weight("lam", self.lam)

    def _iterate(self, batch_a: Any, batch_p: Any) -> Step:
        r"""w, then α with the new w (2.23).

        .. math::
            w^{t+1} &= w^t − η_w ∇_w L_a(w^t, α^t) \\
            α^{t+1} &= α^t − η_α (∇_α L_a(w^{t+1}, α^t) + λ ∇_α L_p(w^{t+1}, α^t))

        Returns:
            The losses and the penalty.
        """
        loss_a = self._value(batch_a)
        [of_a] = self._gradients(loss_a, self._weights)
        self._update("weights", of_a)
        [of_a] = self._gradients(self._value(batch_a), self._alphas)
        loss_p = self._value(batch_p)
        [of_p] = self._gradients(loss_p, self._alphas)
        penalty = self._update_arch(combined((1.0, of_a), (self.lam, of_p)))
        return self._seen(loss_a, loss_p, penalty)


@dataclass(eq=False, repr=False)
class Joint(Searcher):
    r"""Single-level search: w and α together by the gradient of `L_a + L_p`, as network slimming.

    Two forward and two backward passes per step.

    Example:
        >>> import ramify
        >>> from functools import partial
        >>> net, sgd = torch.nn.Linear(2, 1), partial(torch.optim.SGD, lr=0.1)
        >>> searcher = ramify.relax.Joint(
        ...     net,
        ...     arch=net.bias,
        ...     loss=lambda model, batch: model(batch).square().mean(1),
        ...     weight_optimizer=sgd,
        ...     arch_optimizer=sgd,
        ... )
        >>> a, p = torch.randn(2, 16, 2)
        >>> first, *_, last = [searcher.step(a, p) for _ in range(20)]
        >>> last.loss_p < first.loss_p
        True

    Source: RARTS thesis, section 2.1.3; Liu et al., Network Slimming, ICCV 2017.
    """

    def _iterate(self, batch_a: Any, batch_p: Any) -> Step:
        r"""Both gradients at the same point.

        .. math::
            w^{t+1} &= w^t − η_w ∇_w (L_a + L_p)(w^t, α^t) \\
            α^{t+1} &= α^t − η_α ∇_α (L_a + L_p)(w^t, α^t) − η_α γ ∇_α P(α^t)

        Returns:
            The losses and the penalty.
        """
        loss_a = self._value(batch_a)
        w_a, alpha_a = self._gradients(loss_a, self._weights, self._alphas)
        loss_p = self._value(batch_p)
        w_p, alpha_p = self._gradients(loss_p, self._weights, self._alphas)
        self._update("weights", combined((1.0, w_a), (1.0, w_p)))
        penalty = self._update_arch(combined((1.0, alpha_a), (1.0, alpha_p)))
        return self._seen(loss_a, loss_p, penalty)


def _scaled(tensor: Tensor | None, factor: float) -> Tensor | None:
    return None if tensor is None else tensor.detach() * factor
