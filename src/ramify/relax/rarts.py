"""RARTS: two copies of the weights, one per half of the data, pulled towards each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ramify import distributed
from ramify.relax.partition import (
    MakeOptimizer,
    NamedTensors,
    fresh_optimizer,
    group_settings,
    made_optimizer,
)
from ramify.relax.searcher import (
    Gradients,
    Schedule,
    Searcher,
    Step,
    Value,
    check_weight,
    combined,
    squares,
)


@dataclass(eq=False, repr=False)
class RARTS(Searcher):
    r"""Relaxed architecture search: descent on one Lagrangian over u, w and α, Gauss-Seidel.

    .. math:: L(u, w, α) = L_p(u, α) + λ L_a(w, α) + \tfrac{β}{2} ‖u − w‖² + γ P(α)

    The model has the primary weights u; the auxiliary weights w start as their copy, with their own
    buffers, optimizer and schedule, so that each copy has its own running statistics. A step takes
    four forward and four backward passes.

    Attributes:
        lam: λ, the weight of the auxiliary loss.
        beta: β, how strongly the two copies are pulled towards each other.
        auxiliary_optimizer: What updates w, a function of its list of tensors. By default an
            optimizer like that of the weights, group by group, on the same schedule, or, without
            `schedules`, with that optimizer's settings at each step.

    Example:
        >>> import torch, ramify
        >>> from functools import partial
        >>> from torch import nn
        >>> class Net(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.a, self.b = nn.Linear(2, 1), nn.Linear(2, 1)
        ...         self.mix = nn.Parameter(torch.zeros(2))
        ...     def forward(self, x):
        ...         mix = self.mix.softmax(0)
        ...         return mix[0] * self.a(x) + mix[1] * self.b(x).relu()
        >>> def loss(model, batch):
        ...     return (model(batch).squeeze(1) - batch[:, 0]).square()
        >>> _ = torch.manual_seed(0)
        >>> net, sgd = Net(), partial(torch.optim.SGD, lr=0.1)
        >>> searcher = ramify.relax.RARTS(
        ...     net, arch=net.mix, loss=loss, beta=1.0, weight_optimizer=sgd, arch_optimizer=sgd
        ... )
        >>> a, p = torch.randn(2, 16, 2)
        >>> first, *_, last = [searcher.step(a, p) for _ in range(50)]
        >>> last.loss_p < first.loss_p, net.mix.argmax().item()
        (True, 0)

    Source: RARTS thesis, Algorithms 1 and 2, (2.11) and (2.12).
    """

    lam: float = 1.0
    beta: float = 1.0
    auxiliary_optimizer: MakeOptimizer | None = None

    def _prepare(self) -> None:
        check_weight("lam", self.lam)
        check_weight("beta", self.beta)
        self._w: NamedTensors = {
            name: u.detach().clone().requires_grad_() for name, u in self._weights.items()
        }
        self._w_buffers = self._elsewhere.buffers_copied()
        self.optimizers["auxiliary"] = self._auxiliary_optimizer()

    def _auxiliary_optimizer(self) -> Optimizer:
        if self.auxiliary_optimizer is not None:
            return made_optimizer("auxiliary weights", self.auxiliary_optimizer, self._w)
        copies = {id(u): self._w[name] for name, u in self._weights.items()}
        return fresh_optimizer(self.optimizers["weights"], copies)

    def _iterate(self, batch_a: Any, batch_p: Any) -> Step:
        r"""w, then u with the new w, then α with both new (2.12).

        .. math::
            w^{t+1} &= w^t − η_w λ ∇_w L_a(w^t, α^t) − η_w β (w^t − u^t) \\
            u^{t+1} &= u^t − η_u ∇_u L_p(u^t, α^t) − η_u β (u^t − w^{t+1}) \\
            α^{t+1} &= α^t − η_α λ ∇_α L_a(w^{t+1}, α^t) − η_α ∇_α L_p(u^{t+1}, α^t)
                       − η_α γ ∇_α P(α^t)

        Returns:
            The losses and the penalty.
        """
        u, w = self._weights, self._w
        self._follow_settings()
        loss_a = self._at_w(batch_a)
        [of_a] = self._gradients(loss_a, w)
        self._update("auxiliary", combined((self.lam, of_a), (self.beta, difference(w, u))))
        loss_p = self._value(batch_p)
        [of_p] = self._gradients(loss_p, u)
        self._update("weights", combined((1.0, of_p), (self.beta, difference(u, w))))
        [of_a] = self._gradients(self._at_w(batch_a), self._alphas)
        [of_p] = self._gradients(self._value(batch_p), self._alphas)
        penalty = self._update_arch(combined((self.lam, of_a), (1.0, of_p)))
        return self._seen(loss_a, loss_p, penalty)

    @property
    def auxiliary(self) -> dict[str, Tensor]:
        """The auxiliary weights w, by the names of the weights; they are not part of the model."""
        return {name: w.detach() for name, w in self._w.items()}

    @torch.no_grad()
    def lagrangian(self, batch_a: Any, batch_p: Any) -> float:
        """The current L(u, w, α), (2.11); no buffer is updated.

        Args:
            batch_a: the batch for L_a.
            batch_p: the batch for L_p.

        Returns:
            The value, on this rank's batches.
        """
        buffers = self._elsewhere.buffers_copied()
        value = self._value(batch_p, self._weights | buffers).mean
        buffers = {name: buffer.clone() for name, buffer in self._w_buffers.items()}
        value = value + self.lam * self._value(batch_a, self._w | buffers).mean
        for name, w in self._w.items():
            value = value + self.beta / 2 * squares(self._weights[name] - w)
        if self.penalty is not None:
            value = value + self.gamma * self.penalty(list(self._alphas.values()))
        return value.item()

    def share_buffers(self) -> None:
        """Give every rank the buffers of rank 0, for both copies."""
        super().share_buffers()
        distributed.broadcast_tensors(self._w_buffers.values())

    def _at_w(self, batch: Any) -> Value:
        """L_a(w, α), in a pass that updates w's own buffers."""
        held = self._w | self._w_buffers
        value = self._value(batch, held)
        self._w_buffers = {name: held[name] for name in self._w_buffers}
        return value

    def _follow_settings(self) -> None:
        """Copy the settings of the weights' optimizer to an auxiliary optimizer made like it.

        With the searcher's own schedules each optimizer has its schedule, and they agree.
        """
        if self.auxiliary_optimizer is None and not {"weights", "auxiliary"} & set(
            self._schedulers
        ):
            both = (self.optimizers[role].param_groups for role in ("auxiliary", "weights"))
            for own, group in zip(*both, strict=True):
                own.update(group_settings(group))

    def _all_schedules(self) -> dict[str, Schedule]:
        chosen = super()._all_schedules()
        if "weights" in chosen:
            chosen.setdefault("auxiliary", chosen["weights"])
        return chosen

    def _tensors(self) -> dict[str, NamedTensors]:
        return super()._tensors() | {"auxiliary": self._w | self._w_buffers}

    def _moved(self, role: str) -> NamedTensors:
        return self._w if role == "auxiliary" else super()._moved(role)


def difference(one: NamedTensors, other: NamedTensors) -> Gradients:
    """`one − other`, to which the quadratic term's gradient is proportional."""
    return [one[name].detach() - other[name].detach() for name in one]
