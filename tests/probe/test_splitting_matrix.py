"""The probe against the Hessian of the really split network."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

import ramify
from ramify.methods import Method
from ramify.probe.curvature import smoothed
from ramify.probe.splitting_matrix import splitting_operators
from ramify.probe.targets import targets
from ramify.tracing.indexing import Slot, kernels
from tests.nets import SMOOTH, per_sample, prepared

Displaced = Callable[[Tensor], Tensor]


def kernels_of(graph: ramify.ChannelGraph, group: ramify.ChannelGroup, slot: Slot) -> Tensor:
    tensor = dict(graph.model.named_parameters())[slot.name].detach()
    return kernels(tensor, slot.dim, graph.positions(group, slot)).clone()


def really_split(
    net: nn.Module, batch: tuple[Tensor, Tensor], name: str, channel: int
) -> Displaced:
    """L(u): the mean loss of the split network, one copy moved by u, the other by -u."""
    twin = copy.deepcopy(net)
    graph = ramify.trace(twin, batch[0][:2])
    group = next(group for group in graph.groups if group.name == name)
    made = [slot for slot in group.slots if slot.role == "producer"]
    old = {slot.name: kernels_of(graph, group, slot)[channel] for slot in made}
    graph = ramify.apply(graph, [ramify.Split(name, channel)])
    group = graph[name]
    slots = [slot for slot in group.slots if slot.role == "producer"]
    parameters = dict(twin.named_parameters())

    def mean_loss(u: Tensor) -> Tensor:
        moved, start = {}, 0
        for slot in slots:
            weight = parameters[slot.name].detach()
            where = torch.from_numpy(graph.positions(group, slot))
            shape = kernels(weight, slot.dim, where.numpy())[0].shape
            part = u[start : start + shape.numel()].reshape(shape)
            start += shape.numel()
            rows = torch.zeros_like(weight).movedim(slot.dim, 0)
            # Rows that take the copies' shares where no weight reads take the displacement's too.
            share = kernels_of(graph, group, slot)[-1] / old[slot.name]
            part = (part * share).reshape(rows[where[channel]].shape)
            rows = rows.index_put((where[channel],), part).index_put((where[-1],), -part)
            moved[slot.name] = weight + rows.movedim(0, slot.dim)
        with sdpa_kernel(SDPBackend.MATH):  # the fused form has one derivative
            return cross_entropy(torch.func.functional_call(twin, moved, (batch[0],)), batch[1])

    return mean_loss


GROUPS = {
    "perceptron": 2,
    "conv-bn-softplus": 2,
    "residual": 3,
    "depthwise": 2,
    "squeeze-excite": 2,
    "attention": 3,
    "similarity": 4,
    "crossed": 3,
    "sums": 2,
}
CASES = [(name, group) for name in SMOOTH for group in range(GROUPS[name])]


@functools.cache
def traced(name: str) -> tuple[ramify.ChannelGraph, tuple[Tensor, Tensor]]:
    """The graph and a batch, shared: a probe leaves the network as it is."""
    net, batch = prepared(name)
    return ramify.trace(net, batch[0][:2]), batch


@functools.cache
def case(
    name: str, number: int
) -> tuple[ramify.ChannelGraph, tuple[Tensor, Tensor], str, Displaced]:
    """A graph, a batch, the name of one of its groups, and L(u) of the split of channel 1."""
    graph, batch = traced(name)
    groups = [g.name for g in graph.groups if g.can_split]
    assert len(groups) == GROUPS[name]
    group = groups[number]
    return graph, batch, group, really_split(graph.model, batch, group, channel=1)


@pytest.mark.parametrize("name, number", CASES)
def test_splitting_matrix_equals_the_hessian_of_the_split_network(name: str, number: int) -> None:
    graph, batch, group, loss = case(name, number)
    batches = [(batch[0][:5], batch[1][:5]), (batch[0][5:], batch[1][5:])]
    matrix = ramify.splitting_matrix(graph, group, per_sample, batches)
    hessian = torch.autograd.functional.hessian(loss, torch.zeros(matrix.shape[1]).double())
    assert (matrix[1] - hessian).abs().max() <= 1e-12 * hessian.abs().max()
    assert hessian.abs().max() > 1e-6  # a matrix of zeros would prove nothing


@pytest.mark.parametrize("name, number", CASES)
def test_predicted_change_is_exact_to_second_order(name: str, number: int) -> None:
    """The relative error falls by 100 when the step falls by 10 (DESIGN, idea 3)."""
    graph, batch, group, loss = case(name, number)
    matrix = ramify.splitting_matrix(graph, group, per_sample, [batch])[1]
    values, vectors = torch.linalg.eigh(matrix)
    end = int(values.abs().argmax())
    direction, errors = vectors[:, end], []
    for step in (0.1, 0.01):
        true = (loss(step * direction) - loss(0 * direction)) / step**2
        errors.append(float((true - values[end] / 2).abs()))
    assert 70 <= errors[0] / errors[1] <= 130


def test_probe_leaves_the_model_alone() -> None:
    net, batch = prepared("conv-bn-softplus")
    net.train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    graph = ramify.trace(net, batch[0][:2])
    ramify.SplittingDescent().propose(graph, per_sample, [batch])
    assert net.training
    assert all(parameter.grad is None for parameter in net.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert not any(module._forward_hooks or module._backward_hooks for module in net.modules())


class Rectified(nn.Module):
    def __init__(self, *, inplace: bool) -> None:
        super().__init__()
        self.a, self.act, self.b = nn.Conv2d(2, 3, 3), nn.ReLU(inplace), nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.act(self.b(self.act(self.a(x)))).mean((2, 3)))


def test_inplace_activations_give_the_same_matrix() -> None:
    torch.manual_seed(0)
    plain, inplace = Rectified(inplace=False).double(), Rectified(inplace=True).double()
    inplace.load_state_dict(plain.state_dict())
    batch = (torch.randn(6, 2, 7, 7).double(), torch.randint(0, 2, (6,)))
    one, two = (
        ramify.splitting_matrix(ramify.trace(net, batch[0][:2]), "a", per_sample, [batch])
        for net in (plain, inplace)
    )
    assert one.abs().max() > 0
    assert torch.equal(one, two)


def test_surrogate_is_the_published_curvature() -> None:
    """S of a ReLU layer read by a linear layer, by the formula of S2D's code: 3 s (1 - s)."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    batch = (torch.randn(20, 4).double(), torch.randint(0, 3, (20,)))
    graph = ramify.trace(net, batch[0][:2])
    matrix = ramify.splitting_matrix(graph, "0", per_sample, [batch])
    z = net[0](batch[0])
    probabilities = net(batch[0]).softmax(1) - torch.eye(3).double()[batch[1]]
    slope = probabilities @ net[2].weight  # gradient of each sample's loss to the hidden unit
    s = torch.sigmoid(3 * z)
    x = torch.cat([batch[0], torch.ones(20, 1).double()], 1)
    expected = torch.einsum("sc,sd,se->cde", slope * 3 * s * (1 - s), x, x) / 20
    assert torch.allclose(matrix, expected.detach(), rtol=0, atol=1e-12)
    without = ramify.splitting_matrix(graph, "0", per_sample, [batch], surrogate=None)
    assert without.abs().max() == 0


