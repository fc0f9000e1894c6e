"""What follows an edit: optimizer state and followers; and that a failed edit leaves no trace."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

import ramify
from ramify import Prune, RamifyError, Split
from tests.checks import distance, outputs, snapshot
from tests.nets import Similar

Parameters = Iterable[nn.Parameter]


class Net(nn.Module):
    """Norms, a residual stream, a depthwise layer, a gate and a flatten: every kind of role."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.n = nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.b, self.c = nn.Conv2d(4, 3, 3, padding=1), nn.Conv2d(3, 4, 1)
        self.depth = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.gate, self.e = nn.Linear(4, 4), nn.Linear(4 * 9, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.n(self.a(x)))
        x = self.depth(x + self.c(torch.tanh(self.b(x))))
        x = x * torch.sigmoid(self.gate(x.mean((2, 3))))[:, :, None, None]
        return self.e(x.flatten(1))


EDITS = [Split("a", 1, (0.3, 0.7)), Split("b", 0, (1.4, -0.4)), Split("b", 2, (0.2, 0.3, 0.5))]


def net() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(2)
    return Net().double(), torch.randn(3, 2, 3, 3, dtype=torch.float64)


def steps(
    model: nn.Module, x: Tensor, optimizer: Optimizer, count: int, scale: float = 1.0
) -> None:
    """Training steps on different data, by a loss that is multiplied."""
    model.train()
    for step in range(count):
        optimizer.zero_grad()
        (scale * model(x + 0.1 * step).square().sum()).backward()
        optimizer.step()


MEANS = {"exp_avg", "momentum_buffer", "prev", "ax", "step", "eta", "mu", "mu_product"}
OPTIMIZERS: dict[str, Callable[[Parameters], Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.0, momentum=0.9),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.0, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.0),
    "adamax": lambda p: torch.optim.Adamax(p, lr=0.0),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.0),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.0, step_sizes=(0.0, 0.0)),
    "asgd": lambda p: torch.optim.ASGD(p, lr=0.0, t0=0.0),
    "muon": lambda p: torch.optim.Muon((q for q in p if q.dim() == 2), lr=0.0),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_means_of_gradients_are_those_of_copies_that_were_always_there(name: str) -> None:
    """At learning rate 0, those of a net split before k steps equal the carried ones."""
    model, x = net()
    optimizer = OPTIMIZERS[name](model.parameters())
    steps(model, x, optimizer, 4)
    ramify.apply(ramify.trace(model, x), EDITS, optimizer=optimizer)

    truth, _ = net()
    ramify.apply(ramify.trace(truth, x), EDITS)
    expected = OPTIMIZERS[name](truth.parameters())
    steps(truth, x, expected, 4)
    compared = set()
    for (key, one), two in zip(model.named_parameters(), truth.parameters(), strict=True):
        state = optimizer.state[one]
        assert state.keys() == expected.state[two].keys()
        for entry in state.keys() & MEANS:
            compared.add(entry)
            torch.testing.assert_close(
                state[entry],
                expected.state[two][entry],
                rtol=1e-7,
                atol=1e-10,
                msg=f"{entry} of {key}",
            )
    assert compared - {"step"}


# The state is that of gradients 10⁸ as large as the last, which it therefore outweighs. Rates make
# up for the size of the steps.
PACED: dict[str, Callable[[Parameters], Optimizer]] = {
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2),
    "adamw-amsgrad": lambda p: torch.optim.AdamW(p, lr=1e-2, amsgrad=True, weight_decay=0.3),
    "adamax": lambda p: torch.optim.Adamax(p, lr=1e-2),
    "nadam": lambda p: torch.optim.NAdam(p, lr=1e-2),
    "radam": lambda p: torch.optim.RAdam(p, lr=1e-2),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e6),
    "adadelta": lambda p: torch.optim.Adadelta(p, lr=1e8, eps=1e-30),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e6),
    "rmsprop-centered": lambda p: torch.optim.RMSprop(p, lr=1e6, centered=True),
    "rmsprop-momentum": lambda p: torch.optim.RMSprop(p, lr=1e-2, momentum=0.9),
    "rprop": lambda p: torch.optim.Rprop(p, lr=1e-6),
}


@pytest.mark.parametrize("name", PACED)
def test_a_split_and_a_step_commute(name: str) -> None:
    commute(name, *net(), [Split("a", 1, (0.3, 0.7)), Split("b", 2, (0.2, 0.3, 0.5))])


@pytest.mark.parametrize("name", ["adam", "adadelta"])
def test_a_split_and_a_step_commute_where_rows_take_the_share(name: str) -> None:
    """Queries take the shares of copies, and make up for a softmax that scales by their number."""
    torch.manual_seed(2)
    model, x = Similar().double(), torch.randn(3, 5, 4).double()
    commute(name, model, x, [Split("q:2", 1, (0.3, 0.7)), Split("v", 0, (0.6, 0.4))])


