"""What a search updates: architecture parameters, weights, and an optimizer for each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from ramify.errors import RamifyError
from ramify.imports import why_not_called

MakeOptimizer = Callable[[list[Tensor]], Optimizer]
NamedTensors = dict[str, Tensor]


def partition(model: nn.Module, arch: Iterable[nn.Parameter]) -> tuple[NamedTensors, NamedTensors]:
    """Split the parameters that require gradients into architecture parameters and weights.

    Args:
        model: the network.
        arch: some of its parameters.

    Returns:
        The architecture parameters in the order given, and all others that require gradients, by
        name; a tied parameter has its first name.

    Raises:
        RamifyError: one of `arch` is not the model's or requires no gradients, or one part is
            empty.
    """
    if isinstance(model, DistributedDataParallel):
        raise RamifyError(
            "the model is wrapped in DistributedDataParallel; search on model.module, inside "
            "ramify.together() on every rank"
        )
    names = {id(p): name for name, p in model.named_parameters()}
    alphas: NamedTensors = {}
    for number, alpha in enumerate(arch):
        if id(alpha) not in names:
            seen = f"of shape {tuple(alpha.shape)} " if isinstance(alpha, Tensor) else ""
            raise RamifyError(
                f"number {number} of arch, a {type(alpha).__name__} {seen}is not a parameter of "
                "the model; give leaf parameters that model.named_parameters() lists"
            )
        if not alpha.requires_grad:
            raise RamifyError(
                f"the architecture parameter '{names[id(alpha)]}' takes no gradients; call "
                "requires_grad_() on it, or leave it out of arch"
            )
        alphas[names[id(alpha)]] = alpha
    if not alphas:
        raise RamifyError("arch is empty; give the parameters that describe the architecture")
    learned = {name: p for name, p in model.named_parameters() if p.requires_grad}
    weights: NamedTensors = {name: p for name, p in learned.items() if name not in alphas}
    if not weights:
        raise RamifyError(
            "the model has no weights beside arch; leave those that are trained on data out of "
            "arch, and unfreeze some"
        )
    return alphas, weights


def made_optimizer(
    role: str, given: Optimizer | MakeOptimizer, parameters: NamedTensors
) -> Optimizer:
    """The optimizer of one role.

    Args:
        role: what it updates, for the error message.
        given: an optimizer, or a function that makes one from a list of parameters.
        parameters: the parameters that it must update, by name.

    Returns:
        The optimizer.

    Raises:
        RamifyError: it does not have exactly those parameters, or its step needs an argument.
    """
    made: Any = given if isinstance(given, Optimizer) else given(list(parameters.values()))
    if not isinstance(made, Optimizer):
        raise RamifyError(
            f"the {role} optimizer is a {type(made).__name__}; give a torch optimizer, or a "
            "function of a list of parameters that makes one, such as partial(SGD, lr=0.1)"
        )
    check_steps_alone(made, f"{role} optimizer", "SGD or Adam")
    names = {id(p): name for name, p in parameters.items()}
    held = [p for group in made.param_groups for p in group["params"]]
    strangers = [p for p in held if id(p) not in names]
    if strangers:
        raise RamifyError(
            f"the {role} optimizer holds a parameter of shape {tuple(strangers[0].shape)} that is "
            f"none of the {len(names)} {role}; make it over these alone"
        )
    missing = names.keys() - {id(p) for p in held}
    if missing:
        first = next(name for name, p in parameters.items() if id(p) in missing)
        raise RamifyError(
            f"the {role} optimizer leaves out {len(missing)} of {len(names)} {role}, such as "
            f"'{first}'; make it over all of them, or freeze those by requires_grad_(False)"
        )
    return made


def fresh_optimizer(optimizer: Optimizer, copies: Mapping[int, Tensor]) -> Optimizer:
    """A new optimizer of the same class and settings over copies, group by group.

    Args:
        optimizer: the optimizer of the parameters.
        copies: `id(parameter)` -> its replacement.

    Returns:
        The optimizer over the copies.

    Raises:
        RamifyError: its class cannot be made from parameter groups alone.
    """
    groups = [
        group_settings(group) | {"params": [copies[id(p)] for p in group["params"]]}
        for group in optimizer.param_groups
    ]
    try:
        return type(optimizer)(groups)  # type: ignore[call-arg]
    except TypeError as error:
        raise RamifyError(
            f"a second {type(optimizer).__name__} cannot be made from its groups ({error}); give "
            "auxiliary_optimizer too"
        ) from None


def group_settings(group: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a parameter group; tensors are copied, since schedulers write to rates."""
    return {
        key: value.clone() if isinstance(value, Tensor) else value
        for key, value in group.items()
        if key != "params"
    }


def check_steps_alone(made: Any, what: str, others: str) -> None:
    """Check that the step of an optimizer or of a schedule needs no argument.

    Args:
        made: the optimizer or the schedule.
        what: what it is, for errors.
        others: some whose step needs none, for errors.

    Raises:
        RamifyError: it needs one, such as a closure or a loss.
    """
    if misfit := why_not_called(made.step, 0):
        signature, error = misfit
        raise RamifyError(
            f"the {what} {type(made).__name__} has step{signature}, but a searcher calls step() "
            f"alone: give one that needs no argument, such as {others}"
        ) from error