class AtMost(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.clamp_max(0.5)


class Larger(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.maximum(x, torch.zeros_like(x))


class Smaller(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.minimum(x.new_tensor(0.5), x)


class Between(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(min=torch.tensor(-0.5), max=torch.tensor(0.5))


@pytest.mark.parametrize(
    "activation",
    [
        nn.ReLU(),
        nn.LeakyReLU(0.2),
        nn.RReLU(0.1, 0.5),
        nn.ReLU6(),
        nn.Hardtanh(-0.5, 0.7),
        nn.PReLU(),
        nn.Hardsigmoid(),
        nn.Softshrink(0.4),
        AtMost(),
        Larger(),
        Smaller(),
        Between(),
    ],
    ids=lambda module: type(module).__name__,
)
def test_surrogates_keep_value_and_slope(activation: nn.Module) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), activation, nn.Linear(6, 3)).double().eval()
    batch = (3 * torch.randn(30, 4).double(), torch.randint(0, 3, (30,)))
    graph = ramify.trace(net, batch[0][:2])
    _, operators = splitting_operators(graph, per_sample, [batch], 3.0)
    per_sample(net, batch).mean().backward()
    first = torch.cat([net[0].weight.grad, net[0].bias.grad[:, None]], 1)
    rounding = 1e-7 if isinstance(activation, nn.Hardsigmoid) else 1e-12  # torch's 1/6 is float32
    assert torch.allclose(operators[0].gradient()[0], first, rtol=0, atol=rounding)
    assert ramify.splitting_matrix(graph, "0", per_sample, [batch]).abs().max() > 1e-4


def test_smoothed_has_the_curvature_of_softplus() -> None:
    x = torch.linspace(-2, 2, 9).double().requires_grad_()
    value = smoothed(torch.relu(x), x, (0.0, [(0.0, 1.0)]), 3.0)
    (slope,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    (curve,) = torch.autograd.grad(slope.sum(), x)
    y = x.detach().clone().requires_grad_()
    soft = nn.functional.softplus(y, beta=3.0)
    (first,) = torch.autograd.grad(soft.sum(), y, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), y)
    assert torch.equal(value, torch.relu(x))
    assert torch.equal(slope, (x > 0).double())
    assert torch.allclose(curve, second, rtol=1e-12)


@pytest.mark.parametrize("settings", [{}, {"affine": False}, {"track_running_stats": False}])
def test_norms_of_every_kind_keep_their_slope(settings: dict[str, bool]) -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(6, **settings)
    net = nn.Sequential(nn.Linear(4, 6), norm, nn.Tanh(), nn.Linear(6, 3)).double()
    for parameter in norm.parameters():
        nn.init.uniform_(parameter, 0.5, 2)
    batch = (3 * torch.randn(30, 4).double() + 1, torch.randint(0, 3, (30,)))
    net(batch[0])  # running statistics that differ from the first ones
    net.eval()
    _, operators = splitting_operators(ramify.trace(net, batch[0]), per_sample, [batch], 3.0)
    per_sample(net, batch).mean().backward()
    first = torch.cat([net[0].weight.grad, net[0].bias.grad[:, None]], 1)
    assert torch.allclose(operators[0].gradient()[0], first, rtol=0, atol=1e-12)


def test_a_group_through_a_grouped_convolution_is_left_out() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=4), nn.Flatten(), nn.Linear(8 * 4, 2)
    )
    x = torch.randn(2, 3, 4, 4)
    graph = ramify.trace(net, x)
    probed = {target.group.width for target in targets(graph)}
    assert probed == {2}  # channels within a convolution group; whole groups are not followed


