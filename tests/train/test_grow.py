"""The loop as a library call: what it does each round, and what it needs of its data."""

import copy
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import ramify
from ramify.cost import Cost
from ramify.errors import RamifyError
from ramify.train.epoch import Training
from ramify.train.grow import grow
from ramify.train.loop import Grown
from ramify.train.passes import Data

Batch = tuple[Tensor, Tensor]


def net() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Linear(2, 3), nn.Softplus(), nn.Dropout(0.2), nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 1)
    )


def loss(model: nn.Module, batch: Batch) -> Tensor:
    return (model(batch[0]) - batch[1]).square().sum(1)


def data() -> list[Batch]:
    x = torch.randn(24, 2, generator=torch.Generator().manual_seed(3))
    y = (x[:, :1] * x[:, 1:]).sin()
    return list(zip(x.split(10), y.split(10), strict=True))


def run(model: nn.Module, batches: Data, rounds: int = 2, **settings: Any) -> Grown:
    given = {
        "method": ramify.SplittingDescent(step=0.1),
        "rule": ramify.TopFraction(0.5),
        "training": Training(epochs=3, lr=0.05),
    }
    return grow(model, torch.zeros(1, 2), loss, batches, rounds=rounds, **(given | settings))


def test_it_trains_splits_and_trains_again() -> None:
    model, seen = net(), []
    grown = run(model, data(), log=lambda event: seen.append(dict(event)))
    assert [event["event"] for event in seen] == ["epoch"] * 3 + (["edit"] + ["epoch"] * 3) * 2 + [
        "stop"
    ]
    assert [event["step"] for event in seen if event["event"] == "epoch"] == list(range(3, 28, 3))
    assert seen == grown.history
    assert grown.graph.model is model
    assert model[0].out_features > 3
    widths = {group.name: group.width for group in grown.graph.groups}
    assert widths == [e for e in seen if e["event"] == "edit"][-1]["widths_after"]
    held = {id(p) for group in grown.optimizer.param_groups for p in group["params"]}
    assert held == {id(parameter) for parameter in model.parameters()}
    momentum = grown.optimizer.state[model[0].weight]["momentum_buffer"]
    assert momentum.shape == model[0].weight.shape


