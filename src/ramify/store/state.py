"""Converts the state of a run to plain values for a checkpoint, and restores it.

The state covers a network in training, its optimizer by parameter name, and the random states of
torch, numpy and Python, as nested dictionaries and lists of tensors, numbers and strings.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ramify.edit import Follower
from ramify.errors import RamifyError
from ramify.store.model import recipe_of, restore_model, stored_tensors

SOURCE = "the checkpoint"


class Resumable(Protocol):
    """An object whose state can be stored and restored, such as a searcher."""

    def state_dict(self) -> dict[str, Any]:
        """Its state, nested dictionaries of tensors and plain values."""

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Restore a state, in place."""


@dataclass(frozen=True)
class NetworkInTraining:
    """A network in training, with everything that is stored with it.

    Attributes:
        model: The network, in its current shape.
        optimizer: The optimizer of the network's parameters.
        followers: Weight averages and other models or state dictionaries of the same shape.

    Example:
        >>> net, other = nn.Linear(2, 3), nn.Linear(2, 1)  # a network that has grown, a fresh one
        >>> trained = NetworkInTraining(net, torch.optim.SGD(net.parameters(), lr=0.1))
        >>> again = NetworkInTraining(other, torch.optim.SGD(other.parameters(), lr=0.1))
        >>> again.load_state_dict(trained.state_dict())
        >>> bool((other.weight == net.weight).all())
        True
    """

    model: nn.Module
    optimizer: Optimizer
    followers: Sequence[Follower] = ()

    def state_dict(self) -> dict[str, Any]:
        """Shape recipe, tensors, optimizer and followers; tensors are not copied."""
        return {
            "recipe": recipe_of(self.model),
            "model": stored_tensors(self.model),
            "optimizer": optimizer_state(self.optimizer, self._names()),
            "followers": [
                {"recipe": recipe_of(one), "tensors": stored_tensors(one)}
                if isinstance(one, nn.Module)
                else {"recipe": None, "tensors": dict(one)}
                for one in self.followers
            ],
        }

    def load_state_dict(self, stored: Mapping[str, Any]) -> None:
        """Restore network, optimizer and followers, in place.

        Args:
            stored: From :meth:`state_dict`, with a network of the same class, of any widths, an
                optimizer of the same class, and followers of the same kinds in the same order.

        Raises:
            RamifyError: One of them is of another kind than the stored one.
        """
        kinds = [one["recipe"] is not None for one in stored["followers"]]
        given = [isinstance(one, nn.Module) for one in self.followers]
        if kinds != given:
            raise RamifyError(
                f"{SOURCE} holds {_counted(kinds)}, and was given {_counted(given)}; resume with "
                "followers of the same kinds in the same order."
            )
        before = self._names()
        restore_model(self.model, stored["recipe"], stored["model"], SOURCE)
        renamed = before != self._names()  # blocks were dropped or inserted
        if renamed:
            regroup_parameters(self.optimizer, before, self.model, stored["optimizer"])
        check_optimizer(self.optimizer, self._names(), stored["optimizer"], SOURCE)
        load_optimizer(self.optimizer, stored["optimizer"])
        for number, (one, kept) in enumerate(zip(self.followers, stored["followers"], strict=True)):
            if isinstance(one, nn.Module):
                restore_model(one, kept["recipe"], kept["tensors"], SOURCE)
            else:
                _fill_dictionary(one, kept["tensors"], number, renamed)

    def _names(self) -> dict[int, str]:
        return {id(parameter): name for name, parameter in self.model.named_parameters()}


def _fill_dictionary(
    own: MutableMapping[str, Tensor], tensors: Mapping[str, Tensor], number: int, renamed: bool
) -> None:
    """Set the tensors of a follower that is a state dictionary to the stored ones."""
    if renamed:
        device = next((tensor.device for tensor in own.values()), torch.device("cpu"))
        own.clear()
        own.update({name: tensor.to(device) for name, tensor in tensors.items()})
        return
    if own.keys() != tensors.keys():
        raise RamifyError(
            f"follower {number} and the one in {SOURCE} do not have the same names "
            f"({min(own.keys() ^ tensors.keys())} is only in one); resume with the same follower."
        )
    for name, tensor in tensors.items():
        own[name] = tensor.to(own[name].device)


def _counted(modules: Sequence[bool]) -> str:
    """The number of followers of each kind, in words."""
    return f"{sum(modules)} follower modules and {len(modules) - sum(modules)} state dictionaries"