def test_losses_that_cannot_be_probed_are_refused() -> None:
    net, batch = prepared("perceptron")
    graph = ramify.trace(net, batch[0])
    method = ramify.SplittingDescent()
    with pytest.raises(ramify.RamifyError, match='reduction="none"'):
        method.propose(graph, lambda m, b: per_sample(m, b).mean(), [batch])
    bad = (batch[0].clone(), batch[1])
    bad[0][3] = float("nan")
    with pytest.raises(ramify.RamifyError, match="the loss of sample 3 is nan"):
        method.propose(graph, per_sample, [bad])
    with pytest.raises(ramify.RamifyError, match="there is no batch"):
        method.propose(graph, per_sample, [])
    net.a.weight.data[0, 0] = float("inf")
    with pytest.raises(ramify.RamifyError, match=r"'a\.weight' holds values that are not finite"):
        method.propose(graph, per_sample, [batch])


class Writing(nn.Module):
    """Writes into its input, and through a view into a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 3)
        self.register_buffer("seen", torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        self.seen[0] += 1
        return self.b(torch.tanh(self.a(x.sub_(0.5).mul_(1.3))))


def test_forwards_that_write_change_neither_batch_nor_buffers_nor_the_matrix() -> None:
    net = Writing().double()
    x, y = torch.randn(9, 4).double(), torch.randint(0, 3, (9,))
    kept = x.clone()
    found = ramify.splitting_matrix(ramify.trace(net, x), "a", per_sample, [(x, y)])
    assert torch.equal(x, kept)
    assert torch.equal(net.seen, torch.zeros(2))
    plain = nn.Sequential(net.a, nn.Tanh(), net.b)
    scaled = (kept - 0.5) * 1.3
    wanted = ramify.splitting_matrix(ramify.trace(plain, scaled), "0", per_sample, [(scaled, y)])
    assert torch.equal(found, wanted)
    assert found.abs().max() > 0


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(x + torch.randn_like(x))))


def test_noise_is_drawn_once_and_the_random_state_stays() -> None:
    net, batch = Noisy(), (torch.randn(9, 4), torch.randint(0, 3, (9,)))
    graph, state = ramify.trace(net, batch[0]), torch.get_rng_state()
    one, two = (ramify.splitting_matrix(graph, "a", per_sample, [batch]) for _ in range(2))
    assert torch.equal(one, two)
    assert torch.equal(torch.get_rng_state(), state)


class Attentive(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(6, 8)
        self.o, self.f = nn.Linear(8, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x)[:, None] for layer in (self.q, self.k, self.v))
        return self.f(
            torch.tanh(self.o(nn.functional.scaled_dot_product_attention(q, k, v)[:, 0])).mean(1)
        )


def normed() -> nn.Module:
    weight_norm = nn.utils.parametrizations.weight_norm
    return nn.Sequential(weight_norm(nn.Linear(6, 5)), nn.Softplus(), nn.Linear(5, 2))


@pytest.mark.parametrize(
    "net, shape, group",
    [(Attentive(), (7, 4, 6), "o"), (normed(), (7, 6), "0")],
    ids=["attention", "weight-norm"],
)
def test_fused_operations_are_differentiated_right(
    net: nn.Module, shape: tuple[int, ...], group: str
) -> None:
    torch.manual_seed(0)
    net = net.double()
    batch = (torch.randn(shape).double(), torch.randint(0, 2, shape[:1]))
    graph = ramify.trace(net, batch[0])
    matrix = ramify.splitting_matrix(graph, group, per_sample, [batch])
    loss = really_split(net, batch, graph[group].name, channel=1)
    for _ in range(3):  # by differences: torch's own second derivatives are what is in doubt
        v = torch.randn(matrix.shape[1]).double()
        with torch.no_grad():
            curve = 2 * (loss(2e-4 * v) - loss(0 * v)) / 4e-8
        assert float(v @ matrix[1] @ v) == pytest.approx(float(curve), rel=1e-3, abs=1e-6)
        assert abs(float(curve)) > 1e-5


def test_half_precision_can_be_probed() -> None:
    batch = (torch.randn(16, 4).bfloat16(), torch.randint(0, 3, (16,)))
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).bfloat16()
    graph = ramify.trace(net, batch[0])
    assert len(ramify.SplittingDescent().propose(graph, per_sample, [batch])) == 8


@pytest.mark.parametrize("method", [ramify.SplittingDescent(eigen="exact"), ramify.Taylor()])
def test_norms_are_replayed_under_autocast(method: Method) -> None:
    net, (x, y) = prepared("conv-bn-softplus", 8)
    net, batch = net.float(), (x.float(), y)
    graph = ramify.trace(net, batch[0][:2])

    def under_autocast(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return per_sample(model, batch)

    values = []
    for loss in (per_sample, under_autocast):
        proposals = method.propose(graph, loss, [batch])
        found = {(p.edit.group, p.edit.channel): p.value for p in proposals}
        values.append(torch.tensor([found[channel] for channel in sorted(found)]))
    assert (values[0] - values[1]).norm() < 0.05 * values[0].norm()


def test_an_old_graph_is_refused() -> None:
    net, batch = prepared("perceptron")
    graph = ramify.trace(net, batch[0])
    ramify.apply(graph, [ramify.Split("a", 0)])
    with pytest.raises(ramify.RamifyError, match="trace again"):
        ramify.SplittingDescent().propose(graph, per_sample, [batch])


def test_a_batch_that_is_no_list_of_batches_is_explained() -> None:
    net, batch = prepared("perceptron")
    graph = ramify.trace(net, batch[0][:2])
    with pytest.raises(ramify.RamifyError, match="iterable of batches"):
        ramify.SplittingDescent().propose(graph, per_sample, batch)