def test_the_rate_starts_again_each_round() -> None:
    rates: list[float] = []

    class Data(list[Batch]):
        def __iter__(self) -> Iterator[Batch]:
            for batch in list.__iter__(self):
                yield batch
                rates.append(grown_rate())

    model = net()
    optimizers: list[torch.optim.Optimizer] = []
    original = torch.optim.SGD.__init__

    def spy(self: torch.optim.SGD, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        optimizers.append(self)

    def grown_rate() -> float:
        return optimizers[0].param_groups[0]["lr"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.SGD, "__init__", spy)
        run(model, Data(data()), rounds=1, probe=data(), training=Training(epochs=2, lr=0.5))
    once = [0.25 * (1 + torch.cos(torch.tensor(torch.pi * i / 6)).item()) for i in range(6)]
    assert rates == pytest.approx(once * 2, abs=1e-6)


def test_it_ends_early_where_nothing_is_selected() -> None:
    class Nothing:
        def select(self, proposals: Iterable[ramify.Proposal]) -> list[ramify.Proposal]:
            return []

    model = net()
    grown = run(model, data(), rule=Nothing())
    assert [event["event"] for event in grown.history] == ["epoch"] * 3 + ["stop"]
    assert grown.history[-1]["reason"] == "no morphism pays"
    assert model[0].out_features == 3


def test_the_method_is_asked_with_the_probe_batches() -> None:
    asked: list[Any] = []

    class Method(ramify.SplittingDescent):
        def propose(self, graph: Any, loss: Any, batches: Iterable[Any]) -> list[ramify.Proposal]:
            asked.append(list(batches))
            return super().propose(graph, loss, asked[-1])

    probe = data()[:1]
    run(net(), data(), rounds=1, method=Method(), probe=probe)
    run(net(), data(), rounds=1, method=Method())
    assert [len(batches) for batches in asked] == [1, 3]
    assert asked[0][0][0] is probe[0][0]


def test_measures_and_tags_stand_in_the_events() -> None:
    grown = run(net(), data(), tags={"job": "mine"}, evaluate=lambda model: {"probe": 0.5})
    assert {event["job"] for event in grown.history} == {"mine"}
    assert {event.get("probe") for event in grown.history} == {0.5, None}
    assert all("probe" in event for event in grown.history if event["event"] == "epoch")


def test_data_may_be_a_stream_of_unknown_length() -> None:
    class Stream(torch.utils.data.IterableDataset[Batch]):
        def __iter__(self) -> Iterator[Batch]:
            return iter(data())

    loader = torch.utils.data.DataLoader(Stream(), batch_size=None)
    assert run(net(), loader, rounds=0).history[-1]["step"] == 9


def test_data_may_be_a_function_of_the_epoch() -> None:
    asked: list[int] = []

    def batches(epoch: int) -> Iterator[Batch]:
        asked.append(epoch)
        yield from data()

    run(net(), batches, rounds=1, probe=data())
    assert asked == [0, 0, 1, 2, 3, 4, 5]  # once to count the steps


@pytest.mark.parametrize("kind", ["list", "function", "loader"])
@pytest.mark.parametrize("after", [1, 3, 4, 5])
def test_a_checkpoint_goes_on_to_the_same_network(tmp_path: Path, kind: str, after: int) -> None:
    def batches() -> Data:
        if kind == "list":
            return data()
        if kind == "function":
            return lambda epoch: data() if epoch % 2 else data()[::-1]
        whole = torch.utils.data.TensorDataset(
            *(torch.cat(part) for part in zip(*data(), strict=True))
        )
        return torch.utils.data.DataLoader(whole, batch_size=10, shuffle=True)

    expected = run(net(), batches(), probe=data())
    file = tmp_path / "checkpoint.safetensors"
    count = 0

    def stop(event: dict[str, Any]) -> None:
        nonlocal count
        count += 1
        if count == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(net(), batches(), probe=data(), checkpoint=file, log=stop)
    torch.manual_seed(77)
    resumed = run(net_of_other_weights(), batches(), probe=data(), checkpoint=file)
    assert_same(resumed, expected)


def assert_same(left: Grown, right: Grown) -> None:
    assert without_time(left.history) == without_time(right.history)
    assert_equal(left.graph.model.state_dict(), right.graph.model.state_dict())


def assert_equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def net_of_other_weights() -> nn.Sequential:
    model = net()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.5)
    return model


def without_time(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in event.items() if key != "t"} for event in history]


def test_the_clock_goes_on_after_a_resume(tmp_path: Path) -> None:
    file = tmp_path / "c"
    first = run(net(), data(), rounds=0, checkpoint=file)
    second = run(net(), data(), rounds=1, checkpoint=file)
    assert first.history[-1]["reason"] == second.history[-1]["reason"] == "rounds"
    assert second.history[: len(first.history) - 1] == first.history[:-1]
    third = run(net(), data(), rounds=1, checkpoint=file)
    assert third.history == second.history
    times = [event["t"] for event in second.history]
    assert times == sorted(times)
    assert times[0] >= 0


def reasons(grown: Grown) -> list[str]:
    return [event["reason"] for event in grown.history if event["event"] == "stop"]


def last_cost(grown: Grown) -> int:
    return ramify.cost.graph_cost(grown.graph).params


@dataclass(frozen=True)
class Prunes:
    """Prunes in the order of their weights, as a score; with a gain, if it is told to."""

    score: float | None = 1.0

    def propose(self, graph: Any, loss: Any, batches: Iterable[Any]) -> list[ramify.Proposal]:
        now = ramify.cost.graph_cost(graph)
        out = []
        for group in graph.groups:
            for channel in range(group.width if group.can_prune else 0):
                edit = ramify.Prune(group.name, channel)
                cost = ramify.cost.graph_cost(graph, [edit]) - now if group.width > 1 else now
                out.append(ramify.Proposal(edit, 0.1, cost, score=self.score, graph=graph))
        return out


