"""Changes of reads against networks run with hooks, one displaced kernel at a time."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, max_pool2d, scaled_dot_product_attention

import ramify
from ramify.probe.displaced.along_tape import ReadChange, read_changes, replayed
from ramify.probe.displaced.linear import linear_rule
from ramify.probe.displaced.read_changes import ReadChanges
from ramify.probe.displaced.tensor import DisplacedTensor
from ramify.probe.recorded_pass import read_gradients
from ramify.probe.targets import independent_sets, targets
from ramify.tracing.indexing import kernels
from ramify.tracing.recorder import Op, tensors_of
from tests.checks import call
from tests.nets import ATTENTION, SMOOTH, per_sample, prepared
from tests.structures import STRUCTURES

Batch = tuple[Tensor, Tensor]
Offsets = dict[str, Tensor]


class Block(nn.Module):
    """ReLU, in place and not, pooling, a depthwise layer and a residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.n0 = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.a, self.n1 = nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6)
        self.d, self.n2 = nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False), nn.BatchNorm2d(6)
        self.b, self.n3 = nn.Conv2d(6, 4, 1, bias=False), nn.BatchNorm2d(4)
        self.act, self.fc = nn.ReLU(inplace=True), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = max_pool2d(self.act(self.n0(self.stem(x))), 2)
        x = x + self.n3(self.b(self.act(self.n2(self.d(self.act(self.n1(self.a(x))))))))
        return self.fc(torch.relu(x).mean((2, 3)))


class OneScore(nn.Module):
    """Queries that are keys, in fused attention: values alone can be split."""

    def __init__(self) -> None:
        super().__init__()
        self.qk, self.v, self.fc = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, v = self.qk(x)[:, None], torch.tanh(self.v(x))[:, None]
        return self.fc(scaled_dot_product_attention(q, q, v)[:, 0].mean(1))


def one_score() -> tuple[nn.Module, Batch]:
    torch.manual_seed(0)
    return OneScore().double(), (torch.randn(6, 5, 4).double(), torch.randint(0, 2, (6,)))


def block() -> tuple[nn.Module, Batch]:
    torch.manual_seed(0)
    net, x, y = Block().double(), torch.randn(6, 3, 8, 8).double(), torch.randint(0, 2, (6,))
    net.d.bias = nn.Parameter(torch.linspace(0.1, 0.6, 6).double())
    for _ in range(3):
        net(x)
    return net.eval(), (x, y)


NETS: dict[str, Callable[[], tuple[nn.Module, Batch]]] = {
    name: (lambda name=name: prepared(name, 6))  # type: ignore[misc]
    for name in SMOOTH
} | {"relu-pool-residual": block, "fused-attention": one_score}


def displaced(graph: ramify.ChannelGraph, scale: float) -> list[dict[str, Tensor]]:
    """For each pass, displacements of all that it may move; of other rows, zeros."""
    found, moves = targets(graph), []
    parameters = dict(graph.model.named_parameters())
    for numbers in independent_sets(graph, found):
        moves.append({})
        for part in [part for number in numbers for part in found[number].kernels]:
            move = moves[-1].setdefault(part.name, torch.zeros_like(parameters[part.name]))
            rows = move.movedim(part.dim, 0)
            rows[part.positions.reshape(-1)] = (
                scale * torch.randn_like(rows)[part.positions.reshape(-1)]
            )
    for move in [move for each in moves for move in each.values()]:
        move.requires_grad_()
    return moves


