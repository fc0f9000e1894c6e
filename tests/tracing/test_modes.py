"""Modes, buffers and switches stay as they were, whatever kind of module runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ramify
from ramify.tracing import tracer
from tests.checks import ability, random_states

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.n = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.d, self.b = nn.Dropout(0.5), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.d(torch.relu(self.n(self.a(x)))))


class Around(nn.Module):
    """A script inside a larger model."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.stem, self.inside = nn.Conv2d(3, 3, 1), inside

    def forward(self, x: Tensor) -> Tensor:
        return self.inside(self.stem(x))


class Counts(nn.Module):
    """A script with attributes that its forward changes."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.calls, self.seen = Net(), 0, torch.jit.Attribute([1], list[int])

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen.append(self.calls)
        return self.net(x)


class Holds(Net):
    """Its norm stays in eval mode for good."""

    def train(self, mode: bool = True) -> Holds:
        super().train(mode)
        self.n.eval()
        return self


class Fits(Net):
    """`train` is something else here."""

    fitted = 0

    def train(self, data: Any = None, epochs: int = 3) -> None:  # type: ignore[override]
        self.fitted += 1
        raise AssertionError


class Merges(Net):
    """As low-rank adapters do: in eval mode the weight holds the sum, in train mode it does not."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Parameter(torch.randn(2, 8)), nn.Parameter(torch.randn(4, 2))
        self.merged = False

    def train(self, mode: bool = True) -> Merges:
        super().train(mode)
        if self.merged == mode:
            change = (self.up @ self.down)[..., None, None]
            self.b.weight.data += -change if mode else change
            self.merged = not mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.n(self.a(x)))
        if self.merged:
            return self.b(x)
        inner = torch.einsum("bchw,rc->brhw", x, self.down)
        return self.b(x) + torch.einsum("brhw,or->bohw", inner, self.up)


def _exported() -> nn.Module:
    return torch.export.export(Net().eval(), (torch.randn(2, 3, 8, 8),)).module()


KINDS: dict[str, Callable[[], nn.Module]] = {
    "plain": Net,
    "scripted": lambda: torch.jit.script(Net()),
    "scripted sequence": lambda: torch.jit.script(nn.Sequential(*Net().children())),
    "traced": lambda: torch.jit.trace(Net().eval(), torch.randn(2, 3, 8, 8)),
    "script inside": lambda: Around(torch.jit.script(Net())),
    "script counts": lambda: torch.jit.script(Counts()),
    "frozen script": lambda: torch.jit.freeze(torch.jit.script(Net().eval())),
    "frozen script inside": lambda: Around(torch.jit.freeze(torch.jit.script(Net().eval()))),
    "symbolic": lambda: torch.fx.symbolic_trace(Net()),
    "exported": _exported,
    "exported inside": lambda: Around(_exported()),
    "holds its mode": Holds,
    "train fits": Fits,
    "merges": Merges,
}


def _state(model: nn.Module) -> Any:
    """Modes, values and attributes as plain values."""
    modes = {n: getattr(m, "training", None) for n, m in model.named_modules()}
    values = {n: t.tolist() for n, t in model.state_dict().items()}
    attributes = [getattr(model, name, None) for name in ("calls", "seen", "merged", "fitted")]
    return modes, values, attributes


def _set(model: nn.Module, modes: str) -> None:
    """Bring the modules into some modes, past what `train` makes of it."""
    for number, module in enumerate(model.modules()):
        if hasattr(module, "training"):
            module.training = {"train": True, "eval": False, "mixed": number % 2 == 0}[modes]


@pytest.mark.parametrize("modes", ["eval", "train", "mixed"])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_modes_and_buffers_stay(kind: str, modes: str) -> None:
    torch.manual_seed(0)
    model, x = KINDS[kind](), torch.randn(2, 3, 8, 8)
    _set(model, modes)
    before, draws = _state(model), random_states()
    graph = ramify.trace(model, x)
    assert _state(model) == before
    assert random_states() == draws
    names = [group.name for group in graph.groups if group.can_split]
    if "frozen" not in kind and "exported" not in kind:
        assert names  # a script or an exported module that is frozen holds its sizes as numbers
    if names:
        ramify.apply(graph, [ramify.Split(names[0], 0)])
        assert _state(model)[0] == before[0]
        assert _state(model)[2] == before[2]


@pytest.mark.parametrize("kind", ["scripted", "script inside", "traced", "symbolic", "merges"])
def test_outputs_stay_after_a_split(kind: str) -> None:
    torch.manual_seed(0)
    model, x = KINDS[kind]().eval(), torch.randn(2, 3, 8, 8)
    before = model(x)
    graph = ramify.trace(model, x)
    graph = ramify.apply(graph, [ramify.Split(g.name, 0) for g in graph.groups if g.can_split])
    assert not model.training
    torch.testing.assert_close(model(x), before)


