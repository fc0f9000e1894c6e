"""Gates in front of the activation: on the rows that make a channel, exact to fold into them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

import ramify
from ramify import Prune
from ramify.relax.producer_gates import why_not_made
from tests.checks import call, distance, outputs, snapshot
from tests.programs import SIDE, Network, Step, programs
from tests.relax.gated import made
from tests.structures.base import scatter

SMOOTH = {"gelu": nn.GELU(), "silu": nn.SiLU(), "tanh": nn.Tanh()}


def perceptron(activation: nn.Module) -> tuple[nn.Sequential, Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), activation, nn.Linear(6, 3)).double()
    return net, torch.randn(7, 4, dtype=torch.float64)


@pytest.mark.parametrize("name", [*SMOOTH, "relu"])
def test_a_gate_stands_in_front_of_the_activation(name: str) -> None:
    """Outputs and the gradients of gates and weights are those of what is written out."""
    activation = SMOOTH.get(name, nn.ReLU())
    net, x = perceptron(activation)
    before = net(x)
    gates = ramify.gate(ramify.trace(net, x), at="producers")
    assert torch.equal(net(x), before)
    with torch.no_grad():
        gates["0"].copy_(torch.linspace(-1.0, 1.5, 6))
    first, last = net[0].parametrizations, net[2]
    alpha, weight, bias = (
        t.detach().clone().requires_grad_()
        for t in (gates["0"], first.weight.original, first.bias.original)
    )
    expected = last(activation(alpha * functional.linear(x, weight, bias)))
    found = net(x)
    assert distance([expected.detach()], [found.detach()]) < 1e-14
    slopes = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, [alpha, weight, bias], slopes)
    own = [gates["0"], first.weight.original, first.bias.original]
    assert distance(list(torch.autograd.grad(found, own, slopes)), list(wanted)) < 1e-14


@pytest.mark.parametrize("name", SMOOTH)
def test_folding_goes_into_the_rows_and_is_exact(name: str) -> None:
    net, x = perceptron(SMOOTH[name])
    graph = ramify.trace(net, x)
    kept, rows, columns = snapshot(net), net[0].weight.clone(), net[2].weight.clone()
    gates = ramify.gate(graph, at="producers")
    ramify.fold(gates)
    assert snapshot(net) == kept
    gates = ramify.gate(graph, ["0"], at="producers")
    with torch.no_grad():
        gates["0"].copy_(torch.linspace(-1.0, 1.5, 6)[[0, 1, 3, 2, 5, 4]])
        gates["0"][1] = 0.0
    before, alpha = net(x).detach(), gates["0"].detach().clone()
    assert torch.equal(ramify.fold(net)["0"], alpha)
    assert torch.equal(net(x), before)
    assert torch.equal(net[2].weight, columns)
    assert torch.equal(net[0].weight, alpha[:, None] * rows)
    ramify.apply(graph, [Prune("0", 1)])
    assert distance([net(x).detach()], [before]) < 1e-14


def test_behind_a_relu_both_places_are_one_search_while_gates_are_positive() -> None:
    def searched(activation: nn.Module, at: str) -> tuple[Tensor, Tensor]:
        net, x = perceptron(activation)
        gates = ramify.gate(ramify.trace(net, x), at=at)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
        for _ in range(5):
            optimizer.zero_grad()
            (net(x).square().mean() + 0.05 * gates["0"].abs().sum()).backward()
            optimizer.step()
        assert bool((gates["0"] > 0).all())
        return gates["0"].detach(), net(x).detach()

    for found, expected in zip(
        searched(nn.ReLU(), "producers"), searched(nn.ReLU(), "consumers"), strict=True
    ):
        assert distance([found], [expected]) < 1e-12
    # Behind a GELU the slope at 1 is GELU'(h) h and not GELU(h): h² φ(h) more.
    alphas = [searched(nn.GELU(), at)[0] for at in ("producers", "consumers")]
    assert distance(alphas[:1], alphas[1:]) > 1e-4


def test_scores_of_q_k_and_v_are_those_of_their_consumers() -> None:
    """diag(α) on Q, K and V, as the thesis writes it, is what the default gives."""
    pytest.importorskip("transformers", reason="the extra `transformers` is not installed")
    model, inputs = made("swin")
    graph = ramify.trace(model, inputs)
    at = "swin.encoder.layers.1.blocks.0"
    names = [f"{at}.attention.q_proj:1", f"{at}.mlp.fc1"]
    alpha, hidden = (torch.randn(graph[name].width, dtype=torch.float64) for name in names)
    found = []
    for place in ("producers", "consumers"):
        gates = ramify.gate(graph, names[:1], at=place)
        with torch.no_grad():
            gates[names[0]].copy_(alpha)
        found.append([t.detach() for t in call(model, inputs)])
        assert distance(found[-1], made_times(model, inputs, at, alpha)) < 1e-12
        ramify.fold(model)
        assert distance(found[-1], outputs(model, inputs)) < 1e-12
        model, _ = made("swin")
        graph = ramify.trace(model, inputs)
    gates = ramify.gate(graph, names, at="producers")
    with torch.no_grad():
        gates[names[1]].copy_(hidden)
    before = call(model, inputs)
    with times(made("swin")[0], f"{at}.mlp.fc1", hidden) as plain:
        assert distance([t.detach() for t in before], outputs(plain, inputs)) < 1e-12


def made_times(model: nn.Module, inputs: object, at: str, alpha: Tensor) -> list[Tensor]:
    """What a fresh network gives whose q, k and v are multiplied by hooks."""
    plain, _ = made("swin")
    factor = alpha.repeat(3)  # heads
    for one in "qkv":
        plain.get_submodule(f"{at}.attention.{one}_proj").register_forward_hook(
            lambda module, args, out: out * factor
        )
    return outputs(plain, inputs)


@contextmanager
def times(model: nn.Module, name: str, factor: Tensor) -> Iterator[nn.Module]:
    handle = model.get_submodule(name).register_forward_hook(lambda m, args, out: out * factor)
    yield model
    handle.remove()


@pytest.mark.filterwarnings("ignore:.*was not reached")
@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow])
@given(programs)
def test_random_networks(program: tuple[int, list[Step], int]) -> None:
    """Every gate that is allowed: nothing at 1, exact to fold, and zero ones can go."""
    torch.manual_seed(0)
    model = Network(*program).double().eval()
    scatter(model)
    x = torch.randn(2, 2, SIDE, SIDE, dtype=torch.float64)
    graph = ramify.trace(model, x)
    before = [tensor.detach() for tensor in call(model, x)]
    allowed = [g for g in graph.groups if g.prune_exact and g.can_split]
    allowed = [group.name for group in allowed if not why_not_made(graph, group)]
    if not allowed:
        with pytest.raises(ramify.RamifyError, match="there is no group to gate"):
            ramify.gate(graph, at="producers")
        return
    gates = ramify.gate(graph, at="producers")
    assert [name for name, _ in gates.items()] == allowed
    assert all(map(torch.equal, before, call(model, x)))
    with torch.no_grad():
        for alpha in gates:
            alpha.copy_(torch.linspace(-1.0, 1.5, len(alpha)) + 0.1)
            alpha[-1] = 0.0
    before = [tensor.detach() for tensor in call(model, x)]
    scores = ramify.fold(gates)
    assert all(map(torch.equal, before, call(model, x)))
    ramify.apply(graph, [Prune(name, len(alpha) - 1) for name, alpha in scores.items()])
    assert distance(before, outputs(model, x)) < 1e-10


IMAGE = torch.randn(2, 3, 6, 6)


def convolutions(*between: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), *between, nn.Conv2d(4, 2, 1))


class Standardised(nn.Conv2d):
    """A convolution whose filters have mean 0 and deviation 1, whatever factor they have."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return functional.conv2d(x, weight / weight.std((1, 2, 3), keepdim=True), self.bias)


