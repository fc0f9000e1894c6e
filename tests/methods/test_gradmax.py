"""GradMax against networks that are really enlarged, differentiated twice by autograd."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, max_pool2d, pad, relu, silu

import ramify
from ramify import GradMax, Proposal, RamifyError, Split
from ramify.methods.draws import producer_kernels
from ramify.tracing.dims import Atom
from ramify.tracing.indexing import positions
from ramify.tracing.recorder import tensors_of
from tests.checks import snapshot
from tests.methods.networks import KINDS, Batch, build, halved
from tests.nets import per_sample


class Gated(nn.Module):
    """A gated perceptron without biases: neither factor has a slope where both are zero."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.gate = nn.Linear(4, 5, bias=False), nn.Linear(4, 5, bias=False)
        self.down = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(silu(self.gate(x)) * self.up(x))


def flattened() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, stride=2, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3)
    )


def transposed() -> nn.Module:
    return nn.Sequential(
        nn.ConvTranspose2d(1, 3, 3, stride=2),
        nn.Softplus(),
        nn.AvgPool2d(2),
        nn.ConvTranspose2d(3, 2, 2),
        nn.Flatten(),
        nn.Linear(50, 3),
    )


OWN: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "gated": (Gated, (4,)),
    "flattened": (flattened, (1, 4, 4)),
    "transposed": (transposed, (1, 4, 4)),
}


def made(kind: str) -> tuple[nn.Module, Batch]:
    torch.manual_seed(0)
    if kind not in OWN:
        return build(kind)
    net, shape = OWN[kind]
    return net().double().eval(), (torch.randn(12, *shape).double(), torch.randint(0, 3, (12,)))


Enlarged = tuple[Callable[[Tensor], Tensor], Tensor]


def enlarged(net: nn.Module, batch: Batch, edit: Split, free: dict[str, list[int]]) -> Enlarged:
    """With one new neuron really added: its incoming weights -> the gradient to its outgoing ones.

    Args:
        net: the network.
        batch: its data.
        edit: the split that adds the neuron.
        free: producer -> the rows of the neuron that are given; others are as the edit has them.

    Returns:
        The function, and the incoming weights that the edit gives.
    """
    twin = copy.deepcopy(net).eval()
    graph = ramify.apply(ramify.trace(twin, batch[0][:2]), [edit])
    group = graph[edit.group]
    slots = {s.name: s for s in group.slots if s.role == "producer" and s.name in free}
    tensors = {name: tensor.detach().clone() for name, tensor in tensors_of(twin).items()}

    def last(name: str, dim: int, atom: Atom) -> Tensor:
        """Where the last channel lies along a dimension."""
        return torch.from_numpy(positions(graph.dims[name][dim], atom)[-1])

    rows = {n: last(n, slot.dim, group.atom)[free[n]] for n, slot in slots.items()}
    starts = [tensors[n].movedim(slots[n].dim, 0)[rows[n]] for n in slots]
    sizes = [start.numel() for start in starts]

    def gradient(theta: Tensor) -> Tensor:
        given = dict(tensors)
        readers = {
            slot.name: tensors[slot.name].clone().requires_grad_()
            for slot in group.slots
            if slot.role == "consumer"
        }
        given.update(readers)
        for name, start, part in zip(slots, starts, theta.split(sizes), strict=True):
            moved = given[name].movedim(slots[name].dim, 0)
            moved = moved.index_copy(0, rows[name], part.view(start.shape))
            given[name] = moved.movedim(0, slots[name].dim)
        run = lambda model, x: torch.func.functional_call(model, given, (x,))  # noqa: E731
        losses = per_sample(Called(twin, run), batch)
        found = torch.autograd.grad(losses.mean(), list(readers.values()), create_graph=True)
        parts = []
        for slot in group.slots:
            if slot.role == "consumer":
                place = list(readers).index(slot.name)
                own = found[place].movedim(slot.dim, 0)
                parts.append(own[last(slot.name, slot.dim, group.atom)].reshape(-1))
        return torch.cat(parts)

    return gradient, torch.cat([start.reshape(-1) for start in starts])


