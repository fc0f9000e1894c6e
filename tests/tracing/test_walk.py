"""The walk over a model's modules and tensors gives what torch's own gives."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ramify
from ramify.tracing.walk import modules_of, tensors_of


class Net(nn.Module):
    """Holds a module twice, a tied weight, an empty list, no module, and a tensor of both kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.empty, self.none = nn.Linear(4, 4), nn.Sequential(), None
        self.register_module("nothing", None)
        self.inner = nn.ModuleList([nn.Sequential(self.first, nn.BatchNorm1d(4)), nn.Linear(4, 4)])
        self.inner[1].weight = self.first.weight
        self.register_buffer("also", self.first.bias)
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner[1](self.inner[0](x))


class Hidden(Net):
    """Shows none of its modules, and one of its buffers."""

    def named_modules(self, memo: Any = None, prefix: str = "", *_: Any, **__: Any) -> Any:
        yield prefix, self

    def named_buffers(self, *_: Any, **__: Any) -> Any:
        yield "count", self.count


@pytest.mark.parametrize("net", [Net(), nn.Sequential(Hidden(), nn.Linear(4, 2)), Hidden()])
def test_the_walk_gives_what_torch_gives(net: nn.Module) -> None:
    assert modules_of(net) == dict(net.named_modules())
    assert list(modules_of(net)) == list(dict(net.named_modules()))
    named = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    found = tensors_of(net)
    assert list(found) == list(named)
    assert all(found[name] is tensor for name, tensor in named.items())


@pytest.mark.parametrize("fails", [False, True])
def test_garbage_is_looked_for_as_often_as_before_a_trace(fails: bool) -> None:
    before, seen = gc.get_threshold(), []

    class Looks(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(gc.get_threshold()[0])
            return super().forward(x)

    x = torch.randn(2, 3 if fails else 4)
    if fails:
        with pytest.raises(ramify.RamifyError):
            ramify.trace(Looks(4, 2), x)
    else:
        ramify.trace(nn.Sequential(Looks(4, 2), nn.Linear(2, 2)), x)
    assert gc.get_threshold() == before
    assert max(seen) > before[0]