@pytest.mark.parametrize(
    ("net", "reason"),
    [
        (convolutions(nn.BatchNorm2d(4)), "'1.weight', which has numbers for each channel"),
        (convolutions(nn.Conv2d(4, 4, 1, groups=4)), "'1.weight', which has numbers"),
        (convolutions(nn.BatchNorm2d(4, affine=False)), "a norm stands behind what makes it"),
        (convolutions(nn.InstanceNorm2d(4)), "a norm stands behind what makes it"),
        (convolutions(nn.Sigmoid()), "what stands behind its producers makes something of zeros"),
        (
            nn.Sequential(Standardised(3, 4, 3), nn.Conv2d(4, 2, 1)),
            "the weight that makes it is computed from '0.weight'",
        ),
        (
            nn.Sequential(weight_norm(nn.Conv2d(3, 4, 3)), nn.Conv2d(4, 2, 1)),
            r"'0\.parametrizations\.weight\.original0' makes it under a parametrization",
        ),
    ],
)
def test_what_cannot_stand_there_is_said_and_left_out(net: nn.Module, reason: str) -> None:
    graph = ramify.trace(net, IMAGE)
    kept, name = snapshot(net), graph.groups[0].name
    assert len(ramify.gate(graph, [name])) == 1
    ramify.fold(net)
    with pytest.raises(ramify.RamifyError, match=f"'{name}' cannot be gated: {reason}"):
        ramify.gate(graph, [name], at="producers")
    with pytest.raises(ramify.RamifyError, match="there is no group to gate"):
        ramify.gate(graph, at="producers")
    assert snapshot(net) == kept


def test_an_unknown_place_is_said() -> None:
    graph = ramify.trace(convolutions(), IMAGE)
    with pytest.raises(ramify.RamifyError, match="at is 'here': give one of consumers, producers"):
        ramify.gate(graph, at="here")  # type: ignore[arg-type]