def test_models_made_in_inference_mode_are_refused_outside_of_it() -> None:
    """Their tensors can never be written or trained again."""
    with torch.inference_mode():
        model, x = Net(), torch.randn(2, 3, 8, 8)
        graph = ramify.trace(model, x)
        assert ability(graph["a"]) == "8 split"
    before = _state(model)
    with pytest.raises(ramify.RamifyError, match="'a.weight' was made under torch.inference_mode"):
        ramify.trace(model, x)
    with pytest.raises(ramify.RamifyError, match="'a.weight' was made under torch.inference_mode"):
        ramify.apply(graph, [ramify.Split("a", 0)])
    assert _state(model) == before


def test_a_forward_that_trains_itself_leaves_gradients_and_flags() -> None:
    class Energy(Net):
        def forward(self, x: Tensor) -> Tensor:
            with torch.enable_grad():
                super().forward(x).square().sum().backward()
            self.a.weight.requires_grad_(False)
            return super().forward(x)

    model, x = Energy().eval(), torch.randn(2, 3, 8, 8)
    ramify.trace(model, x)
    assert model.a.weight.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


class Ghost(nn.BatchNorm2d):
    """Normalises halves of a batch in train mode, each with running statistics of its own."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.register_buffer("running_mean", torch.zeros(2 * channels))
        self.register_buffer("running_var", torch.ones(2 * channels))

    def forward(self, x: Tensor) -> Tensor:
        kept = self.running_mean, self.running_var
        if self.training:
            norms = self.weight.repeat(2), self.bias.repeat(2)
            halves = x.reshape(-1, 2 * x.shape[1], *x.shape[2:])
            return nn.functional.batch_norm(halves, *kept, *norms, True).view_as(x)
        first = (each[: self.num_features] for each in kept)
        return nn.functional.batch_norm(x, *first, self.weight, self.bias)


class Centred(nn.BatchNorm2d):
    """Takes off the mean over the channels, in train mode alone."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(1, keepdim=True) if self.training else x)


@pytest.mark.parametrize(
    ("norm", "said"), [(nn.BatchNorm2d, "8 split"), (Ghost, "8 split"), (Centred, "8 inexact")]
)
def test_a_norm_with_a_forward_of_its_own_is_followed_in_train_mode(
    norm: type[nn.Module], said: str
) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), norm(8), nn.ReLU(), nn.Conv2d(8, 2, 1)).double()
    x = torch.randn(4, 3, 6, 6).double()
    graph = ramify.trace(net, x)
    assert ability(graph["0"]) == said
    if graph["0"].can_split:
        before = net.train()(x)
        ramify.apply(graph, [ramify.Split("0", 1, weights=(0.3, 0.7))])
        torch.testing.assert_close(net(x), before)


class TwoHeads(nn.Module):
    """In train mode a second head; `asks` says how the forward comes to it."""

    def __init__(self, asks: str) -> None:
        super().__init__()
        self.asks, self.stem = asks, nn.Linear(4, 8)
        self.head, self.other = nn.Linear(8, 2), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Any:
        x = torch.relu(self.stem(x))
        if not self.training:
            return self.head(x)
        largest = {"list": lambda: max(x.flatten().tolist()), "item": lambda: x.max().item()}
        if largest.get(self.asks, lambda: 1.0)() == 0:
            return self.head(x)
        return self.head(x), self.other(x)


@pytest.mark.parametrize("asks", ["nothing", "list", "item"])
def test_a_run_in_train_mode_computes_products_only_for_a_forward_that_reads_values(
    asks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    made: list[bool] = []
    record = tracer.record

    def counted(*args: Any, **kwargs: Any) -> Any:
        tape = record(*args, **kwargs)
        made.extend([kwargs["execute"] is None] * kwargs["training"])
        return tape

    monkeypatch.setattr(tracer, "record", counted)
    graph = ramify.trace(TwoHeads(asks).eval(), torch.randn(3, 4))
    assert graph["stem"].consumers == ("head.weight", "other.weight")
    assert graph["stem"].can_prune
    assert made == [asks != "nothing"]


def test_two_threads_trace_and_edit_one_after_the_other() -> None:
    model, x = Net().eval(), torch.randn(2, 3, 8, 8)
    before, switch = model(x), torch.backends.mha.get_fastpath_enabled()
    found: list[Any] = []

    def work() -> None:
        try:
            graph = ramify.trace(model, x)
            found.append(ability(graph["a"]).split()[1])
            ramify.apply(graph, [ramify.Split("a", 0)])
        except ramify.RamifyError as error:  # the other thread's edit came in between
            found.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found.count("split") == 3
    assert all(f == "split" or "use the graph that the last apply returned" in f for f in found)
    torch.testing.assert_close(model(x), before)
    assert torch.backends.mha.get_fastpath_enabled() == switch
