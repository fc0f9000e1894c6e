"""Multiplies tensors by factors, and updates the optimizer state and followers to match."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ramify.edit.carry import Follower, named_alike
from ramify.edit.optimizers import States, has_entries
from ramify.edit.state_laws import law_of
from ramify.tracing.recorder import tensors_of


@torch.no_grad()
def rescale(
    model: nn.Module,
    factors: Mapping[str, Tensor],
    optimizer: Optimizer,
    followers: Iterable[Follower] = (),
) -> None:
    """Multiply parameters and buffers by factors, in place.

    The factors must leave the function of the network unchanged, as when a kernel before a batch
    norm and the norm's statistics are rescaled together. Each gradient is then divided by the
    factor of its parameter, and the optimizer state is updated to match.

    Args:
        model: the network.
        factors: tensor name -> positive factors, of the tensor's shape.
        optimizer: the optimizer of the network.
        followers: weight averages and other models or state dictionaries with the model's names;
            tensors in the model's own memory are rescaled once.

    Raises:
        RamifyError: the kind of a state entry is unknown. Nothing has changed then.
    """
    tensors, states = tensors_of(model), States(optimizer)
    # First find every factor, since an unknown entry is refused; then multiply.
    found: list[tuple[Tensor, Tensor]] = []
    for name, factor in factors.items():
        own, plain = tensors[name], factor.detach().cpu().double().numpy()
        found.append((own, factor))
        for number, one in enumerate(states.owners):
            for key, value in one.state.get(own, {}).items():
                if has_entries(value, own) and value.shape == own.shape:
                    rule = states.rule(number, own, key, name, by_entry_is_enough=False)
                    found.append((value, torch.from_numpy(law_of(rule)(1 / plain, plain))))
    for follower in followers:
        held: Mapping[str, Tensor]
        if isinstance(follower, nn.Module):
            held = tensors_of(named_alike(factors, follower))
        else:
            held = follower
        found += [(held[name], factor) for name, factor in factors.items()]
    for tensor, factor in {
        tensor.data_ptr(): (tensor, factor) for tensor, factor in found
    }.values():
        tensor.mul_(factor.to(tensor))