def followed(
    graph: ramify.ChannelGraph, batch: Any, loss: Any, moves: list[dict[str, Tensor]]
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """p_s of splits and of removals, as the package computes them."""
    chosen = targets(graph)
    changes = ReadChanges(graph, chosen)
    recorded = changes.record(lambda: loss(graph.model, batch), batch)
    labelled = changes.label(recorded.tape, len(recorded.losses))
    recorded.keep(labelled.values)
    gradients = recorded.gradients(labelled.reads, labelled.made)
    with torch.enable_grad():
        parts = list(changes.split(recorded, labelled, gradients, moves))
    numbers = range(len(chosen))
    assert sum(map(len, parts)) == len({number for part in parts for number in part})
    split = {number: p for part in parts for number, p in part.items()}
    removed = changes.removed(recorded, labelled, gradients)
    return [split.get(n) for n in numbers], [removed.get(n) for n in numbers]


class Hooked:
    """What every full convolution and linear layer reads: taken, or replaced by what it read."""

    def __init__(self, net: nn.Module, batch: Batch) -> None:
        self.net, self.batch = net, batch
        self.layers = [
            module
            for module in net.modules()
            if isinstance(module, nn.Linear)
            or (isinstance(module, nn.Conv2d) and module.groups == 1)
        ]
        self.base = self.reads({})
        self.gradients = self._gradients()

    def _run(self, hook: Callable[[int, Tensor], Tensor], changed: dict[str, Tensor]) -> Tensor:
        handles = [
            layer.register_forward_pre_hook(lambda _, args, n=n: (hook(n, args[0]),))
            for n, layer in enumerate(self.layers)
        ]
        try:
            logits = torch.func.functional_call(self.net, changed, (self.batch[0],))
        finally:
            for handle in handles:
                handle.remove()
        return nn.functional.cross_entropy(logits, self.batch[1], reduction="none")

    def reads(self, changed: dict[str, Tensor]) -> dict[int, Tensor]:
        """What each layer would read, while all of them go on with what they read before."""
        found: dict[int, Tensor] = {}

        def hook(n: int, x: Tensor) -> Tensor:
            found[n] = x.detach().clone()
            return self.base[n] if changed else x

        with torch.no_grad():
            self._run(hook, changed)
        return found

    def _gradients(self) -> dict[int, Tensor]:
        leaves: dict[int, Tensor] = {}

        def hook(n: int, x: Tensor) -> Tensor:
            leaves[n] = x.clone() if x.requires_grad else x.clone().requires_grad_()
            return leaves[n]

        total = self._run(hook, {}).sum()
        names = list(leaves)
        found = torch.autograd.grad(total, [leaves[n] for n in names], allow_unused=True)
        return {n: g for n, g in zip(names, found, strict=True) if g is not None}


@pytest.mark.parametrize("name", sorted(NETS.keys() - {*ATTENTION, "crossed", "fused-attention"}))
def test_split_and_removal_equal_the_hooked_network(name: str) -> None:
    net, batch = NETS[name]()
    graph = ramify.trace(net, batch[0][:2])
    moves = displaced(graph, 0.3)
    split, removed = followed(graph, batch, per_sample, moves)
    (moved,) = moves
    hooked = Hooked(net, batch)
    parameters = {name: p.detach() for name, p in net.named_parameters()}
    for number, target in enumerate(targets(graph)):
        names = {part.name for part in target.kernels}
        readers = {name.rpartition(".")[0] for name in target.group.consumers}
        layers = [n for n, m in enumerate(hooked.layers) if m in map(net.get_submodule, readers)]
        sides = [
            hooked.reads({n: parameters[n] + sign * moved[n].detach() for n in names})
            for sign in (1, -1)
        ]
        expected = expected_gone = torch.zeros(())
        for n in layers:
            change = (sides[0][n] + sides[1][n]) / 2 - hooked.base[n]
            over = tuple(range(2, change.dim()))
            sums = change * hooked.gradients[n], -hooked.base[n] * hooked.gradients[n]
            one, other = (s.sum(over) if over else s for s in sums)
            expected, expected_gone = expected + one, expected_gone + other
        found, gone = split[number], removed[number]
        assert found is not None
        assert gone is not None
        assert expected.abs().max() > 1e-6
        assert torch.allclose(found, expected, rtol=1e-12, atol=1e-14)
        assert torch.allclose(gone, expected_gone, rtol=1e-12, atol=1e-14)


def slope(
    net: nn.Module, batch: Batch, change: Callable[[ramify.ChannelGraph, float], Any]
) -> Tensor:
    """How fast each sample's loss moves as a copy of the network is changed more and more."""
    found = []
    for t in (1e-5, -1e-5):
        other = copy.deepcopy(net)
        change(ramify.trace(other, batch[0][:2]), t)
        with torch.no_grad():
            found.append(per_sample(other, batch))
    return (found[0] - found[1]) / 2e-5


def grow(graph: ramify.ChannelGraph, t: float, channel: tuple[str, int], v: Offsets) -> None:
    """Beside a channel of weight 1 − t, two copies of weight t / 2, displaced by ± v."""
    offsets = {name: torch.stack([0 * part, part, -part]) for name, part in v.items()}
    ramify.apply(graph, [ramify.Split(*channel, (1 - t, t / 2, t / 2), offsets)])


def fade(graph: ramify.ChannelGraph, t: float, channel: tuple[str, int]) -> None:
    """Multiply a channel by 1 − t wherever it is read; of a product, in one factor."""
    group = graph[channel[0]]
    for slot in group.slots:
        rows = torch.from_numpy(graph.positions(group, slot)[channel[1]].reshape(-1))
        scaled = graph.indexing.scaled_rows.get((slot.name, slot.dim), ())
        own = [part for each in scaled if each.atom is group.atom for part, _ in each.parts]
        if own:
            rows = rows[torch.from_numpy(np.logical_or.reduce(own))[rows]]
        if own or slot.role == "consumer":
            tensors_of(graph.model)[slot.name].data.movedim(slot.dim, 0)[rows] *= 1 - t


@pytest.mark.parametrize("name", NETS)
def test_split_and_removal_are_slopes_of_the_loss_of_the_edited_network(name: str) -> None:
    """p_s is what the loss of the really edited network does as the edit sets in.

    What is read changes by t · Δa where copies of weight t stand beside the channel, however far
    they are displaced.
    """
    net, batch = NETS[name]()
    graph = ramify.trace(net, batch[0][:2])
    moves, found = displaced(graph, 0.5), targets(graph)
    split, removed = followed(graph, batch, per_sample, moves)
    assert {target.group.name for target in found} == {g.name for g in graph.groups if g.can_split}
    for own, numbers in zip(moves, independent_sets(graph, found), strict=True):
        for number in numbers:
            group, parts = found[number].group, found[number].kernels
            v = {p.name: kernels(own[p.name].detach(), p.dim, p.positions) for p in parts}
            for channel in (0, group.width - 1):
                place = (group.name, channel)
                step = {name: part[channel] for name, part in v.items()}
                for change, mine in (
                    (partial(grow, channel=place, v=step), split[number]),
                    (partial(fade, channel=place), removed[number]),
                ):
                    theirs = slope(net, batch, change)
                    assert mine is not None
                    assert theirs.abs().max() > 1e-6
                    assert torch.allclose(mine[:, channel], theirs, rtol=1e-6, atol=1e-9)


def squares(model: nn.Module, inputs: Any) -> Tensor:
    """A loss a sample of whatever the model gives."""
    found = call(model, inputs)
    size = found[0].shape[0]
    fit = [t for t in found if t.is_floating_point() and t.shape[:1] == (size,)]
    return sum((t.reshape(size, -1).square().sum(1) for t in fit), torch.zeros(size))


def slopes_of(
    changes: dict[int, ReadChange], gradients: dict[int, Tensor], moves: dict[str, Tensor]
) -> tuple[float, list[Tensor]]:
    """A number that every even part enters, and its slope in every displacement."""
    total = torch.zeros(())
    for n, change in changes.items():
        even, right = change.against(gradients[n])
        total = total + (even.tensor() * right).sum() + even.tensor().square().sum()
    used = list(moves.values()) if total.requires_grad else []
    found = torch.autograd.grad(total, used, allow_unused=True) if used else [None] * len(moves)
    zeros = [torch.zeros_like(v) for v in moves.values()]
    return float(total.detach()), [z if g is None else g for g, z in zip(found, zeros, strict=True)]


def read(
    parts: Iterable[dict[int, ReadChange]], gradients: dict[int, Tensor]
) -> dict[int, ReadChange]:
    """The even parts that a gradient meets; no two parts meet in one read."""
    found = [item for part in parts for item in part.items()]
    assert len(dict(found)) == len(found)
    return {n: even for n, even in found if n in gradients}


REFUSED = {
    "Mixer": "carries the other",
    "ListedExperts": "mixes the samples",  # rows are those of the tokens that an expert got
    "VisitedExperts": "mixes the samples",
}
PROBED = [
    key
    for key, each in STRUCTURES.items()
    if any("split" in kind for kind in each.groups.values()) and key != "DictInputs"
]


@pytest.mark.parametrize("key", PROBED)
def test_every_structure_is_followed_as_if_run_twice(key: str) -> None:
    """Both paths agree: parts carried by rules, and the whole tape run for each copy."""
    graph = STRUCTURES[key].graph()
    net, inputs = graph.model, graph.inputs
    found = targets(graph)
    if not found:
        pytest.skip("the probe follows none of its groups")
    moves = displaced(graph, 0.3)
    changes = ReadChanges(graph, found)
    recorded = changes.record(lambda: squares(net, inputs), inputs)
    labelled = changes.label(recorded.tape, len(recorded.losses))
    recorded.keep(labelled.values)
    gradients = recorded.gradients(labelled.reads, labelled.made)
    replays = read_gradients(recorded.tape, recorded.constants, labelled.reads)
    for position in replays.keys() - gradients.keys():
        assert not recorded.value(labelled.reads[position], position).any()
    for position, gradient in gradients.items():
        assert torch.allclose(gradient, replays[position] * len(recorded.losses), atol=1e-12)
    for together, own in zip(labelled.sets, moves, strict=True):
        parts = read_changes(recorded, together, labelled.last, own)
        one, mine = slopes_of(read(parts, gradients), gradients, own)
        again = read([replayed(recorded, together, own)], gradients)
        other, theirs = slopes_of(again, gradients, own)
        assert one == pytest.approx(other, rel=1e-10, abs=1e-12)
        for a, b in zip(mine, theirs, strict=True):
            assert torch.allclose(a, b, rtol=1e-9, atol=1e-10)
    if key in REFUSED:
        with pytest.raises(ramify.RamifyError, match=REFUSED[key]):
            changes.removed(recorded, labelled, gradients)
    else:
        assert all(
            p.shape[1] == found[number].group.width
            for number, p in changes.removed(recorded, labelled, gradients).items()
        )


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight.T

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        x, weight = ctx.saved_tensors
        return gradients[0] @ weight, gradients[0].T @ x


class OwnGradient(nn.Module):
    """A layer whose gradient the user wrote: its operations have no nodes of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(5, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = Doubled.apply(torch.tanh(self.a(x)), self.b.weight)
        return self.c(torch.tanh(x))


def test_a_layer_with_its_own_backward_gets_the_same_gradients() -> None:
    net, x, y = OwnGradient().double(), torch.randn(5, 4).double(), torch.randint(0, 2, (5,))
    graph = ramify.trace(net, x)
    split, removed = followed(graph, (x, y), per_sample, displaced(graph, 0.3))
    kept = nn.Sequential(net.a, nn.Tanh(), nn.Linear(5, 6, bias=False), nn.Tanh(), net.c).double()
    kept[2].weight = net.b.weight
    plain = ramify.trace(kept, x)
    torch.manual_seed(0)
    moves = displaced(plain, 0.3)
    again, gone = followed(plain, (x, y), per_sample, moves)
    torch.manual_seed(0)
    split, removed = followed(graph, (x, y), per_sample, displaced(graph, 0.3))
    for one, other in zip([*split, *removed], [*again, *gone], strict=True):
        assert one is not None
        assert other is not None
        assert torch.allclose(one, other, atol=1e-13)


def test_frozen_parameters_are_probed_and_stay_frozen() -> None:
    net, batch = prepared("residual", 4)
    graph = ramify.trace(net, batch[0])
    moves = displaced(graph, 0.3)
    before, _ = followed(graph, batch, per_sample, moves)
    net.requires_grad_(False)
    after, _ = followed(graph, batch, per_sample, moves)
    assert not any(parameter.requires_grad for parameter in net.parameters())
    for one, other in zip(before, after, strict=True):
        assert one is not None
        assert other is not None
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_followed(dtype: torch.dtype) -> None:
    """The sums come in float32, close to those of the network in full precision."""
    net, (x, y) = block()
    net, batch = net.float(), (x.float(), y)
    graph = ramify.trace(net, batch[0][:2])
    moves = displaced(graph, 0.5)

    def under_autocast(model: nn.Module, batch: Batch) -> Tensor:
        with torch.autocast("cpu", dtype=dtype):
            return per_sample(model, batch)

    full, _ = followed(graph, batch, per_sample, moves)
    half, _ = followed(graph, batch, under_autocast, moves)
    for one, other in zip(full, half, strict=True):
        assert one is not None
        assert other is not None
        assert other.dtype == torch.float32
        assert (one - other).norm() <= 0.05 * one.norm()


def test_a_batch_whose_samples_are_mixed_is_refused() -> None:
    net, batch = prepared("perceptron", 6)
    graph = ramify.trace(net, batch[0])

    def cut(model: nn.Module, batch: Batch) -> Tensor:
        return per_sample(model, (batch[0].view(2, 3, 4).flatten(0, 1), batch[1]))

    def shuffled(model: nn.Module, batch: Batch) -> Tensor:
        return per_sample(model, (batch[0].T.reshape(6, 4), batch[1]))

    with pytest.raises(ramify.RamifyError, match="samples"):
        followed(graph, batch, shuffled, displaced(graph, 0.1))
    with pytest.raises(ramify.RamifyError, match="divides the batch into parts"):
        followed(graph, batch, cut, displaced(graph, 0.1))


@pytest.mark.parametrize("name", ["native_batch_norm", "cudnn_batch_norm"])
def test_a_norm_of_any_backend_is_a_line(name: str) -> None:
    """The backend of GPUs is not at hand everywhere; its arguments stand in the same order."""
    base, move = torch.randn(4, 3, 5).double(), torch.randn(4, 3, 5).double()
    scale, shift, mean, variance = (torch.rand(3).double() + 0.5 for _ in range(4))
    func = getattr(torch.ops.aten, name).default
    args = (
        DisplacedTensor.linear(base, lambda: move),
        scale,
        shift,
        mean,
        variance,
        False,
        0.1,
        1e-5,
    )
    op = Op(func, (), {}, None, "")
    carry = linear_rule(op, args, {})
    assert carry is not None
    results = carry(op, args, lambda displaced: displaced.form("odd"), base)
    norm = functools.partial(batch_norm, running_mean=mean, running_var=variance, weight=scale)
    assert len(results) == len(func._schema.returns)
    assert torch.allclose(results[0], norm(base + move, bias=shift) - norm(base, bias=shift))
    counted = (*args[:5], True, *args[6:])
    assert linear_rule(op, counted, {}) is None
