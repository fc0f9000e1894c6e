"""A network in training, with its optimizers and weight average."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from benchmarks.faults.state import Snapshot, snapshot
from benchmarks.fuzz_edits.program import Net, Program


@dataclass
class Work:
    """A network in training.

    Attributes:
        program: its program.
        net: the network.
        optimizers: the optimizers that train it.
        follower: an average of its weights.
        dtype: the type of its parameters.
        inputs: the inputs for tracing.
        first: the network as its class builds it.
        gradients: the gradients of a copy, by name.
    """

    program: Program
    net: Net
    optimizers: list[Optimizer]
    follower: Net
    dtype: torch.dtype
    inputs: tuple[Tensor, ...]
    first: Net
    gradients: dict[str, Tensor] = field(default_factory=dict)

    def kept(self) -> Work:
        """A copy including the gradients, which `deepcopy` omits."""
        beside = copy.deepcopy((self.net, self.optimizers, self.follower))
        found = Work(self.program, *beside, self.dtype, self.inputs, self.first)
        for name, parameter in self.net.named_parameters():
            if parameter.grad is not None:
                found.gradients[name] = parameter.grad.clone()
        return found

    def sample(self, samples: int, more: int = 0) -> tuple[Tensor, ...]:
        """Inputs of the network's type."""
        found = self.program.sample(samples, more)
        return tuple(x.to(self.dtype) if x.is_floating_point() else x for x in found)

    def state(self) -> Snapshot:
        """Everything that must not change if no edit is made."""
        parts = list(self.net.modules())
        found: Snapshot = {}
        for number, optimizer in enumerate(self.optimizers):
            own = snapshot(self.net, parts, optimizer, self.follower.state_dict())
            found |= {f"{number} {name}": value for name, value in own.items()}
        return found


def step(net: nn.Module, optimizers: Iterable[Optimizer], inputs: tuple[Tensor, ...]) -> None:
    """One step of training, after which gradients are kept."""
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss = sum((t.square().mean() for t in outputs(net, inputs)), torch.zeros(()))
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()


def outputs(net: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """The outputs of a network, as a list."""
    found = net(*(x.clone() for x in inputs))
    if isinstance(found, dict):
        return list(found.values())
    return list(found) if isinstance(found, tuple) else [found]
