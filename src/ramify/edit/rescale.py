"""Tensors multiplied by factors, with what an optimizer and followers keep of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ramify.edit.carry import Follower, inner_optimizer, law_of, named_alike
from ramify.tracing.recorder import tensors_of


@torch.no_grad()
def rescale(
    model: nn.Module,
    factors: Mapping[str, Tensor],
    optimizer: Optimizer,
    followers: Iterable[Follower] = (),
) -> None:
    """Multiply parameters and buffers by factors, in place.

    It is for factors that leave the network the same function, such as those of a kernel that a
    batch norm follows and of the norm's statistics: a gradient is then divided by what its
    parameter is multiplied by, and what the optimizer keeps follows.

    Args:
        model: the network.
        factors: positive, by the name of what they multiply, of its shape.
        optimizer: of the network.
        followers: weight averages and other models or state dictionaries with the model's names.
    """
    tensors, inner = tensors_of(model), inner_optimizer(optimizer)
    for name, factor in factors.items():
        own = tensors[name]
        own.mul_(factor)
        state = inner.state.get(own, {})
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == own.shape and value.dim():
                plain = factor.detach().cpu().double().numpy()
                follows = torch.from_numpy(law_of(inner, key)(1 / plain, plain))
                value.mul_(follows.to(value))
    for follower in followers:
        held: Mapping[str, Tensor]
        if isinstance(follower, nn.Module):
            held = tensors_of(named_alike(factors, follower))
        else:
            held = follower
        for name, factor in factors.items():
            held[name].mul_(factor.to(held[name]))