def optimizer_state(optimizer: Optimizer, names: Mapping[int, str]) -> dict[str, Any]:
    """The state of an optimizer, by the names of its parameters.

    Args:
        optimizer: any optimizer.
        names: `id(parameter)` -> name.

    Returns:
        ``class``; ``groups``, each with the names of its ``params`` and its ``settings``; and
        ``state`` by name. Tensors are the optimizer's own.

    Raises:
        RamifyError: the optimizer holds a parameter that has no name.
    """
    groups, state = [], dict[str, Any]()
    for group in optimizer.param_groups:
        strangers = [p for p in group["params"] if id(p) not in names]
        if strangers:
            raise RamifyError(
                f"the optimizer holds a parameter of shape {tuple(strangers[0].shape)} that is not "
                "the model's; checkpoints need an optimizer over the model's parameters alone."
            )
        settings = {key: value for key, value in group.items() if key != "params"}
        groups.append({"params": [names[id(p)] for p in group["params"]], "settings": settings})
        held = [p for p in group["params"] if optimizer.state.get(p)]
        state |= {names[id(p)]: dict(optimizer.state[p]) for p in held}
    return {"class": type(optimizer).__name__, "groups": groups, "state": state}


def regroup_parameters(
    optimizer: Optimizer, before: Mapping[int, str], model: nn.Module, stored: Mapping[str, Any]
) -> None:
    """Update the parameter groups of an optimizer after the blocks of its network changed.

    Args:
        optimizer: the optimizer of all old parameters of the network.
        before: `id(parameter)` -> name of the old parameters.
        model: the network.
        stored: from :func:`optimizer_state`.
    """
    groups, parameters = stored["groups"], dict(model.named_parameters())
    held = [p for group in optimizer.param_groups for p in group["params"]]
    known = all(name in parameters for group in groups for name in group["params"])
    if len(groups) != len(optimizer.param_groups) or not known:
        return  # for another optimizer, which is refused next
    if not all(id(parameter) in before for parameter in held):
        return
    for group, kept in zip(optimizer.param_groups, groups, strict=True):
        group["params"][:] = [parameters[name] for name in kept["params"]]
    for parameter in held:
        if all(parameter is not own for own in parameters.values()):
            optimizer.state.pop(parameter, None)


def check_optimizer(
    optimizer: Optimizer, names: Mapping[int, str], stored: Mapping[str, Any], source: str
) -> None:
    """Check that a stored state is for this optimizer: same class, same parameters in order.

    Args:
        optimizer: the optimizer to restore.
        names: `id(parameter)` -> name.
        stored: from :func:`optimizer_state`.
        source: the origin of the state, for the error.

    Raises:
        RamifyError: it is not.
    """
    own = [[names.get(id(p)) for p in group["params"]] for group in optimizer.param_groups]
    theirs = [list(group["params"]) for group in stored["groups"]]
    if stored["class"] != type(optimizer).__name__ or own != theirs:
        raise RamifyError(
            f"{source} holds the state of {stored['class']} over "
            f"{sum(map(len, theirs))} parameters, the optimizer is "
            f"{type(optimizer).__name__} over {sum(map(len, own))}; resume with the same optimizer."
        )


def load_optimizer(optimizer: Optimizer, stored: Mapping[str, Any]) -> None:
    """Restore an optimizer from a state that :func:`check_optimizer` accepted.

    Args:
        optimizer: an optimizer of the same class with the same parameters.
        stored: from :func:`optimizer_state`.
    """
    members = [name for group in stored["groups"] for name in group["params"]]
    numbers = {name: number for number, name in enumerate(members)}
    groups = [
        dict(group["settings"]) | {"params": [numbers[name] for name in group["params"]]}
        for group in stored["groups"]
    ]
    state = {numbers[name]: owned(values) for name, values in stored["state"].items()}
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def random_states() -> dict[str, Any]:
    """The random states of torch, numpy and Python."""
    version, words, gauss = random.getstate()
    kind, key, *rest = np.random.get_state()  # noqa: NPY002  (the one that users draw from)
    return {
        "torch": torch_states(),
        "python": [version, torch.tensor(words), gauss],
        "numpy": [kind, torch.from_numpy(np.asarray(key).astype(np.int64)), *rest],
    }


def set_random_states(stored: Mapping[str, Any]) -> None:
    """Restore the random states from :func:`random_states`."""
    version, words, gauss = stored["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    kind, key, *rest = stored["numpy"]
    np.random.set_state((kind, key.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    set_torch_states(stored["torch"])


def torch_states() -> list[Tensor]:
    """The random states of torch: that of the CPU, then that of each GPU in use."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return [torch.get_rng_state(), *cuda]


def set_torch_states(stored: list[Tensor]) -> None:
    """Restore the states of :func:`torch_states`; of GPUs only if their number is the same."""
    own, *cuda = (state.cpu() for state in stored)
    torch.set_rng_state(own)
    if cuda and len(cuda) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(cuda)


def owned(value: Any) -> Any:
    """A copy of the tensors, so that two restored optimizers do not share them."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: owned(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(owned(item) for item in value)
    return value
