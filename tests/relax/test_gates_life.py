"""Gates live with their model: copies, state, optimizers, modes; what cannot be gated is said."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrizations, parametrize

import ramify
from ramify.relax import Gates
from tests import nets


def sequential(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    layers = nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 2)
    return nn.Sequential(*layers).to(dtype)


X = torch.linspace(-1, 1, 12, dtype=torch.float64).view(3, 4)


def fill(gates: Gates) -> Gates:
    with torch.no_grad():
        for alpha in gates:
            alpha.copy_(torch.randn_like(alpha))
    return gates


def test_gates_by_name() -> None:
    model = nets.ConvNormSoftplus().eval()
    gates = ramify.gate(ramify.trace(model, torch.randn(2, 3, 6, 6)))
    assert isinstance(gates, Gates)
    assert gates.model is model
    assert len(gates) == 2
    assert [name for name, _ in gates.items()] == ["a", "b"]
    assert [alpha.shape for alpha in gates] == [(4,), (4,)]
    assert list(gates.state_dict()) == ["a", "b"]
    assert gates["b"] is list(gates)[1]
    assert {"ramify_gates.a", "ramify_gates.b"} <= model.state_dict().keys()
    assert not any(module.training for module in model.modules())
    with pytest.raises(ramify.RamifyError, match=r"no gates on 'bb' \(did you mean 'b'\?\)"):
        gates["bb"]
    # Names with dots, and one that a module has already.
    model = nn.ModuleDict({"check": nn.Linear(4, 3), "rest": nn.Sequential(sequential(X.dtype))})
    model["check"], model["rest"] = nn.Linear(4, 4).double(), nn.Sequential(sequential())
    model.forward = lambda x: model["rest"](torch.relu(model["check"](x)))  # type: ignore[method-assign]
    gates = ramify.gate(ramify.trace(model, X))
    assert list(gates.state_dict()) == ["check/", "rest/0/0", "rest/0/2"]
    assert gates["check"].shape == (4,)
    assert list(ramify.fold(model)) == ["check", "rest.0.0", "rest.0.2"]


def test_state_dicts_bring_weights_and_gates() -> None:
    model, other = sequential(), sequential()
    for net in (model, other):
        fill(ramify.gate(ramify.trace(net, X)))
    expected = model(X)
    assert not torch.equal(other(X), expected)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(X), expected)
    ramify.fold(other)
    assert torch.equal(other(X), expected)
    assert list(other.state_dict()) == list(sequential().state_dict())


def test_copies_are_gated_and_folded_by_themselves() -> None:
    model = sequential()
    graph = ramify.trace(model, X)
    fill(ramify.gate(graph))
    twin, part, expected = copy.deepcopy(model), copy.deepcopy(model[2]), model(X)
    weight = part.weight.detach().clone()
    own = twin.get_submodule("ramify_gates")
    assert isinstance(own, Gates)
    assert own.model is twin
    ramify.fold(model)
    assert torch.equal(twin(X), expected)
    assert torch.equal(part.weight, weight)
    with torch.no_grad():
        own["0"].zero_()
    assert not torch.equal(twin(X), expected)
    assert torch.equal(model(X), expected)
    folded = twin(X)
    ramify.fold(own)
    assert torch.equal(twin(X), folded)
    assert type(twin[2]) is nn.Linear
    ramify.fold(fill(ramify.gate(graph)))  # the graph of the model is valid for gates again


def test_functional_calls_replace_weights_and_gates() -> None:
    """RARTS holds a second copy of the weights as a dict of tensors, under the same gates."""
    model = sequential()
    gates = fill(ramify.gate(ramify.trace(model, X)))
    alphas = {id(alpha) for alpha in gates}
    weights = {
        name: torch.randn_like(p).requires_grad_()
        for name, p in model.named_parameters()
        if id(p) not in alphas
    }
    out = functional_call(model, weights, (X,))
    hidden = torch.relu(X @ weights["0.weight"].T + weights["0.bias"])
    read = weights["2.parametrizations.weight.original"]
    hidden = torch.tanh((gates["0"] * hidden) @ read.T + weights["2.bias"])
    read = weights["4.parametrizations.weight.original"]
    by_hand = (gates["2"] * hidden) @ read.T + weights["4.bias"]
    assert torch.allclose(out, by_hand, rtol=0, atol=1e-12)
    every = [*weights.values(), *gates]
    slopes, expected = (torch.autograd.grad(y.square().sum(), every) for y in (out, by_hand))
    assert all(torch.allclose(a, b, atol=1e-11) for a, b in zip(slopes, expected, strict=True))
    out = functional_call(model, {"ramify_gates.2": torch.zeros(6, dtype=X.dtype)}, (X,))
    assert torch.equal(out, model[4].bias.expand(3, 2))


def test_optimizers_hold_the_same_parameters_throughout() -> None:
    """Training under gates that stay 1, and after them, is training without."""
    model, plain = sequential(), sequential()
    plain.load_state_dict(model.state_dict())
    optimizers = [torch.optim.AdamW(net.parameters(), lr=0.1) for net in (model, plain)]
    names = [(name, id(p)) for name, p in model.named_parameters()]
    graph = ramify.trace(model, X)

    def steps() -> None:
        for net, optimizer in zip((model, plain), optimizers, strict=True):
            for _ in range(2):
                optimizer.zero_grad()
                net(X).square().sum().backward()
                optimizer.step()
        assert torch.equal(model(X), plain(X))

    steps()
    gates = ramify.gate(graph)
    steps()
    assert all(alpha.grad is not None for alpha in gates)
    ramify.fold(graph)
    assert [(name, id(p)) for name, p in model.named_parameters()] == names
    steps()
    for net, optimizer in zip((model, plain), optimizers, strict=True):
        edits = [ramify.Prune("0", 1), ramify.Split("2", 3)]
        ramify.apply(ramify.trace(net, X), edits, optimizer=optimizer)
    steps()


def test_frozen_weights_get_gates_that_learn() -> None:
    model = sequential().requires_grad_(False)
    gates = ramify.gate(ramify.trace(model, X))
    model(X).sum().backward()
    assert all(alpha.grad is not None and bool(alpha.grad.any()) for alpha in gates)
    ramify.fold(model)
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    """Gates of float32, whose steps near 1 half precision would round away."""
    model, x = sequential(dtype), X.to(dtype)
    before = model(x)
    gates = ramify.gate(ramify.trace(model, x))
    assert torch.equal(model(x), before)
    fill(gates)
    after = model(x)
    assert all(alpha.dtype == torch.float32 for alpha in gates)
    assert after.dtype == dtype
    ramify.fold(model)
    assert torch.equal(model(x), after)
    assert model[2].weight.dtype == dtype
    ramify.gate(ramify.trace(model, x))
    assert {p.dtype for p in model.double().parameters()} == {torch.float64}  # they move along
    assert model(X).dtype == torch.float64


def test_mixed_precision_and_training() -> None:
    model = nets.ConvNormSoftplus()
    x = torch.randn(4, 3, 6, 6)
    graph = ramify.trace(model, x)
    twin = copy.deepcopy(model)
    gates = ramify.gate(graph)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.train()(x), twin.train()(x))
        fill(gates)
        after = model(x)
        after.float().sum().backward()
        assert all(alpha.grad is not None and alpha.grad.dtype == alpha.dtype for alpha in gates)
        ramify.fold(model)
        assert torch.equal(model(x), after)


def test_compiled() -> None:
    model = sequential()
    gates = fill(ramify.gate(ramify.trace(model, X)))
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.equal(compiled(X), model(X))
    fill(gates)
    assert torch.equal(compiled(X), model(X))
    ramify.fold(model)
    torch.compiler.reset()


def test_groups_may_share_their_gates() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 2))
    model = model.double()
    graph = ramify.trace(model, X)
    gates = fill(ramify.gate(graph, [("0", "2")]))
    assert len(gates) == 1
    assert gates["0"] is gates["2"]
    assert gates.groups == (("0", "2"),)
    h = torch.relu(model[0](X)) * gates["0"]
    weights = [model.get_parameter(f"{n}.parametrizations.weight.original") for n in (2, 4)]
    h = torch.relu(h @ weights[0].T + model[2].bias) * gates["0"]
    expected = h @ weights[1].T + model[4].bias
    assert torch.allclose(model(X), expected, rtol=0, atol=1e-12)
    scores = ramify.fold(model)
    assert torch.allclose(model(X), expected, rtol=0, atol=1e-12)
    assert torch.equal(scores["0"], scores["2"])


def test_a_tied_reader_is_gated_wherever_it_reads() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(5, 6), nn.Linear(5, 6)
            self.c.weight, self.d = self.b.weight, nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.tanh(self.a(x))
            return self.d(torch.tanh(self.b(x)) + torch.tanh(self.c(x)))

    model = Tied().double()
    names = list(model.state_dict())
    gates = fill(ramify.gate(ramify.trace(model, X)))
    h, w = (
        torch.tanh(model.a(X)) * gates["a"],
        model.get_parameter("b.parametrizations.weight.original"),
    )
    h = torch.tanh(h @ w.T + model.b.bias) + torch.tanh(h @ w.T + model.c.bias)
    expected = model.d(h)  # with its own gates
    assert torch.allclose(model(X), expected, rtol=0, atol=1e-12)
    ramify.fold(model)
    assert torch.allclose(model(X), expected, rtol=0, atol=1e-12)
    assert model.c.weight is model.b.weight
    assert list(model.state_dict()) == names


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.l = nn.Linear(4, 3), nn.LSTM(3, 5, batch_first=True)
        self.c, self.d = nn.Linear(5, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.d(torch.relu(self.c(self.l(torch.relu(self.a(x))[:, None])[0][:, 0])))


class Past(nn.Module):
    """Reads a weight by another way than its attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(5, 6), nn.Linear(6, 2)
        self.held = [self.b.weight]

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(nn.functional.linear(torch.relu(self.a(x)), self.held[0], self.b.bias))
        return self.c(x)


