"""Weights that pass through something on their way: followed, or in the graph with a reason."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.ao.quantization import FakeQuantize
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

import ramify
from tests.checks import ability, outputs

pytestmark = pytest.mark.filterwarnings("ignore")
X = torch.randn(3, 4)


class Rounded(torch.autograd.Function):
    """Quantisation as people write it by hand, with a scale for each channel."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        scale = weight.abs().amax(1, keepdim=True) / 7
        return (weight / scale).round().clamp(-8, 7) * scale

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


class Through(nn.Module):
    """A layer whose weight is computed from its parameter."""

    def __init__(
        self, through: Callable[[Tensor], Tensor], shape: tuple[int, ...] = (8, 4)
    ) -> None:
        super().__init__()
        self.a = nn.Module()
        self.a.weight = nn.Parameter(0.5 * torch.randn(shape))
        self.b, self.through = nn.Linear(8, 2), through

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(F.linear(x, self.through(self.a.weight))))


class Adapted(nn.Module):
    """A weight and a product of two thin ones."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.down = nn.Parameter(torch.randn(8, 4)), nn.Parameter(torch.randn(2, 4))
        self.up, self.b = nn.Parameter(torch.randn(8, 2)), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(F.linear(x, self.w + self.up @ self.down)))


def wrapped(wrap: Callable[[nn.Module], Any]) -> nn.Module:
    layer = nn.Linear(4, 8)
    wrap(layer)
    return nn.Sequential(layer, nn.Tanh(), nn.Linear(8, 2))


LOST: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "fake quantisation": (
        lambda: Through(FakeQuantize()),
        "aten::_fake_quantize.* in module 'through' has no dimension rule",
    ),
    "qr": (lambda: Through(lambda w: torch.linalg.qr(w)[0]), "aten::linalg_qr in the model's own"),
    "spectrum": (
        lambda: Through(lambda w: torch.fft.irfft(torch.fft.rfft(w, dim=0), n=8, dim=0)),
        "aten::_fft_r2c in the model's own forward",
    ),
    "looked up": (
        lambda: Through(lambda w: w.gather(0, torch.ones(1, 8, 4).long())[0], (3, 8, 4)),
        "the model's own forward holds a size that does not follow an edit",
    ),
    "sorted": (lambda: Through(lambda w: w.sort(0)[0]), "aten::sort in the model's own forward"),
    "summed up": (lambda: Through(lambda w: w.cumsum(0)), "aten::cumsum in the model's own"),
    "turned": (lambda: Through(lambda w: w.flip(0)), "aten::flip in the model's own forward"),
    "orthogonal": (
        lambda: wrapped(parametrizations.orthogonal),
        "aten::tril in module '0.parametrizations.weight.0'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(LOST))
def test_what_is_not_followed_stands_in_the_graph_with_a_reason(name: str) -> None:
    make, reason = LOST[name]
    model = make().eval()
    graph = ramify.trace(model, X)
    weight = next(n for n, p in model.named_parameters() if p.dim() > 1)
    group = next(g for g in graph.groups if weight in (slot.name for slot in g.slots))
    assert not group.can_prune
    assert re.search(reason, group.reason)
    assert group.reason.split()[0] in str(graph)


FOLLOWED: dict[str, Callable[[], nn.Module]] = {
    "weight norm": lambda: wrapped(parametrizations.weight_norm),
    "older weight norm": lambda: wrapped(nn.utils.weight_norm),
    "masked": lambda: wrapped(lambda layer: prune.l1_unstructured(layer, "weight", 0.3)),
    "masked rows": lambda: wrapped(lambda layer: prune.ln_structured(layer, "weight", 0.3, 2, 0)),
    "cast": lambda: Through(lambda w: w.to(torch.bfloat16).to(w.dtype)),
    "rounded by hand": lambda: Through(Rounded.apply),
    "one of several": lambda: Through(lambda w: w[2], (3, 8, 4)),
    "low rank": Adapted,
}


@pytest.mark.parametrize("name", sorted(FOLLOWED))
def test_what_is_followed_can_be_edited(name: str) -> None:
    torch.manual_seed(0)
    model = FOLLOWED[name]().eval()
    graph = ramify.trace(model, X)
    group = next(g for g in graph.groups if g.width == 8)
    assert group.can_split
    before = outputs(model, X)[0]
    graph = ramify.apply(graph, [ramify.Split(group.name, 1)])
    torch.testing.assert_close(outputs(model, X)[0], before)
    graph = ramify.apply(graph, [ramify.Prune(group.name, 0)])
    assert graph[group.name].width == 8


def test_a_norm_of_the_whole_weight_is_not_split() -> None:
    """One more channel changes the scale of all others."""
    graph = ramify.trace(wrapped(parametrizations.spectral_norm).eval(), X)
    assert ability(graph["0"]) == "8 inexact"
    assert "linalg_vector_norm in module '0.parametrizations.weight.0'" in graph["0"].reason


class Outside(nn.Module):
    """Leaves the tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(x.numpy() @ self.a.weight.detach().numpy().T)


def test_a_graph_without_groups_says_why() -> None:
    idle = nn.ModuleDict({"idle": nn.Linear(4, 2)})
    idle.forward = lambda x: 2 * x  # type: ignore[method-assign]
    for model, why in [
        (
            nn.Sequential(nn.ReLU()),
            "no buffers: modules in a plain list or dict belong",
        ),
        (idle, "no operation of the run used a parameter of the model"),
        (nn.LayerNorm(4), "makes channels: it used 'weight' (aten::native_layer_norm in the model"),
        (Outside(), "'a.weight', and what becomes of its channels is not followed"),
    ]:
        assert why in " ".join(str(ramify.trace(model, X)).split())


def squares(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch).square().mean(1)


METHODS = [ramify.Taylor(), ramify.L1(), ramify.SplittingDescent(), ramify.GaussNewton()]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_nothing_to_propose_is_said_and_not_passed_over(method: Any) -> None:
    graph = ramify.trace(Through(lambda w: torch.linalg.qr(w)[0]).eval(), X)
    with pytest.raises(ramify.RamifyError, match="no group of .* can be edited: 'a', .*linalg_qr"):
        method.propose(graph, squares, [X])
    with pytest.raises(ramify.RamifyError, match="no group of .* can be edited: 'a', .*linalg_qr"):
        ramify.cut(graph, squares, [X], budget={"params": 10})