class KeepOne:
    """Selects every proposal but the first of each group."""

    def select(self, proposals: Sequence[ramify.Proposal]) -> list[ramify.Proposal]:
        return [proposal for proposal in proposals if proposal.edit.channel > 0]


class TestBudget:
    def test_it_is_never_exceeded_and_ends_the_run(self) -> None:
        seen: list[int] = []
        for most in (26, 40, 55, 70, 100):
            budget = {"params": most, "macs": 3 * most}
            grown = run(net(), data(), rounds=20, budget=budget, training=Training(epochs=1))
            for event in grown.history:
                if event["event"] != "stop":
                    params = event.get("params", event.get("params_after"))
                    assert params <= most
                    assert event.get("macs", event.get("macs_after")) <= 3 * most
            assert reasons(grown) == ["budget"]
            assert grown.history[-1]["budget"] == budget
            seen.append(last_cost(grown))
        assert seen == sorted(seen)
        assert seen[-1] > seen[0]

    def test_a_cut_selection_is_the_last_of_a_method_that_only_splits(self) -> None:
        grown = run(net(), data(), rounds=20, budget={"params": 60})
        edits = [event for event in grown.history if event["event"] == "edit"]
        assert [edit["cut"] > 0 for edit in edits] == [False] * (len(edits) - 1) + [True]
        assert [event["event"] for event in grown.history[-4:]] == ["epoch"] * 3 + ["stop"]

    @pytest.mark.parametrize("score", [1.0, None])
    def test_a_method_that_prunes_comes_within_it_and_no_further(self, score: float | None) -> None:
        settings = {"method": Prunes(score), "rule": KeepOne(), "training": Training(epochs=1)}
        before = sum(parameter.numel() for parameter in net().parameters())
        grown = run(net(), data(), rounds=5, budget={"params": before - 6}, **settings)
        assert reasons(grown) == ["budget"]
        assert before - 12 < last_cost(grown) <= before - 6
        assert all(p["copies"] == 0 for p in grown.history[1]["proposals"])
        still = run(net(), data(), rounds=5, budget={"params": before}, **settings)
        assert [event["event"] for event in still.history] == ["epoch", "stop"]
        assert reasons(still) == ["budget"]

    def test_no_room_from_the_start(self) -> None:
        grown = run(net(), data(), budget={"params": 26})
        assert [event["event"] for event in grown.history] == ["epoch"] * 3 + ["stop"]
        assert reasons(grown) == ["budget"]

    @pytest.mark.parametrize(
        ("budget", "words"),
        [
            ({"weights": 3}, "no budget of 'weights'; give params, macs, flops, energy, latency"),
            ({"params": 0}, "budget of params is 0; give a number above 0"),
            ({"params": "1e6"}, "budget of params is '1e6'"),
            ({"params": float("nan")}, "budget of params is nan"),
            ({"params": True}, "budget of params is True"),
        ],
    )
    def test_what_is_no_budget_is_refused(self, budget: dict[str, Any], words: str) -> None:
        with pytest.raises(RamifyError, match=words):
            run(net(), data(), budget=budget)

    def test_a_resume_with_more_room_goes_on(self, tmp_path: Path) -> None:
        file = tmp_path / "c"
        run(net(), data(), rounds=20, budget={"params": 60}, checkpoint=file)
        more = run(net(), data(), rounds=20, budget={"params": 90}, checkpoint=file)
        assert reasons(more) == ["budget"]
        assert 60 < last_cost(more) <= 90


def drawn() -> float:
    return float(np.random.rand())  # noqa: NPY002  (users' augmentation draws like this)


@dataclass(frozen=True)
class Learner:
    """A method that learns over the data for two epochs and draws random numbers."""

    seen: list[float]

    def propose(self, graph: Any, loss: Any, batches: Iterable[Any]) -> list[ramify.Proposal]:
        kept: list[Batch] = []
        for _ in range(2):
            for batch in batches:
                self.seen.append(float(batch[0].sum() + random.random() + drawn()))
                kept.append(batch)
        order = torch.randperm(len(kept))
        return ramify.SplittingDescent(step=0.1).propose(graph, loss, [kept[order[0]]])