def commute(name: str, model: nn.Module, x: Tensor, edits: list[Split]) -> None:
    """The step of the split net is the split of the step of the old one."""
    optimizer = PACED[name](model.parameters())
    for group in optimizer.param_groups:
        group["lr"], rate = 0.0, group["lr"]
    steps(model, x, optimizer, 8, scale=1e8)
    for group in optimizer.param_groups:
        group["lr"] = rate
    for state in optimizer.state.values():
        for entry in state.keys() & {"acc_delta", "step_size"}:
            state[entry].uniform_(0.01, 0.02)  # begin at constants, which no edit can scale
    before = outputs(model, x)
    other, after = copy.deepcopy((model, optimizer))

    steps(model, x, optimizer, 1)
    ramify.apply(ramify.trace(model, x), edits)
    ramify.apply(ramify.trace(other, x), edits, optimizer=after)
    steps(other, x, after, 1)
    assert distance(outputs(model, x), outputs(other, x)) < 1e-7
    assert distance(outputs(model, x), before) > 1e-3
    for (key, one), two in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-7, atol=1e-8, msg=key)


def test_the_pace_of_shares_that_are_negative_tiny_and_none() -> None:
    """By hand: incoming rows have g = w and f = 1, outgoing columns g = 1 and f = w."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3)), torch.randn(5, 2)
    adam, rms = (
        torch.optim.Adam(model.parameters()),
        torch.optim.RMSprop(model.parameters(), momentum=0.9, centered=True),
    )
    for optimizer in (adam, rms):
        steps(model, x, optimizer, 3)
    before = copy.deepcopy([[o.state[p] for p in model.parameters()] for o in (adam, rms)])
    edits = [Split("0", 0, (1.4, -0.4)), Split("0", 1, (0.02, 0.98)), Split("0", 2, (1.0, 0.0))]
    ramify.apply(ramify.trace(model, x), edits, optimizer=[adam, rms])
    share = torch.tensor([1.4, 0.02, 1.0, 1.0, -0.4, 0.98, 0.0])
    counted = torch.tensor([1.4, 0.1, 1.0, 1.0, 0.4, 0.98, 1.0])
    root = torch.tensor([1.4, 0.02, 1.0, 1.0, 0.4, 0.98, 1.0])
    old = [0, 1, 2, 3, 0, 1, 2]
    expected = {
        (0, 0, "exp_avg"): share,
        (0, 0, "exp_avg_sq"): root**2,
        (0, 2, "exp_avg"): torch.ones(7),
        (0, 2, "exp_avg_sq"): counted**-2,
        (1, 0, "grad_avg"): share,
        (1, 0, "square_avg"): root**2,
        (1, 0, "momentum_buffer"): share.sign(),
        (1, 2, "grad_avg"): 1 / counted,
        (1, 2, "square_avg"): counted**-2,
        (1, 2, "momentum_buffer"): counted,
    }
    parameters = list(model.parameters())
    for (which, number, entry), factor in expected.items():
        found = (adam, rms)[which].state[parameters[number]][entry]
        value = before[which][number][entry]
        wanted = value[old] * factor[:, None] if number == 0 else value[:, old] * factor
        torch.testing.assert_close(found, wanted, msg=f"{entry} of {number}")


def test_several_groups_absent_parameters_and_identity() -> None:
    model, x = net()
    model.gate.weight.requires_grad_(False)
    groups = [
        {"params": [model.a.weight, model.b.weight], "lr": 0.1},
        {"params": [model.c.weight, model.e.weight, model.b.bias], "lr": 0.01},
    ]
    one = torch.optim.SGD(groups, momentum=0.9)
    two = torch.optim.AdamW([model.n.weight, model.n.bias])
    for optimizer in (one, two):
        steps(model, x, optimizer, 2)
    before = [[id(p) for p in g["params"]] for o in (one, two) for g in o.param_groups]
    graph = ramify.apply(ramify.trace(model, x), [*EDITS, Prune("a", 0)], optimizer=[one, two])
    after = [[id(p) for p in g["params"]] for o in (one, two) for g in o.param_groups]
    assert before == after
    assert graph["a"].width == 4
    assert not model.gate.weight.requires_grad
    for optimizer in (one, two):
        for parameter, state in optimizer.state.items():
            assert all(v.shape in (parameter.shape, ()) for v in state.values())
        steps(model, x, optimizer, 2)
    ramify.trace(model, x)


def test_a_pruned_channel_leaves_the_others_moments() -> None:
    model, x = net()
    optimizer = torch.optim.Adam(model.parameters())
    steps(model, x, optimizer, 3)
    old = optimizer.state[model.b.weight]["exp_avg"].clone()
    step = optimizer.state[model.b.weight]["step"].clone()
    ramify.apply(ramify.trace(model, x), [Prune("b", 1), Prune("a", 3)], optimizer=optimizer)
    kept = old[[0, 2]][:, [0, 1, 2]]
    assert torch.equal(optimizer.state[model.b.weight]["exp_avg"], kept)
    assert torch.equal(optimizer.state[model.b.weight]["step"], step)


# ------------------------------------------------------------------------------- followers


def test_followers_follow() -> None:
    """A copy, a weight average and a table with other values take the same edit."""
    model, x = net()
    model.eval()
    teacher = copy.deepcopy(model)
    average = AveragedModel(model)
    with torch.no_grad():
        for parameter in [*teacher.parameters(), *average.parameters()]:
            parameter.add_(0.1)
    table = {k: v.clone() for k, v in teacher.state_dict().items()}
    objects = [id(p) for p in teacher.parameters()]
    wanted = [outputs(each, x) for each in (teacher, average)]
    move = {"b.weight": torch.randn(2, 4, 3, 3).double(), "b.bias": torch.randn(2).double()}
    edits = [Split("a", 1, (0.3, 0.7)), Split("b", 1)]
    graph = ramify.apply(ramify.trace(model, x), edits, followers=[teacher, average, table])
    for each, before in zip((teacher, average), wanted, strict=True):
        assert distance(before, outputs(each, x)) < 1e-12
    model.load_state_dict(table)
    assert distance(wanted[0], outputs(model, x)) < 1e-12
    assert [id(p) for p in teacher.parameters()] == objects
    assert teacher.b.out_channels == average.module.b.out_channels == 4
    old = [each.b.weight.detach().clone() for each in (teacher, average.module)]
    move["b.weight"] = torch.randn(2, 5, 3, 3).double()
    ramify.apply(graph, [Split("b", 0, offsets=move)], followers=[teacher, average, table])
    for each, weight in zip((teacher, average.module), old, strict=True):
        torch.testing.assert_close(each.b.weight[4], weight[0] + move["b.weight"][1])
    assert torch.equal(table["b.weight"], teacher.b.weight)
    assert distance(outputs(average, x), outputs(average.module, x)) == 0


def test_a_follower_with_tied_names_and_a_model_that_follows_itself() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
            self.head.weight = self.table.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.tanh(self.table(x)))

    model = Tied()
    table = model.state_dict()
    graph = ramify.trace(model, torch.tensor([[0, 1]]))
    ramify.apply(graph, [Prune("table:1", 2)], followers=[table, model])
    assert table["table.weight"].shape == table["head.weight"].shape == (5, 3)
    assert model.table.weight.shape == (5, 3)

    model, x = net()
    move = torch.randn(2, 4, 3, 3).double()
    expected = model.b.weight[0].detach() + move[1]
    ramify.apply(
        ramify.trace(model, x), [Split("b", 0, offsets={"b.weight": move})], followers=[model]
    )
    torch.testing.assert_close(model.b.weight[3].detach(), expected)


def test_a_compiled_follower_follows() -> None:
    model, x = net()
    average = copy.deepcopy(model)
    ramify.apply(ramify.trace(model, x), EDITS, followers=[torch.compile(average)])
    assert distance(outputs(model, x), outputs(average, x)) < 1e-12


def test_a_follower_whose_own_child_is_called_module() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(self.module(x)))

    model, x = Outer(), torch.randn(5, 3)
    twin = copy.deepcopy(model)
    ramify.apply(ramify.trace(model, x), [Split("module", 1)], followers=[twin])
    assert torch.equal(twin(x), model(x))


# ---------------------------------------------------------------------------- all or nothing


class Foreign(torch.optim.SGD):
    """Keeps something of a shape that belongs to no parameter."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["sketch"] = torch.zeros(3, 7)
        return super().step(closure)


