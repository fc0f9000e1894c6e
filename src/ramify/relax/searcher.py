"""The base class of searchers: parameter roles, gradients and their means over ranks, and state.

Roles: ``arch`` is α; ``weights`` are the model's own, u in RARTS and w elsewhere; ``auxiliary`` are
the auxiliary weights w of RARTS.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass
from itertools import islice
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ramify import distributed
from ramify.arguments import check_settings, form_of
from ramify.errors import RamifyError, derivatives
from ramify.probe.loss import NO_SAMPLE, Loss, called_loss
from ramify.relax.partition import (
    MakeOptimizer,
    NamedTensors,
    check_steps_alone,
    made_optimizer,
    partition,
)
from ramify.relax.substitute import Substitute
from ramify.store.state import (
    check_optimizer,
    load_optimizer,
    optimizer_state,
    random_states,
    set_random_states,
)

Gradients = list[Tensor | None]
Penalty = Callable[[list[Any]], Tensor]
"""P, a function of the list of architecture parameters; shape ()."""
Schedule = Callable[[Optimizer], LRScheduler]
SOURCE = "the search state"


@runtime_checkable
class Proximal(Protocol):
    """A penalty with a proximal map, which can be used instead of its gradient."""

    by_proximal: bool

    def proximal(self, arch: list[nn.Parameter], step: float) -> None:
        """Map α to `prox_{step P}(α)`, in place."""


@dataclass(frozen=True)
class Step:
    """The losses and the penalty of one step of a search.

    Attributes:
        loss_a: The mean loss on the first batch before the step, over the samples of all ranks.
        loss_p: The mean loss on the second batch, when the step first needed it.
        penalty: P(α) before the step, not weighted by γ; 0 without a penalty or if γ is 0.

    Example:
        >>> Step(loss_a=0.5, loss_p=0.75, penalty=0.0).loss_p  # what `searcher.step(...)` returns
        0.75
    """

    loss_a: float
    loss_p: float
    penalty: float


class Value(NamedTuple):
    """A mean loss, to be differentiated, and its number of samples."""

    mean: Tensor
    samples: int


@dataclass(eq=False, repr=False)
class Searcher(ABC):
    """One way to learn weights and architecture parameters together; :meth:`step` is one step.

    The model has the weights and α, which are updated in place, and remains an ordinary module. A
    searcher neither changes its mode nor updates frozen parameters (`requires_grad` False). With
    `torch.distributed`, call :meth:`step` inside :func:`ramify.together` on every rank, each with
    its own batches: gradients are means over the samples of all ranks, so that α and the weights
    stay the same everywhere.

    Attributes:
        model: The network.
        arch: The architecture parameters α: leaf parameters of the model. One, or an iterable such
            as the result of `ramify.gate(...)`; a list once the searcher is made. All other
            parameters that require gradients are weights.
        loss: `loss(model, batch)`, one loss per sample, shape (S,), or one number (which counts as
            one sample on its rank). The mean is used.
        weight_optimizer: `parameters -> Optimizer`, such as `functools.partial(SGD, lr=0.1)`, or an
            optimizer over exactly the weights. Weight decay is set in the optimizer.
        arch_optimizer: Likewise for α.
        gamma: The penalty's weight γ.
        penalty: P, a function of the list of architecture parameters. A :class:`Proximal` penalty
            whose `by_proximal` is True gives no gradient: α is mapped to `prox_{ηγP}(α)` after its
            step.
        schedules: For some of the roles `"weights"`, `"arch"` and `"auxiliary"`, a function that
            makes a learning-rate scheduler from its optimizer; the scheduler is stepped once per
            step.
        clip: The largest norm of a gradient of the weights, and of the auxiliary weights.
        optimizers: By role.
        steps: The number of steps made.

    Raises:
        RamifyError: `arch` is empty or not the model's, there are no weights, or an optimizer has
            other parameters.

    Example:
        >>> import functools, ramify, torch
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> x, y = torch.randn(6, 4), torch.randn(6, 2)
        >>> searcher = ramify.relax.Joint(
        ...     net,
        ...     arch=ramify.gate(ramify.trace(net, x)),
        ...     loss=lambda model, batch: (model(batch[0]) - batch[1]).square().mean(1),
        ...     weight_optimizer=functools.partial(torch.optim.SGD, lr=0.1),
        ...     arch_optimizer=functools.partial(torch.optim.Adam, lr=0.01),
        ... )
        >>> isinstance(searcher, ramify.relax.Searcher), searcher.step((x, y), (x, y)).penalty
        (True, 0.0)
    """

    model: nn.Module
    _: KW_ONLY
    arch: nn.Parameter | Iterable[nn.Parameter]
    loss: Loss
    weight_optimizer: Optimizer | MakeOptimizer
    arch_optimizer: Optimizer | MakeOptimizer
    gamma: float = 0.0
    penalty: Penalty | None = None
    schedules: Mapping[str, Schedule] | None = None
    clip: float | None = None

    def __post_init__(self) -> None:
        check_settings(self)
        # What is updated: α in the user's order, and every other parameter that requires gradients.
        given = [self.arch] if isinstance(self.arch, nn.Parameter) else self.arch
        self.arch = list({id(alpha): alpha for alpha in given}.values())
        self._alphas, self._weights = partition(self.model, self.arch)
        self._check_settings()
        # Passes with other weights instead of the model's own.
        self._elsewhere = Substitute(self.model, self.loss, self._weights)
        self.steps = 0
        # An optimizer per role, then the algorithm's own parts, then the schedules of all roles.
        self.optimizers = {
            "weights": made_optimizer("weights", self.weight_optimizer, self._weights),
            "arch": made_optimizer("architecture parameters", self.arch_optimizer, self._alphas),
        }
        self._prepare()
        schedules = self._all_schedules()
        unknown = [role for role in schedules if role not in self.optimizers]
        if unknown:
            raise RamifyError(
                f"schedules has a '{unknown[0]}', and {type(self).__name__} moves "
                f"{', '.join(self.optimizers)}; name some of these"
            )
        self._schedulers = {role: make(self.optimizers[role]) for role, make in schedules.items()}
        for role, schedule in self._schedulers.items():
            check_steps_alone(schedule, f"{role} schedule", "CosineAnnealingLR")

    @abstractmethod
    def _iterate(self, batch_a: Any, batch_p: Any) -> Step:
        """The equations of one step."""

    def step(self, batch_a: Any, batch_p: Any) -> Step:
        """One step of the search, on one batch from each half of the data.

        Args:
            batch_a: a batch of D_a, the half on which the weights of the bilevel problem are
                trained (called the training half in DARTS).
            batch_p: a batch of D_p, the other half (the validation half in DARTS).

        Returns:
            The losses and the penalty.

        Raises:
            RamifyError: the loss is not finite, not of shape (S,) or (), or does not depend on the
                weights or on α; or α is no longer finite; or the model's parameters have changed
                since the searcher was made.
        """
        self._check_model()
        found = self._iterate(batch_a, batch_p)
        for role, scheduler in self._schedulers.items():
            try:
                scheduler.step()
            except ValueError as error:
                raise RamifyError(
                    f"the {role} schedule {type(scheduler).__name__} failed at step "
                    f"{self.steps + 1} ({error}): it is stepped once per step of the search"
                ) from error
        self.steps += 1
        return found

    def share_buffers(self) -> None:
        """Give every rank the buffers of rank 0; see :func:`ramify.share_buffers`."""
        distributed.share_buffers(self.model)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the search needs to continue with identical results.

        Returns:
            Nested dictionaries of tensors, numbers and strings, which `torch.save` and
            `torch.load(weights_only=True)` accept. Tensors have the names of the model's parameters
            and are the searcher's own, as in a model's state dictionary: the next step changes
            them.
        """
        return {
            "searcher": type(self).__name__,
            "kinds": self._schedule_types(),
            "steps": self.steps,
            "tensors": {
                part: {name: tensor.detach() for name, tensor in tensors.items()}
                for part, tensors in self._tensors().items()
            },
            "optimizers": {
                role: optimizer_state(optimizer, self._names(role))
                for role, optimizer in self.optimizers.items()
            },
            "schedules": {role: s.state_dict() for role, s in self._schedulers.items()},
            "rng": random_states(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state in place; the next steps are bit-identical to those that followed it.

        Learning rates and their schedules are part of the state; λ, β, γ and ξ are this searcher's,
        so that a search can continue with a weaker penalty.

        Args:
            state: from :meth:`state_dict` of a searcher made in the same way.

        Raises:
            RamifyError: it belongs to another searcher, model, optimizer or schedule. Nothing has
                changed then.
        """
        self._check_state(state)
        with torch.no_grad():
            for part, tensors in self._tensors().items():
                for name, tensor in tensors.items():
                    tensor.copy_(state["tensors"][part][name])
        for role, optimizer in self.optimizers.items():
            load_optimizer(optimizer, state["optimizers"][role])
        for role, scheduler in self._schedulers.items():
            scheduler.load_state_dict(dict(state["schedules"][role]))
        self.steps = state["steps"]
        set_random_states(state["rng"])

    # Hooks for algorithms.

    def _prepare(self) -> None:  # noqa: B027  (not every searcher has something)
        """Check the algorithm's own settings, and make its other tensors and their optimizer."""

    def _schedule_types(self) -> dict[str, str]:
        """The classes of the schedules, by role."""
        return {role: type(s).__name__ for role, s in self._schedulers.items()}

    def _all_schedules(self) -> dict[str, Schedule]:
        return dict(self.schedules or {})

    def _tensors(self) -> dict[str, NamedTensors]:
        """All tensors of the state, by part and name."""
        own: NamedTensors = dict(self.model.named_parameters())
        return {"model": own | dict(self.model.named_buffers())}

    def _moved(self, role: str) -> NamedTensors:
        """The tensors that an optimizer updates, by name."""
        return self._alphas if role == "arch" else self._weights

    # Building blocks of the equations.

    def _value(self, batch: Any, tensors: NamedTensors | None = None) -> Value:
        """The mean loss on a batch, with the given tensors instead of the model's."""
        # Under an outer autocast, torch reuses casts of weights from earlier passes.
        torch.clear_autocast_cache()
        if tensors is None:
            value = _mean(called_loss(self.loss, self.model, batch))
        else:
            value = _mean(self._elsewhere.run(batch, tensors))
        if not distributed.all_true(math.isfinite(value.mean.item())):
            raise RamifyError(
                f"the loss is not finite ({value.mean.item()} here) in step {self.steps}: lower "
                "the learning rates or check the data, and go on from the last checkpoint"
            )
        return value

    def _gradients(self, value: Value, *wanted: NamedTensors) -> list[Gradients]:
        """The gradients of a mean loss over all ranks' samples: one list per item of `wanted`."""
        parameters = [p for named in wanted for p in named.values()]
        found: Iterable[Tensor | None] = [None] * len(parameters)
        if value.mean.requires_grad:
            with derivatives():
                found = torch.autograd.grad(value.mean, parameters, allow_unused=True)
        gradients = iter(distributed.mean_gradients(list(found), parameters, value.samples))
        parts = [list(islice(gradients, len(named))) for named in wanted]
        for part, named in zip(parts, wanted, strict=True):
            if all(gradient is None for gradient in part):
                raise RamifyError(
                    f"the loss depends on none of {len(named)} parameters that it is to teach, "
                    f"such as '{next(iter(named))}': let the model's forward use them, without "
                    "detach or torch.no_grad"
                )
        return parts

    def _update(self, role: str, gradients: Gradients) -> None:
        """Step the optimizer of a role."""
        parameters = list(self._moved(role).values())
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        if role != "arch" and self.clip is not None:
            clip_grad_norm_(parameters, self.clip)
        self.optimizers[role].step()
        for parameter in parameters:
            parameter.grad = None

    def _update_arch(self, gradients: Gradients) -> float:
        """Step α by the loss gradients and the penalty; returns P(α) before the step."""
        alphas = list(self._alphas.values())
        value = self._penalty_value()
        penalty: Any = self.penalty
        by_map = isinstance(penalty, Proximal) and penalty.by_proximal
        if value is not None and not by_map:
            pull = torch.autograd.grad(value, alphas, allow_unused=True)
            gradients = combined((1.0, gradients), (self.gamma, list(pull)))
        self._update("arch", gradients)
        if value is not None and by_map:
            with torch.no_grad():
                penalty.proximal(alphas, _only_rate(self.optimizers["arch"]) * self.gamma)
        finite = torch.stack([torch.isfinite(alpha).all() for alpha in alphas])
        if not bool(finite.all()):
            name = list(self._alphas)[int((~finite).nonzero()[0])]
            raise RamifyError(
                f"the architecture parameter '{name}' is no longer finite after step {self.steps}: "
                "lower its learning rate, and go on from the last checkpoint"
            )
        return 0.0 if value is None else value.item()

    def _penalty_value(self) -> Tensor | None:
        """P(α), or None without a penalty."""
        if self.penalty is None or self.gamma == 0:
            return None
        value = self.penalty(list(self._alphas.values()))
        if not isinstance(value, Tensor) or value.dim() != 0 or not value.requires_grad:
            raise RamifyError(
                "the penalty gives one number that depends on the architecture parameters, a "
                "tensor of shape (): build it of these with torch operations, without detach"
            )
        return value

    def _seen(self, a: Value, p: Value, penalty: float) -> Step:
        """The reported step: the losses over the samples of all ranks."""
        loss_a, loss_p = (
            distributed.all_mean([v.mean.detach()], v.samples)[0].item() for v in (a, p)
        )
        return Step(loss_a, loss_p, penalty)

    # Checks.

    def _check_settings(self) -> None:
        check_weight("gamma", self.gamma)
        if self.gamma and self.penalty is None:
            raise RamifyError(
                f"gamma is {self.gamma} and there is no penalty for it to weigh; give one, such as "
                "ramify.relax.L1(), or leave gamma out"
            )
        if self.clip is not None and not self.clip > 0:
            raise RamifyError(f"clip is {self.clip}; the largest norm of a gradient is above 0")

    def _check_model(self) -> None:
        """Raise an error if the optimizers no longer have the parameters that the model learns."""
        now = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        known = self._weights | self._alphas
        changed = [name for name in now | known if now.get(name) is not known.get(name)]
        if changed:
            raise RamifyError(
                f"the model's '{changed[0]}' was replaced, removed, frozen or unfrozen after the "
                "searcher was made; make a new searcher after such a change"
            )

    def _names(self, role: str) -> dict[int, str]:
        return {id(tensor): name for name, tensor in self._moved(role).items()}

    def _check_state(self, state: Mapping[str, Any]) -> None:
        if state.get("searcher") != type(self).__name__:
            raise RamifyError(
                f"the state is that of {state.get('searcher', 'no searcher')}, but this is "
                f"{type(self).__name__}; resume with the same searcher"
            )
        # The same tensors, by part and name, with the same shapes and types.
        for part, tensors in self._tensors().items():
            stored = state["tensors"][part]
            own = {name: (tuple(t.shape), t.dtype) for name, t in tensors.items()}
            theirs = {name: (tuple(t.shape), t.dtype) for name, t in stored.items()}
            for name in own | theirs:
                if own.get(name) != theirs.get(name):
                    raise RamifyError(
                        f"the {part}'s '{name}' is {theirs.get(name, 'absent')} in the state and "
                        f"{own.get(name, 'absent')} here; resume with the same model and arch"
                    )
        # The same optimizers and schedules.
        for role, optimizer in self.optimizers.items():
            check_optimizer(optimizer, self._names(role), state["optimizers"][role], SOURCE)
        if state["schedules"].keys() != self._schedulers.keys():
            raise RamifyError(
                f"the state has schedules of {', '.join(state['schedules']) or 'nothing'}, and "
                f"here they are of {', '.join(self._schedulers) or 'nothing'}; resume with the same"
            )
        if state["kinds"] != self._schedule_types():
            raise RamifyError(
                f"the state has schedules of the kinds {state['kinds']}, and here they are "
                f"{self._schedule_types()}; resume with the same"
            )


def combined(*terms: tuple[float, Gradients]) -> Gradients:
    """The weighted sum of gradients; None where no term has one."""
    out: Gradients = [None] * len(terms[0][1])
    for factor, gradients in terms:
        for number, gradient in enumerate(gradients):
            if gradient is not None:
                scaled, held = gradient if factor == 1 else gradient * factor, out[number]
                if held is not None and held.is_sparse:  # torch adds a sparse tensor to a dense one
                    scaled, held = held, scaled
                out[number] = scaled if held is None else held + scaled
    return out


def squares(tensor: Tensor) -> Tensor:
    """The sum of the squares of all entries, of their absolute values if they are complex."""
    return (tensor.abs() if tensor.is_complex() else tensor).square().sum()


def check_weight(name: str, value: float) -> None:
    """Raise an error if a weight of the Lagrangian is negative or not finite."""
    if not 0 <= value < math.inf:
        raise RamifyError(f"{name} is {value}; it is a finite number, 0 or more")


def _mean(losses: Any) -> Value:
    """The mean of the user's loss, in at least single precision."""
    good = isinstance(losses, Tensor) and losses.dim() <= 1 and losses.is_floating_point()
    if good and not losses.numel():
        raise RamifyError(NO_SAMPLE)
    if not good:
        raise RamifyError(
            f"the loss gave {form_of(losses)}; it gives one number for each sample, a tensor of "
            "shape (S,), or one number, of shape ()"
        )
    wide = losses.to(torch.promote_types(losses.dtype, torch.float32))
    return Value(wide.mean(), len(losses) if losses.dim() else 1)


def _only_rate(optimizer: Optimizer) -> float:
    """The learning rate, which all parameter groups must share."""
    rates = {float(group["lr"]) for group in optimizer.param_groups}
    if len(rates) > 1:
        raise RamifyError(
            f"the optimizer of arch has learning rates {sorted(rates)}, and a penalty that acts by "
            "its proximal map needs one for all"
        )
    return rates.pop()