class ByTable(Past):
    def forward(self, x: Tensor) -> Tensor:
        self.held = [self.b._parameters["weight"]]  # type: ignore[list-item]
        return super().forward(x)


class Scaled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def under(parametrize_: Callable[[nn.Module], object]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        model = sequential()
        parametrize_(model[2])
        return model

    return build


REFUSED: list[tuple[Callable[[], nn.Module], str, str, list[str]]] = [
    (
        Recurrent,
        "a",
        r"'l\.weight_ih_l0' reads it, and LSTM does not read a parametrized weight",
        ["c"],
    ),
    (Past, "a", "past any gate .a gate there changes nothing", ["b"]),
    (ByTable, "a", "past any gate .KeyError", ["b"]),
    (
        under(lambda m: parametrize.register_parametrization(m, "weight", Scaled())),
        "0",
        r"'2\.parametrizations\.weight\.original' reads it under a parametrization",
        ["2"],
    ),
    (under(parametrizations.weight_norm), "0", "normalises the weight over them", ["2"]),
    (under(parametrizations.spectral_norm), "0", "reads the channels without a weight", []),
    (under(nn.utils.spectral_norm), "0", "reads the channels without a weight", []),
    (sequential, "4", "it is an output of the model", ["0", "2"]),
]


@pytest.mark.parametrize(
    "build, group, why, left", REFUSED, ids=[str(n) for n in range(len(REFUSED))]
)
def test_what_cannot_be_gated_is_said_or_left_out(
    build: Callable[[], nn.Module], group: str, why: str, left: list[str]
) -> None:
    model = build().double()
    graph = ramify.trace(model, X)
    names, kinds = list(model.state_dict()), [type(m) for m in model.modules()]
    with pytest.raises(ramify.RamifyError, match=f"'{group}'.*{why}"):
        ramify.gate(graph, [group])
    assert list(model.state_dict()) == names
    assert [type(m) for m in model.modules()] == kinds
    if not left:
        with pytest.raises(ramify.RamifyError, match="there is no group to gate"):
            ramify.gate(graph)
        return
    before = model(X)
    gates = ramify.gate(graph)
    assert [name for name, _ in gates.items()] == left
    assert torch.equal(model(X), before)
    fill(gates)
    after = model(X)
    ramify.fold(graph)
    assert torch.equal(model(X), after)
    assert not torch.equal(before, after)


def test_another_parametrization_of_the_same_module_stays() -> None:
    model = sequential()
    parametrize.register_parametrization(model[2], "bias", Scaled())
    twin = copy.deepcopy(model)
    before = model(X)
    fill(ramify.gate(ramify.trace(model, X)))
    assert torch.equal(twin(X), before)  # copies share the class that torch made
    after, names = model(X), list(twin.state_dict())
    late = copy.deepcopy(model)
    ramify.fold(model)
    assert torch.equal(model(X), after)
    assert torch.equal(late(X), after)
    assert list(model.state_dict()) == names
    assert torch.equal(model[2].bias, 2 * model[2].parametrizations.bias.original)


def test_fused_attention_layers_read_gated_weights() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, dropout=0.0).double().eval()
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    gates = fill(ramify.gate(ramify.trace(layer, x)))
    assert {"linear1", "self_attn:0"} <= {name for name, _ in gates.items()}
    expected = layer(x)
    with torch.no_grad():  # the fast path
        assert torch.allclose(layer(x), expected, rtol=0, atol=1e-12)
    ramify.fold(gates)
    assert torch.allclose(layer(x), expected, rtol=0, atol=1e-12)


