"""Growing that may put blocks in: how they are weighed, what follows, and what is refused."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ramify
from ramify.errors import RamifyError
from ramify.select.width_bounds import WidthBounds
from ramify.store.model import recipe_of
from ramify.train import depth_rounds
from ramify.train.depth_rounds import RATE, Weighed, check_depth, weigh
from ramify.train.edit_trials import EditTrials
from ramify.train.epoch import Training
from ramify.train.fresh_networks import scratch
from ramify.train.grow import grow
from ramify.train.loop import LENGTHS, Grown
from tests.block_nets import ResNet
from tests.stop import Stop
from tests.train.growing import Batch, assert_equal, assert_same

STEPS = 6


class Residual(nn.Module):
    """A block of two linear layers."""

    def __init__(self, inner: int) -> None:
        super().__init__()
        self.wide, self.back = nn.Linear(4, inner), nn.Linear(inner, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.back(torch.tanh(self.wide(x)))


class Net(nn.Module):
    """Two lists of blocks, of one each."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.turn = nn.Sequential(Residual(2)), nn.Linear(4, 4)
        self.second, self.last = nn.Sequential(Residual(3)), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(torch.tanh(self.turn(self.first(x)))))


class Nothing:
    """A method without proposals."""

    def propose(self, graph: Any, loss: Any, batches: Any) -> list[ramify.Proposal]:
        return []


class Copies:
    """A method that copies one channel, and moves neither copy."""

    def propose(self, graph: Any, loss: Any, batches: Any) -> list[ramify.Proposal]:
        edit = ramify.Split("turn", 1)
        return [ramify.Proposal(edit, 1e-6, ramify.cost.graph_cost(graph, [edit]), graph=graph)]


def net() -> Net:
    torch.manual_seed(2)
    return Net()


def loss(model: nn.Module, batch: Batch) -> Tensor:
    return (model(batch[0]) - batch[1]).square().sum(1)


def data() -> list[Batch]:
    x = torch.randn(32, 4, generator=torch.Generator().manual_seed(3))
    return list(zip(x.split(8), (3 * x[:, :1] * x[:, 1:2]).sin().split(8), strict=True))


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(depth_rounds, "STEPS", STEPS)


def run(model: nn.Module, **settings: Any) -> Grown:
    given: dict[str, Any] = {"method": Nothing(), "rule": ramify.TopFraction(0.5), "rounds": 2}
    given |= {"training": Training(epochs=2, lr=0.1), "depth": True}
    return grow(model, torch.zeros(1, 4), loss, data(), **(given | settings))


def edits_of(done: Grown) -> list[dict[str, Any]]:
    return [event for event in done.history if event["event"] == "edit"]


def test_blocks_go_in_and_the_loss_stays() -> None:
    model, follower = net(), net()
    done = run(model, followers=[follower])
    first, second = edits_of(done)
    assert [one["behind"] for one in first["blocks"]["tried"] if one["inserted"]]
    assert all(abs(e["loss_after"] / e["loss_before"] - 1) < 1e-6 for e in (first, second))
    assert second["params_after"] > first["params_after"] > first["params_before"]
    assert first["widths_before"].keys() < first["widths_after"].keys() == first["came_from"].keys()
    assert len(model.first) + len(model.second) > 2
    held = {id(p) for group in done.optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()}
    assert follower.state_dict().keys() == model.state_dict().keys()


def test_a_gain_is_that_of_networks_trained_apart() -> None:
    model, training = net(), Training(lr=0.2, weight_decay=0.01)
    before = copy.deepcopy(model.state_dict())
    graph = ramify.trace(model, torch.zeros(1, 4))
    trials, split = EditTrials(graph, loss, data()), ramify.Split("turn", 1)
    drawn = torch.get_rng_state()
    found = weigh(trials, [], [split], {"params": 200, "macs": 1000}, training)
    assert found is not None
    assert found.gain is not None
    assert found.cost is not None
    assert_equal(model.state_dict(), before)
    assert model.training
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(parameter.grad is None for parameter in model.parameters())

    def after(*edits: ramify.Split | ramify.Insert) -> float:
        own = copy.deepcopy(model)
        ramify.apply(ramify.trace(own, torch.zeros(1, 4)), edits)
        settings: dict[str, Any] = {"momentum": 0.9, "weight_decay": 0.01}
        optimizer = torch.optim.SGD(own.parameters(), lr=RATE * 0.2, **settings)
        for step in range(STEPS):
            optimizer.zero_grad()
            loss(own, data()[step % 4]).mean().backward()
            optimizer.step()
        return float(torch.cat([loss(own, batch) for batch in data()]).mean().detach())

    params, macs = 4 * 2 + 2 + 2 * 4 + 4, 16
    for one in found.blocks:
        more = {"first.0": 1, "second.0": 1.5}[one.behind]
        gain = after() - after(ramify.Insert(one.behind))
        assert one.gain == pytest.approx(gain, rel=1e-3)
        assert one.cost == pytest.approx(
            max((params - 4) * more / 200 + 4 / 200, macs * more / 1000)
        )
    assert found.gain == pytest.approx(after() - after(split), rel=1e-3)
    least = max(0.0, found.gain / found.cost)
    assert all(one.inserted == (one.gain / one.cost > least) for one in found.blocks)


def test_what_was_tried_says_what_goes_in() -> None:
    tried = [depth_rounds.TriedBlock("a", 1.0, 2.0, True)]
    tried.append(depth_rounds.TriedBlock("b", 1.0, 9.0, False))
    weighed = Weighed(tried, 0.1, 1.0, True)
    assert weighed.inserts == [ramify.Insert("a")]
    assert weighed.plain()["tried"][1] == {
        "behind": "b",
        "gain": 1.0,
        "cost": 9.0,
        "inserted": False,
    }