def fail(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def wrong_follower() -> dict[str, Tensor]:
    table = net()[0].state_dict()
    table["c.weight"] = torch.zeros(4, 4, 1, 1)
    return table


FAILURES: dict[str, dict[str, Any]] = {
    "bad offset": {"edits": [*EDITS, Split("a", 0, offsets={"a.weight": torch.zeros(3)})]},
    "unknown group": {"edits": [*EDITS, Prune("zzz", 0)]},
    "foreign state": {"optimizer": lambda p: Foreign(p, lr=0.1), "says": "keeps 'sketch' of shape"},
    "adafactor": {
        "optimizer": lambda p: torch.optim.Adafactor(p),
        "says": "Adafactor keeps '.*' of shape",
    },
    "lbfgs": {
        "optimizer": lambda p: torch.optim.LBFGS(p),
        "says": "LBFGS keeps one history for all",
    },
    "follower of another shape": {"follower": wrong_follower, "says": "for 'c.weight' of shape"},
    "follower without it": {"follower": dict, "says": "this one has nothing"},
    "other network": {"follower": lambda: nn.Linear(2, 2), "says": "this one has nothing"},
    "check fails": {"break": "apply._check_outputs", "error": KeyboardInterrupt},
    "plan fails": {"break": "apply._follow", "error": KeyboardInterrupt},
    "attributes fail": {"break": "carry._stage_attributes", "error": KeyboardInterrupt},
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failed_edit_leaves_everything_bit_for_bit(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = FAILURES[name]
    model, x = net()
    model.b.register_forward_hook(lambda *_: None)
    make = case.get("optimizer", lambda p: torch.optim.Adam(p))
    optimizer = make(model.parameters())
    twin = copy.deepcopy(model)
    if name == "lbfgs":
        optimizer.step(lambda: loss(model, x))
    else:
        steps(model, x, optimizer, 2)
    graph = ramify.trace(model, x)
    followers = [twin, twin.state_dict(), *([case["follower"]()] if "follower" in case else [])]
    if "break" in case:
        monkeypatch.setattr(f"ramify.edit.{case['break']}", fail)
    before = snapshot(model, optimizer, *followers)
    with pytest.raises(case.get("error", RamifyError), match=case.get("says")):
        ramify.apply(graph, case.get("edits", EDITS), optimizer=optimizer, followers=followers)
    assert snapshot(model, optimizer, *followers) == before
    monkeypatch.undo()
    ramify.apply(graph, EDITS, followers=[twin])  # and the graph is as good as before


def loss(model: nn.Module, x: Tensor) -> Tensor:
    model.zero_grad()
    value = model(x).square().sum()
    value.backward()
    return value


def test_a_forward_that_fails_after_the_edit_takes_it_back() -> None:
    class Fragile(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.limit = nn.Linear(3, 4), nn.Linear(4, 2), 99

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            if x.size(1) > self.limit:
                raise MemoryError("too wide")
            return self.b(x)

    model = Fragile()
    graph = ramify.trace(model, torch.randn(2, 3))
    model.limit = 4
    loss(model, torch.randn(2, 3))
    before = snapshot(model)
    with pytest.raises(RamifyError, match=r"does not run \(MemoryError: too wide\), .* taken back"):
        ramify.apply(graph, [Split("a", 0)])
    assert snapshot(model) == before
    loss(model, torch.randn(2, 3))


def test_sparse_gradients_follow() -> None:
    model = nn.Sequential(nn.Embedding(7, 4, sparse=True), nn.Flatten(), nn.Linear(12, 2))
    x = torch.tensor([[0, 3, 3], [6, 1, 0]])
    model(x).sum().backward()
    old = model[0].weight.grad.to_dense()
    ramify.apply(ramify.trace(model, x), [Split("0", 1, (0.25, 0.75)), Prune("0", 3)])
    grad = model[0].weight.grad
    assert grad.is_sparse
    expected = torch.stack([old[:, 0], 0.25 * old[:, 1], old[:, 2], 0.75 * old[:, 1]], dim=1)
    torch.testing.assert_close(grad.to_dense(), expected)


class Wrapper(Optimizer):
    """An optimizer that passes everything on to another, as that of accelerate does."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer

    state = property(lambda self: self.optimizer.state)  # type: ignore[assignment]
    param_groups = property(lambda self: self.optimizer.param_groups)  # type: ignore[assignment]


def test_a_wrapped_optimizer_is_carried_by_its_own_laws() -> None:
    carried = []
    for wrap in (
        lambda optimizer: optimizer,
        Wrapper,
        lambda optimizer: Wrapper(Wrapper(optimizer)),
    ):
        torch.manual_seed(0)
        net, x = Net().eval(), torch.randn(3, 2, 3, 3)
        optimizer = torch.optim.RMSprop(net.parameters(), momentum=0.9)
        net(x).square().sum().backward()
        optimizer.step()
        ramify.apply(ramify.trace(net, x), EDITS, optimizer=wrap(optimizer))
        carried.append([optimizer.state[p]["momentum_buffer"] for p in net.parameters()])
    for state in carried[1:]:
        assert all(torch.equal(a, b) for a, b in zip(carried[0], state, strict=True))
    lbfgs = torch.optim.LBFGS(net.parameters())
    lbfgs.step(lambda: net(x).square().sum())
    with pytest.raises(RamifyError, match="LBFGS keeps one history for all"):
        ramify.apply(ramify.trace(net, x), [Split("a", 0)], optimizer=Wrapper(lbfgs))