def test_while_gated_edits_and_traces_ask_for_fold() -> None:
    model = sequential()
    graph = ramify.trace(model, X)
    params = ramify.cost.graph_cost(graph).params
    ramify.gate(graph)
    again: list[Callable[[], object]] = [
        lambda: ramify.trace(model, X),
        lambda: ramify.trace(nn.Sequential(model), X),
        lambda: ramify.gate(graph),
        lambda: ramify.apply(graph, [ramify.Prune("0", 0)]),
        lambda: ramify.L1().propose(graph, nets.per_sample, []),
        lambda: ramify.latency.measure_edited(graph, [ramify.Prune("0", 0)]),
    ]
    for attempt in again:
        with pytest.raises(ramify.RamifyError, match=r"holds gates .*ramify\.fold"):
            attempt()
    assert ramify.cost.graph_cost(graph).params == params
    gates = model.get_submodule("ramify_gates")
    ramify.fold(gates)
    with pytest.raises(ramify.RamifyError, match="folded already"):
        ramify.fold(gates)
    with pytest.raises(ramify.RamifyError, match="this Sequential holds no gates"):
        ramify.fold(model)
    with pytest.raises(ramify.RamifyError, match="not a Tensor"):
        ramify.fold(X)  # type: ignore[arg-type]


def test_wrong_groups() -> None:
    model = sequential()
    graph = ramify.trace(model, X)
    for groups, why in (
        ([], "there is no group to gate"),
        (["0", "0"], "'0' is listed twice"),
        ([("0", "2")], "equally wide, not '0' 8, '2' 6"),
        (["1"], "'1'"),
        ([3], "a group goes by its name"),
        ("4", "'4' cannot be gated: it is an output of the model"),
    ):
        with pytest.raises(ramify.RamifyError, match=why):
            ramify.gate(graph, groups)
    assert list(ramify.gate(graph, "0").state_dict()) == ["0"]
    ramify.fold(model)
    model.ramify_gates = 3  # type: ignore[assignment]
    with pytest.raises(ramify.RamifyError, match="has an attribute 'ramify_gates'"):
        ramify.gate(graph)