def numbered(epoch: int) -> Iterator[Batch]:
    """Batches that tell the epoch, with noise from the random state of Python and numpy."""
    for x, y in data():
        yield x + epoch + random.random() + drawn(), y


def seeded() -> None:
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002


class TestLearning:
    def test_each_pass_is_a_further_epoch_and_none_is_kept(self) -> None:
        asked: list[int] = []
        alive: list[int] = [0, 0]

        class Counted(list[Batch]):
            def __init__(self, batches: list[Batch]) -> None:
                super().__init__(batches)
                alive[0] += 1
                alive[1] = max(alive)

            def __del__(self) -> None:
                alive[0] -= 1

        def batches(epoch: int) -> Counted:
            asked.append(epoch)
            return Counted(data())

        grown = run(net(), batches, method=Learner([]), training=Training(epochs=1))
        # To count, to train, to learn twice, to measure on what it learnt on first.
        assert asked == [0, 0, 1, 2, 1, 1, 3, 4, 5, 4, 4, 6]
        assert [e["passes"] for e in grown.history if e["event"] == "edit"] == [2, 2]
        assert alive[1] <= 2

    @pytest.mark.parametrize("stop", [1, 4, 7])
    def test_a_kill_while_it_learns_changes_nothing(self, tmp_path: Path, stop: int) -> None:
        seeded()
        whole = Learner([])
        expected = run(net(), numbered, method=whole, training=Training(epochs=1))

        class Killed(Learner):
            def propose(self, graph: Any, loss: Any, batches: Iterable[Any]) -> Any:
                def until(count: int) -> Iterator[Batch]:
                    for batch in batches:
                        if len(self.seen) == count:
                            raise KeyboardInterrupt
                        yield batch

                class Again:
                    def __iter__(self) -> Iterator[Batch]:
                        return until(stop)

                return super().propose(graph, loss, Again())

        seeded()
        file = tmp_path / "c"
        settings: dict[str, Any] = {"training": Training(epochs=1), "checkpoint": file}
        with pytest.raises(KeyboardInterrupt):
            run(net(), numbered, method=Killed([]), **settings)
        again = Learner([])
        resumed = run(net(), numbered, method=again, **settings)
        assert_same(resumed, expected)
        assert again.seen == whole.seen[-len(again.seen) :]


def averaged(model: nn.Module) -> AveragedModel:
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)


class TestFollowers:
    def test_they_grow_along(self) -> None:
        model = net()
        average, copied = averaged(model), copy.deepcopy(model)
        table = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        followers = [average, copied, table]
        run(model, data(), followers=followers, after_step=average.update_parameters)
        shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
        for held in (average.module.state_dict(), copied.state_dict(), table):
            assert {name: tensor.shape for name, tensor in held.items()} == shapes
        assert int(average.n_averaged) == 27
        assert average(torch.ones(2, 2)).shape == (2, 1)

    @pytest.mark.parametrize("after", [2, 4, 5, 9])
    def test_a_resume_is_exact(self, tmp_path: Path, after: int) -> None:
        def followed(model: nn.Module, **settings: Any) -> tuple[Grown, list[dict[str, Tensor]]]:
            average = averaged(model)
            table = {name: tensor.clone() for name, tensor in model.state_dict().items()}

            def follow(stepped: nn.Module) -> None:
                average.update_parameters(stepped)
                for name, tensor in stepped.state_dict().items():
                    table[name] = 0.5 * table[name] + 0.5 * tensor

            grown = run(
                model,
                data(),
                budget={"params": 60},
                followers=[average, table],
                after_step=follow,
                **settings,
            )
            return grown, [average.state_dict(), table]

        def stop(event: dict[str, Any]) -> None:
            nonlocal after
            after -= 1
            if after == 0:
                raise KeyboardInterrupt

        expected, held = followed(net())
        file = tmp_path / "c"
        with pytest.raises(KeyboardInterrupt):
            followed(net(), checkpoint=file, log=stop)
        resumed, again = followed(net_of_other_weights(), checkpoint=file)
        assert_same(resumed, expected)
        for one, two in zip(held, again, strict=True):
            assert_equal(one, two)

    def test_the_model_itself_and_doubles_are_refused(self) -> None:
        model = net()
        average, table = averaged(model), copy.deepcopy(model).state_dict()
        for own in (model, model.state_dict(), nn.ModuleDict({"module": model})):
            with pytest.raises(RamifyError, match="follower 1 is the model itself"):
                run(model, data(), followers=[average, own])
        for twice in ([average, average], [table, dict(table)], [average, average.module]):
            with pytest.raises(RamifyError, match="followers 0 and 1 hold the same tensors"):
                run(model, data(), followers=twice)
        with pytest.raises(RamifyError, match="follower 0 is a list; give a model or"):
            run(model, data(), followers=[[1, 2]])  # type: ignore[list-item]

    def test_other_followers_are_refused_on_resume(self, tmp_path: Path) -> None:
        model, file = net(), tmp_path / "c"
        run(model, data(), rounds=0, followers=[averaged(model)], checkpoint=file)
        with pytest.raises(RamifyError, match="1 follower modules and 0 state .* given 0 follower"):
            run(net(), data(), rounds=1, checkpoint=file)
        file.unlink()
        run(net(), data(), rounds=0, followers=[{"0.bias": torch.zeros(3)}], checkpoint=file)
        with pytest.raises(RamifyError, match="follower 0 .* same names .0.bias is only in one"):
            run(net(), data(), followers=[{"0.weight": torch.zeros(3, 2)}], checkpoint=file)