class Called(nn.Module):
    """A network that is run with other tensors than its own."""

    def __init__(self, net: nn.Module, run: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.held, self.run = [net], run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self.held[0], x)


def of_group(net: nn.Module, batch: Batch, group: str, **settings: object) -> list[Proposal]:
    graph = ramify.trace(net, batch[0][:2])
    return GradMax(groups=(group,), **settings).propose(graph, per_sample, halved(batch))


CASES: dict[str, tuple[str, str, dict[str, list[int]]]] = {
    "linear": ("perceptron", "a", {"a.weight": [0]}),
    "conv before a strided conv": ("conv-bn-softplus", "a", {"a.weight": [0]}),
    "strided conv": ("conv-bn-softplus", "b", {"b.weight": [0]}),
    "stream": ("residual", "stem", {n: [0] for n in ("stem.weight", "a2.weight", "b2.weight")}),
    "depthwise": ("depthwise", "p", {"p.weight": [0]}),
    "perceptron of a transformer": ("transformer", "up", {"up.weight": [0]}),
    "values": ("transformer", "qkv:1", {"qkv.weight": [2]}),
    "heads": ("attention", "qkv:1", {"qkv.weight": [6, 7, 8]}),
    "gated": ("gated", "up", {"up.weight": [0]}),
    "flattened": ("flattened", "0", {"0.weight": [0]}),
    "transposed": ("transposed", "0", {"0.weight": [0]}),
    "recurrent": ("cell", "i", {"i.weight": [0]}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_closed_form_is_what_autograd_finds_in_the_enlarged_network(case: str) -> None:
    """The largest singular vector of ∂²L/∂w∂θ at kernels of zero; the network is smooth."""
    kind, group, free = CASES[case]
    net, batch = made(kind)
    best = max(of_group(net, batch, group), key=lambda p: first(net, batch, p))
    assert isinstance(best.edit, Split)
    gradient, theta = enlarged(net, batch, best.edit, free)
    matrix = torch.autograd.functional.jacobian(gradient, torch.zeros_like(theta))
    _, values, right = torch.linalg.svd(matrix, full_matrices=False)
    largest = right[values > values[0] * (1 - 1e-9)]  # the rows of a head's values are alike
    assert float((largest @ theta).norm() / theta.norm()) == pytest.approx(1, abs=1e-8)
    assert float((matrix @ theta).norm() / theta.norm()) == pytest.approx(
        float(values[0]), rel=1e-8
    )
    assert best.gain == pytest.approx(
        0.1 * float(gradient(theta).square().sum().detach()), rel=1e-8
    )


def first(net: nn.Module, batch: Batch, proposal: Proposal) -> float:
    """Largest for the first neuron, which is a copy of the channel nearest to the mean length."""
    graph = ramify.trace(copy.deepcopy(net), batch[0][:2])
    every = producer_kernels(graph, graph[proposal.edit.group])
    tensors = tensors_of(net)
    flat = [k.flatten(1) for name, k in every.items() if tensors[name].dim() > 1]
    lengths = torch.cat(flat, dim=1).norm(dim=1)
    assert isinstance(proposal.edit.channel, int)
    return -float((lengths[proposal.edit.channel] - lengths.square().mean().sqrt()).abs())


@pytest.mark.parametrize("kind", [*KINDS, *OWN])
def test_the_edits_leave_the_output_and_everything_else(kind: str) -> None:
    net, batch = made(kind)
    graph = ramify.trace(net, batch[0][:2])
    before, state = per_sample(net, batch), snapshot(net)
    proposals = GradMax().propose(graph, per_sample, halved(batch))
    assert snapshot(net) == state
    assert len({(p.edit.group, p.edit.channel) for p in proposals}) == len(proposals) > 0
    ramify.apply(graph, [proposal.edit for proposal in proposals])
    assert float((per_sample(net, batch) - before).detach().abs().max()) < 1e-12


@pytest.mark.parametrize(("kind", "group"), [("perceptron", "a"), ("residual", "stem")])
def test_the_gain_is_what_a_small_step_of_the_outgoing_weights_gains(kind: str, group: str) -> None:
    net, batch = made(kind)
    errors = []
    for lr in (1e-2, 1e-3, 1e-4):
        best = of_group(net, batch, group, lr=lr)[0]
        errors.append(abs(decrease_of_a_step(net, batch, best, lr) / best.gain - 1))
    assert errors[1] < 0.15 * errors[0]
    assert errors[2] < 0.15 * errors[1] < 1e-2


def decrease_of_a_step(net: nn.Module, batch: Batch, proposal: Proposal, lr: float) -> float:
    """What one step of gradient descent on the new neuron's outgoing weights alone really gains."""
    twin = copy.deepcopy(net)
    graph = ramify.apply(ramify.trace(twin, batch[0][:2]), [proposal.edit])
    group = graph[proposal.edit.group]
    before = per_sample(twin, batch).mean()
    before.backward()
    with torch.no_grad():
        for slot in group.slots:
            if slot.role == "consumer":
                reader = tensors_of(twin)[slot.name]
                assert reader.grad is not None
                where = torch.from_numpy(positions(graph.dims[slot.name][slot.dim], group.atom)[-1])
                new = reader.grad.movedim(slot.dim, 0)[where]
                reader.movedim(slot.dim, 0)[where] -= lr * new
        return float(before - per_sample(twin, batch).mean())


def test_no_other_kernel_of_that_length_has_more_gradient() -> None:
    """Two linear layers, where first order is all there is."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 4, bias=False), nn.Linear(4, 3)).double()
    batch = torch.randn(20, 6).double(), torch.randint(0, 3, (20,))
    proposals = of_group(net, batch, "0", scale=2.0, lr=1.0)
    length = 2.0 * float(net[0].weight.detach().norm()) / 4**0.5
    gradient, theta = enlarged(net, batch, proposals[0].edit, {"0.weight": [0]})  # type: ignore[arg-type]
    assert float(theta.norm()) == pytest.approx(length)
    assert proposals[0].gain == pytest.approx(float(gradient(theta).square().sum().detach()))
    others = torch.randn(300, 6).double()
    others = length * others / others.norm(dim=1, keepdim=True)
    assert max(float(gradient(t).square().sum().detach()) for t in others) < proposals[0].gain
    # By autograd alone: climb from a random kernel, and end where the closed form is.
    climbed = others[0].clone().requires_grad_()
    for _ in range(300):
        [slope] = torch.autograd.grad(gradient(climbed).square().sum(), climbed)
        climbed = (length * slope / slope.norm()).detach().requires_grad_()
    assert float(gradient(climbed).square().sum()) == pytest.approx(proposals[0].gain, rel=1e-8)
    # The others are orthogonal to it and to each other, and gain less each.
    moved = torch.stack([enlarged(net, batch, p.edit, {"0.weight": [0]})[1] for p in proposals])  # type: ignore[arg-type]
    torch.testing.assert_close(moved @ moved.T, length**2 * torch.eye(len(moved)).double())
    assert [p.gain for p in proposals] == sorted((p.gain for p in proposals), reverse=True)


class Pooled(nn.Module):
    """Convolution, ReLU, max pool, convolution: kernels of zero lie on every kink."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 3, 3, padding=1, bias=False), nn.Conv2d(3, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(max_pool2d(relu(self.a(x)), 2)).mean((2, 3))


def test_at_kinks_the_slope_is_that_of_the_mean() -> None:
    torch.manual_seed(0)
    net = Pooled().double()
    x, y = torch.randn(8, 2, 6, 6).double(), torch.randint(0, 3, (8,))
    best = of_group(net, (x, y), "a")[0]
    made = net(x).detach().requires_grad_()  # the mean over four positions of what b makes
    [asked] = torch.autograd.grad(nn.functional.cross_entropy(made, y), made)
    # What a kernel of one entry puts out: x shifted, half of it behind ReLU, pooled by the mean.
    every = torch.eye(18).double().view(18, 2, 3, 3)
    read = avg_pool2d(conv2d(pad(x, (1, 1, 1, 1)), every) / 2, 2)  # (8, 18, 3, 3)
    taps = read.unfold(2, 2, 1).unfold(3, 2, 1).mean((2, 3))  # (8, 18, 2, 2)
    matrix = torch.einsum("so,sdij->doij", asked, taps).reshape(18, -1)
    expected = torch.linalg.svd(matrix)[0][:, 0]
    assert isinstance(best.edit, Split)
    theta = best.edit.offsets["a.weight"][1] + net.a.weight[best.edit.channel]
    theta = theta.detach().reshape(-1)
    assert abs(float(expected @ theta / theta.norm())) == pytest.approx(1, abs=1e-8)
    # Of the two signs, which ReLU tells apart, it is the better one.
    gradient, held = enlarged(net, (x, y), best.edit, {"a.weight": [0]})
    assert float(gradient(held).norm()) > float(gradient(-held).norm())
    with pytest.raises(RamifyError, match="no kernel of a.weight has a first-order effect"):
        of_group(net, (x, y), "a", surrogate=None)  # max(x, 0) has no slope at 0 in torch


def test_what_is_refused_says_why() -> None:
    net, batch = made("perceptron")
    graph = ramify.trace(net, batch[0][:2])
    with pytest.raises(RamifyError, match="'c' cannot get new neurons by GradMax: .*output"):
        GradMax(groups=("c",)).propose(graph, per_sample, [batch])
    with pytest.raises(RamifyError, match="there is no batch"):
        GradMax().propose(graph, per_sample, [])
    for settings in (
        {"neurons": 0},
        {"neurons": 1.5},
        {"scale": 0.0},
        {"lr": -1.0},
        {"surrogate": 0.0},
    ):
        with pytest.raises(RamifyError, match=next(iter(settings))):
            GradMax(**settings)  # type: ignore[arg-type]


def test_neurons_bounds_how_many() -> None:
    net, batch = made("residual")
    assert len(of_group(net, batch, "stem")) == 4
    two = of_group(net, batch, "stem", neurons=2)
    assert len(two) == 2
    more = of_group(net, batch, "stem", neurons=9)
    assert len(more) == 4
    assert more[0].gain == pytest.approx(two[0].gain)


def test_a_kernel_that_may_not_be_zero_gets_no_neuron_of_its_own() -> None:
    """Weight norm divides by the norm of the kernel."""
    normed = torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))
    net = nn.Sequential(normed, nn.Tanh(), nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    x = torch.randn(6, 4)
    graph = ramify.trace(net, x)
    loss = lambda model, x: model(x).square().sum(1)  # noqa: E731
    found = GradMax().propose(graph, loss, [x])
    assert {proposal.edit.group for proposal in found} == {"2"}
    assert {p.edit.group for p in ramify.Auto().propose(graph, loss, [x])} == {"0", "2"}
    with pytest.raises(RamifyError, match="'0' cannot get new neurons .* where they are zero"):
        GradMax(groups=("0",)).propose(graph, loss, [x])


def test_the_memory_format_makes_no_difference() -> None:
    torch.manual_seed(0)
    layers = nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Conv2d(3, 4, 2), nn.Tanh(), nn.Flatten()
    model = nn.Sequential(*layers, nn.Linear(16, 3)).double()
    batch = torch.randn(7, 2, 5, 5).double(), torch.randint(3, (7,))
    found = []
    for form in (torch.contiguous_format, torch.channels_last):
        model.to(memory_format=form)
        proposals = GradMax().propose(ramify.trace(model, batch[0]), per_sample, [batch])
        found.append([proposal.gain for proposal in proposals])
    assert found[0] == pytest.approx(found[1], rel=1e-9)