@pytest.mark.parametrize("budget", [{"params": 80}, {"params": 95}])
def test_a_budget_holds(budget: dict[str, float]) -> None:
    model = net()
    start = sum(p.numel() for p in model.parameters())
    assert start == 22 + 20 + 31 + 5  # and a block of the first list has 22 more
    done = run(model, budget=budget)
    assert done.history[-1]["reason"] == "no morphism pays"
    assert sum(p.numel() for p in model.parameters()) <= budget["params"]
    assert [len(model.first), len(model.second)] == [1, 1]
    run(model := net(), budget={"params": start + 22})
    assert [len(model.first), len(model.second)] == [2, 1]


def test_widths_go_beside_blocks_where_there_is_room() -> None:
    [roomy] = edits_of(run(net(), method=Copies(), rounds=1, budget={"params": 400}))
    [tight] = edits_of(run(net(), method=Copies(), rounds=1, budget={"params": 108}))
    for edit, room in ((roomy, True), (tight, False)):
        assert any(one["inserted"] for one in edit["blocks"]["tried"])
        assert [p["selected"] for p in edit["proposals"]] == [room]
        assert edit["widths_after"]["turn"] == 4 + room
        for group, source in edit["origin"].items():
            old = edit["widths_before"][edit["came_from"][group]]
            assert len(source) == edit["widths_after"][group]
            assert max(source) < old
    assert roomy["origin"]["turn"] == [0, 1, 2, 3, 1]


@pytest.mark.parametrize("after", [2, 3])
def test_a_resume_across_an_insert_is_exact(tmp_path: Path, after: int) -> None:
    settings: dict[str, Any] = {"method": Copies(), "rounds": 2, "budget": {"params": 400}}
    whole, file = run(net(), **settings), tmp_path / "checkpoint"
    assert any("came_from" in event for event in whole.history[:3])

    with pytest.raises(KeyboardInterrupt):
        run(net(), checkpoint=file, log=Stop(after - 1), **settings)
    torch.manual_seed(5)
    assert_same(run(Net(), checkpoint=file, **settings), whole)


def test_a_recipe_of_more_blocks_is_made_with_fresh_weights() -> None:
    model = net()
    run(model)
    torch.manual_seed(9)
    fresh = scratch(net, recipe_of(model))
    shapes = [(name, tensor.shape) for name, tensor in fresh.state_dict().items()]
    assert shapes == [(name, tensor.shape) for name, tensor in model.state_dict().items()]
    weights = dict(fresh.named_parameters())
    copies = [weights[f"first.{number}.back.weight"] for number in range(len(model.first))]
    assert len(copies) > 1
    assert all(bool(one.any()) for one in copies)
    assert not torch.equal(copies[0], copies[1])


def test_lengths_of_kernels_follow_the_names() -> None:
    torch.manual_seed(0)
    model, x = ResNet((1, 1, 1), width=2), torch.randn(16, 3, 8, 8)

    def error(model: nn.Module, batch: Tensor) -> Tensor:
        return nn.functional.cross_entropy(
            model(batch), (batch[:, 0].mean((1, 2)) > 0).long(), reduction="none"
        )

    training = Training(epochs=1, lr=0.1)
    settings: dict[str, Any] = {"method": Nothing(), "rule": ramify.TopFraction(0.5)}
    settings |= {"training": training, "rounds": 1, "depth": True}
    done = grow(model, x[:2], error, [x[:8], x[8:]], **settings)
    [edit], lengths = edits_of(done), done.history[0][LENGTHS]
    assert len(model.layer1) == 2
    assert edit["came_from"]["layer1.1.conv1"] == "layer1.0.conv1"
    assert edit[LENGTHS] == lengths | {
        f"layer1.1.{name}.weight": lengths[f"layer1.0.{name}.weight"] for name in ("conv1", "conv2")
    }


def test_what_does_not_go_with_depth_is_refused_before_training() -> None:
    plain = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))
    with pytest.raises(RamifyError, match=r"no block of this Sequential takes one"):
        run(plain)
    with pytest.raises(RamifyError, match="have selections tried"):
        run(net(), trial=False)
    with pytest.raises(RamifyError, match="one number for all layers"):
        run(net(), ceiling={"first.0.wide": 4})
    with pytest.raises(RamifyError, match="with depth all groups may change"):
        run(net(), groups=["first*"])
    run(net(), ceiling=4, keep=1)
    graph = ramify.trace(plain, torch.zeros(1, 4))
    check_depth(graph, WidthBounds(), ramify.TopFraction(0.5), True, rounds=0)


def test_a_method_that_proposes_prunes_alone_is_refused() -> None:
    with pytest.raises(RamifyError, match="proposes prunes alone"):
        run(net(), method=ramify.L1())


def test_a_trial_that_diverges_gains_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(depth_rounds, "RATE", 1e9)
    done = run(model := net())
    assert done.history[-1]["event"] == "stop"
    assert [len(model.first), len(model.second)] == [1, 1]


def test_milliseconds_are_a_price_too() -> None:
    graph = ramify.trace(net(), torch.zeros(1, 4))
    price = depth_rounds._Price(graph, {"latency": 1e6})
    insert = ramify.Insert("first.0")
    assert 0 < price.of([insert]) < 1
    assert price.allows([insert, ramify.Split("turn", 0)])
    assert not depth_rounds._Price(graph, {"latency": 1e-9}).allows([insert])
