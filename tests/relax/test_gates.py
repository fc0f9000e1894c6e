"""Width gates multiply what consumers read, cost nothing at 1, and fold into the weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor, nn

import ramify
from ramify import Prune
from tests.checks import call, distance, outputs, snapshot
from tests.programs import SIDE, Network, Step, programs
from tests.relax.gated import CASES, by_hand, made
from tests.structures.base import scatter

LANGUAGE = ("swin", "gpt2", "llama")


def network(name: str) -> tuple[nn.Module, Any]:
    if name in LANGUAGE:
        pytest.importorskip("transformers", reason="the extra `transformers` is not installed")
    return made(name)


def exactly(model: nn.Module, inputs: Any) -> list[Tensor]:
    """Outputs where autograd records: without it torch multiplies a parameter in another order."""
    return [tensor.detach() for tensor in call(model, inputs)]


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def fill(gates: ramify.relax.Gates) -> dict[str, Tensor]:
    """Random values of both signs; as plain tensors by group."""
    with torch.no_grad():
        for alpha in gates:
            alpha.copy_(torch.randn_like(alpha))
    return {name: alpha.detach().clone() for name, alpha in gates.items()}


@pytest.mark.parametrize("name", CASES)
def test_gates_multiply_what_consumers_read(name: str) -> None:
    """At 1 bit for bit nothing; else what hooks on the consumers give, in values and gradients."""
    model, inputs = network(name)
    before = exactly(model, inputs)
    gates = ramify.gate(ramify.trace(model, inputs))
    assert equal(before, exactly(model, inputs))
    assert all(bool((alpha == 1).all()) for alpha in gates)
    alphas = {name: alpha.requires_grad_() for name, alpha in fill(gates).items()}
    found = call(model, inputs)
    weights = [torch.randn_like(t) for t in found]
    slopes = torch.autograd.grad(found, list(gates), weights)
    with torch.no_grad():
        for alpha in gates:
            alpha.fill_(1.0)
    with by_hand(name, model, alphas):
        expected = call(model, inputs)
    by = torch.autograd.grad(expected, list(alphas.values()), weights)
    assert distance(outputs(model, inputs), [t.detach() for t in expected]) > 1e-3
    assert distance([t.detach() for t in expected], [t.detach() for t in found]) < 1e-12
    assert distance(list(by), list(slopes)) < 1e-10


@pytest.mark.parametrize("name", CASES)
def test_folding_is_exact_and_gives_everything_back(name: str) -> None:
    model, inputs = network(name)
    graph = ramify.trace(model, inputs)
    kept = snapshot(model)
    gates = ramify.gate(graph)
    assert len(list(gates)) == len(gates) == len(dict(gates.items()))
    scores = ramify.fold(gates)
    assert snapshot(model) == kept  # names, order, objects, classes and bytes
    assert all(bool((alpha == 1).all()) for alpha in scores.values())
    gates = ramify.gate(graph)
    alphas = fill(gates)
    before = exactly(model, inputs)
    scores = ramify.fold(model)
    assert equal(before, exactly(model, inputs))
    assert all(torch.equal(scores[n], alphas[n]) for n in alphas)
    assert scores.keys() == alphas.keys()


@pytest.mark.parametrize("name", CASES)
def test_channels_of_zero_gates_can_go(name: str) -> None:
    """The graph that was gated is valid again, and a prune where the gate is 0 changes nothing."""
    model, inputs = network(name)
    graph = ramify.trace(model, inputs)
    gates = ramify.gate(graph)
    fill(gates)
    with torch.no_grad():
        for alpha in gates:
            alpha[0] = 0.0
    ramify.fold(graph)
    before = outputs(model, inputs)
    ramify.apply(graph, [Prune(name, 0) for name, _ in gates.items()])
    assert distance(before, outputs(model, inputs)) < 1e-12


def test_a_norm_does_not_cancel_a_gate() -> None:
    """Between the layers lies a batch norm, in train mode: what makes the channel would not do."""
    model, x = network("cnn")
    gates = ramify.gate(ramify.trace(model, x))
    model.train()
    seen: list[Tensor] = []
    # The consumer's output is linear in its reads: of one channel alone, it is their contribution.
    model.get_submodule("b").register_forward_hook(lambda m, args, out: seen.append(out.detach()))
    bias = model.get_submodule("b").bias.detach()[:, None, None]
    with torch.no_grad():
        gates["a"].zero_()
        for value in (1.0, 2.0):
            gates["a"][2] = value
            model(x)
    assert distance([2 * (seen[0] - bias)], [seen[1] - bias]) < 1e-12
    assert float((seen[0] - bias).abs().max()) > 0.1


@pytest.mark.filterwarnings("ignore:.*was not reached")
@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(programs)
def test_random_networks(program: tuple[int, list[Step], int]) -> None:
    """Every gate of every network: nothing at 1, exact to fold, and zero ones can go."""
    torch.manual_seed(0)
    model = Network(*program).double().eval()
    scatter(model)
    x = torch.randn(2, 2, SIDE, SIDE, dtype=torch.float64)
    graph = ramify.trace(model, x)
    before = exactly(model, x)
    names = [(n, id(p)) for n, p in model.named_parameters()]
    if not any(group.prune_exact and group.can_split for group in graph.groups):
        with pytest.raises(ramify.RamifyError, match="there is no group to gate"):
            ramify.gate(graph)
        return
    gates = ramify.gate(graph)
    assert equal(before, exactly(model, x))
    with torch.no_grad():
        for alpha in gates:
            alpha.copy_(torch.linspace(-1.0, 1.5, len(alpha)) + 0.1)
            alpha[-1] = 0.0
    before = exactly(model, x)
    scores = ramify.fold(gates)
    assert equal(before, exactly(model, x))
    assert [(n, id(p)) for n, p in model.named_parameters()] == names
    ramify.apply(graph, [Prune(name, len(alpha) - 1) for name, alpha in scores.items()])
    assert distance(before, outputs(model, x)) < 1e-10