def test_a_schedule_may_go_over_the_whole_run() -> None:
    training = Training(epochs=2, lr=1e-3, schedule="steps", milestones=(0.5,), span="run")
    grown = run(net(), data(), training=training)
    rates = [event["lr"] for event in grown.history if event["event"] == "epoch"]
    assert rates == pytest.approx([1e-3] * 3 + [1e-4] * 3)


@pytest.mark.parametrize("rounds", [-1, 1.5])
def test_rounds_that_would_never_end_are_refused(rounds: Any) -> None:
    with pytest.raises(RamifyError, match="whole number of 0 or more"):
        run(net(), data(), rounds=rounds)


def test_what_cannot_be_trained_is_named() -> None:
    with pytest.raises(RamifyError, match=r"round 0, epoch 0, step 0.* unfreeze some"):
        run(net().requires_grad_(False), data())
    with torch.no_grad(), pytest.raises(RamifyError, match=r"outside of torch\.no_grad"):
        run(net(), data())


def test_a_probe_that_ends_is_named() -> None:
    with pytest.raises(RamifyError, match="no batch to measure the loss on"):
        run(net(), data(), probe=iter(data()))


class Gives:
    """A method that proposes, or a rule that selects, what it was given."""

    def __init__(self, given: Any) -> None:
        self.given = given

    def propose(self, graph: Any, loss: Any, batches: Any) -> Any:
        return self.given

    def select(self, proposals: Any) -> Any:
        return self.given


NO_COST: Any = None


@pytest.mark.parametrize(
    "given, said",
    [
        (None, "the method Gives returned NoneType from propose, where a list of"),
        ([ramify.Split("0", 0)], "a list with Split from propose, where each entry is"),
        (
            [ramify.Proposal(ramify.Split("0", 0), 1.0, NO_COST)],
            "an edit whose cost is a NoneType, where what",
        ),
        (
            [ramify.Proposal(ramify.Split("0", 0), torch.ones(()), Cost(1, 1))],  # type: ignore[arg-type]
            "an edit whose value is a Tensor, where a number",
        ),
        (
            [
                ramify.Proposal(
                    ramify.Split("0", 0), 1.0, Cost(1, 1), graph=ramify.trace(net(), data()[0][0])
                )
            ],
            "an edit of another network than the one it was given",
        ),
    ],
)
def test_what_a_method_may_not_return(given: Any, said: str) -> None:
    with pytest.raises(RamifyError, match=said):
        run(net(), data(), method=Gives(given))


@pytest.mark.parametrize("given, seen", [(None, "NoneType"), ([0], "a list with int")])
def test_what_a_rule_may_not_return(given: Any, seen: str) -> None:
    with pytest.raises(RamifyError, match=f"the rule Gives returned {seen} from select"):
        run(net(), data(), rule=Gives(given))