def test_a_collapse_is_said() -> None:
    model = sequential()
    gates = fill(ramify.gate(ramify.trace(model, X)))
    gates.check()
    with torch.no_grad():
        gates["2"].fill_(1e-9)
    with pytest.raises(ramify.RamifyError, match="all 6 gates of '2' are zero"):
        gates.check()
    gates.check(threshold=1e-10)
    with torch.no_grad():
        gates["0"][3] = torch.nan
    for attempt in (gates.check, lambda: ramify.fold(model)):
        with pytest.raises(ramify.RamifyError, match="gates of '0' are not all finite"):
            attempt()
    assert "ramify_gates.0" in model.state_dict()  # nothing was folded


def test_what_came_later_goes_first() -> None:
    model = sequential()
    ramify.gate(ramify.trace(model, X))
    parametrize.register_parametrization(model[2], "weight", Scaled())
    with pytest.raises(ramify.RamifyError, match="'weight' of a Linear was parametrized again"):
        ramify.fold(model)


def test_buffers_that_read_are_gated_and_stay_out_of_state_dicts() -> None:
    class Fixed(nn.Module):
        w: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 5)
            self.register_buffer("w", torch.randn(2, 5), persistent=False)
            self.register_buffer("y", torch.randn(2))

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.a(x)) @ self.w.T + self.get_buffer("y")

    model = Fixed().double()
    names, buffers = list(model.state_dict()), [n for n, _ in model.named_buffers()]
    graph = ramify.trace(model, X)
    gates = fill(ramify.gate(graph))
    assert ramify.cost.graph_cost(graph).params == 4 * 5 + 5
    expected = (torch.relu(model.a(X)) * gates["a"]) @ model.parametrizations.w.original.T + model.y  # type: ignore[union-attr,operator]
    assert torch.allclose(model(X), expected, rtol=0, atol=1e-12)
    ramify.fold(model)
    assert torch.allclose(model(X), expected, rtol=0, atol=1e-12)
    assert list(model.state_dict()) == names
    assert [n for n, _ in model.named_buffers()] == buffers


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripts_take_no_gates() -> None:
    whole = torch.jit.script(sequential())
    with pytest.raises(ramify.RamifyError, match=r"the model is a script of torch\.jit, whose"):
        ramify.gate(ramify.trace(whole, X))
    first, *others = sequential()
    part = nn.Sequential(first, torch.jit.script(nn.Sequential(*others[:3])), others[3])
    graph, before = ramify.trace(part, X), part(X)
    with pytest.raises(
        ramify.RamifyError, match=r"'0' cannot be gated: '1\.1\.weight' reads it in"
    ):
        ramify.gate(graph, ["0"])
    assert [name for name, _ in ramify.gate(graph).items()] == ["1.1"]
    torch.testing.assert_close(part(X), before)


def test_why_there_is_nothing_to_gate() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.rnn = nn.Linear(4, 8), nn.GRU(8, 6, batch_first=True)
            self.head = nn.GRU(6, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(self.first(x))[0])[0]

    graph = ramify.trace(Recurrent(), torch.randn(3, 5, 4))
    says = r"no group to gate: .*; 'first' cannot be gated: .*GRU does not read a parametrized"
    with pytest.raises(ramify.RamifyError, match=says):
        ramify.gate(graph)
