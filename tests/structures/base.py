"""The table of structures, and how one is made ready for exact comparisons."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

import ramify
from ramify import ChannelGraph
from ramify.tracing import tracer

N = TypeVar("N", bound=type[nn.Module])


@dataclass(frozen=True)
class Structure:
    """A network to build, what to call it with, and the groups it has."""

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], Any]
    groups: dict[str, str]

    def make(self, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Any]:
        """The network in eval mode, with no parameter or statistic at a special value."""
        torch.manual_seed(0)
        model = self.build().to(dtype).eval()
        scatter(model)
        floats = lambda t: t.to(dtype) if t.is_floating_point() else t  # noqa: E731
        return model, tree_map(lambda x: floats(x) if isinstance(x, Tensor) else x, self.inputs())

    def graph(self) -> ChannelGraph:
        """The graph of a network made anew, to edit; the trial growth is made once for all.

        As after an edit, the trace then takes over what the first one found.
        """
        model, inputs = self.make()
        settings = tracer.TraceSettings((), edit_outputs=False, unused=())
        return tracer._trace(model, inputs, settings, traced(self.name).trial_results)


@functools.cache
def traced(name: str) -> ChannelGraph:
    """The graph of a structure as `ramify.trace` gives it, shared by tests: only to be read."""
    return ramify.trace(*STRUCTURES[name].make())


def scatter(model: nn.Module) -> None:
    """Move norm weights, biases and running statistics away from zeros and ones."""
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if not tensor.is_floating_point() or "mask" in name or name.endswith(("_u", "_v")):
                continue
            noise = torch.rand_like(tensor)
            if "running_var" in name:
                tensor.copy_(0.5 + noise)
            elif tensor.dim() <= 1 or "running" in name:
                tensor.add_(0.6 * noise - 0.2)


STRUCTURES: dict[str, Structure] = {}


def structure(shape: Any, groups: dict[str, str], name: str = "") -> Callable[[N], N]:
    """Add a network class to the table; `shape`: of the input, or what makes the inputs."""
    inputs = shape if callable(shape) else lambda: torch.randn(*shape)

    def register(build: N) -> N:
        key = name or build.__name__
        if key in STRUCTURES:
            raise ValueError(f"two structures are called {key}")
        STRUCTURES[key] = Structure(key, build, inputs, groups)
        return build

    return register
