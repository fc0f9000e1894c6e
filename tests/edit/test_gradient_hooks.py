"""Gradient hooks across an edit: refused if they use a tensor that the edit does not change."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ramify
from ramify import Prune, RamifyError, Split
from tests.edit.test_carry import net


@pytest.mark.parametrize("at_end", [False, True])
def test_a_gradient_hook_with_a_mask_is_refused(at_end: bool) -> None:
    """After an edit that keeps the width it would mask the gradients of other channels."""
    model, x = net()
    weight, seen = next(model.parameters()), list[Tensor]()
    mask = (torch.rand_like(weight) > 0.5).to(weight.dtype)
    name = next(name for name, _ in model.named_parameters())
    graph = ramify.trace(model, x)
    group = graph[name].name
    if at_end:
        masking = functools.partial(lambda mask, p: p.grad.mul_(mask), mask)
        handle = weight.register_post_accumulate_grad_hook(masking)
    else:
        handle = weight.register_hook(lambda grad: grad * mask)
    weight.register_hook(lambda grad: seen.append(grad + 0 * weight))  # follows by itself
    before = model(x)
    with pytest.raises(RamifyError, match=f"a gradient hook of '{name}' uses a tensor of shape"):
        ramify.apply(graph, [Split(group, 0), Prune(group, 1)])
    assert torch.equal(model(x), before)
    handle.remove()
    ramify.apply(graph, [Split(group, 0), Prune(group, 1)])
    model(x).sum().backward()
    assert seen[0].shape == weight.shape


class Masking:
    """A hook that is an object, and holds its mask in a table."""

    def __init__(self, mask: Tensor) -> None:
        self.held = {"mask": mask}

    def __call__(self, module: nn.Module, into: Any, out: Any) -> tuple[Tensor, ...]:
        return (into[0] * self.held["mask"],)


def masking(module: nn.Module, into: Any, out: Any) -> tuple[Tensor, ...]:
    return (into[0] * module.mask,)


def with_attribute(module: nn.Module, mask: Tensor) -> nn.Module:
    vars(module)["mask"] = mask
    return module


def with_buffer(module: nn.Module, mask: Tensor) -> nn.Module:
    module.register_buffer("mask", mask)
    return module


MASK = torch.ones(6)


HOOKS: dict[str, Callable[[nn.Module, Tensor], Any]] = {
    "closure": lambda m, mask: m.register_full_backward_hook(lambda _, i, o: (i[0] * mask,)),
    "default": lambda m, mask: m.register_full_backward_hook(
        lambda _, i, o, mask=mask: (i[0] * mask,)
    ),
    "global": lambda m, mask: m.register_full_backward_hook(lambda _, i, o: (i[0] * MASK,)),
    "object": lambda m, mask: m.register_full_backward_hook(Masking(mask)),
    "attribute": lambda m, mask: with_attribute(m, mask).register_full_backward_hook(masking),
    "buffer": lambda m, mask: with_buffer(m, mask).register_full_backward_hook(masking),
    "before": lambda m, mask: m.register_full_backward_pre_hook(lambda _, o: (o[0] * mask,)),
}


@pytest.mark.parametrize("how", HOOKS)
def test_a_backward_hook_with_a_mask_of_the_channels_is_refused(how: str) -> None:
    """Otherwise the next backward pass fails, or masks other channels."""
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    x = torch.randn(3, 4, requires_grad=True)
    handle = HOOKS[how](model[1], torch.ones(1, 6))
    model(x).sum().backward()
    graph = ramify.trace(model, x)
    for edits in ([Prune("0", 1)], [Prune("0", 1), Split("0", 2)]):
        with pytest.raises(RamifyError, match="a backward hook of module '1' uses a tensor of sha"):
            ramify.apply(graph, edits)
    graph = ramify.apply(graph, [Prune("2", 1)])  # of other channels
    model(x).sum().backward()
    handle.remove()
    vars(model[1]).pop("mask", None)
    ramify.apply(graph, [Prune("0", 1)])
    model(x).sum().backward()


def test_a_backward_hook_that_stores_gradients_follows_an_edit() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    stored: dict[str, Tensor] = {}
    model[1].register_full_backward_hook(lambda _, i, o: stored.__setitem__("last", o[0]))
    model[2].weight.register_hook(lambda grad: stored.__setitem__("weight", grad))
    x = torch.randn(3, 4)
    model(x).sum().backward()
    assert (stored["last"].shape, stored["weight"].shape) == ((3, 6), (2, 6))
    ramify.apply(ramify.trace(model, x), [Prune("0", 1)])
    model(x).sum().backward()
    assert (stored["last"].shape, stored["weight"].shape) == ((3, 5), (2, 5))
