"""The loop as a library call: what it does each round, and what it needs of its data."""

import copy
import random
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import ramify
from ramify.cost import Cost
from ramify.errors import RamifyError
from ramify.train.epoch import Training
from tests.train.growing import Batch, assert_same, data, net, reasons, run


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


def test_what_the_user_measures_changes_nothing_of_the_network() -> None:
    """In training mode a measure would move the statistics of norms by the test samples."""
    modes = []

    def measures(model: nn.Module) -> dict[str, float]:
        modes.append((model.training, torch.is_grad_enabled()))
        model(torch.full((4, 2), 100.0))
        return {}

    def seen(**options: Any) -> nn.Module:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2))
        run(model, data(), rounds=0, **options)
        return model

    alone, watched = seen(), seen(evaluate=measures)
    assert set(modes) == {(False, False)}
    assert torch.equal(alone[1].running_mean, watched[1].running_mean)
    assert watched.training


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
        # To count, to train, to measure on, to learn twice, of which the first is what is measured.
        assert asked == [0, 0, 1, 1, 2, 3, 4, 4, 5, 6]
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


def test_a_schedule_may_go_over_the_whole_run() -> None:
    training = Training(epochs=2, lr=1e-3, schedule="steps", milestones=(0.5,), span="run")
    grown = run(net(), data(), training=training)
    rates = [event["lr"] for event in grown.history if event["event"] == "epoch"]
    assert rates == pytest.approx([1e-3] * 3 + [1e-4] * 3)


def test_a_schedule_over_the_run_goes_to_its_end_where_the_budget_is_used_up() -> None:
    training = Training(epochs=2, lr=0.02, schedule="cosine", span="run")
    grown = run(net(), data(), rounds=5, training=training, budget={"params": 50})
    kinds = [event["event"] for event in grown.history]
    assert 0 < kinds.count("edit") < 5
    assert kinds.count("epoch") == 6 * 2
    assert reasons(grown) == ["budget"]
    epochs = [event for event in grown.history if event["event"] == "epoch"]
    lowest = 0.02 * 0.5 * (1 + np.cos(np.pi * 35 / 36))
    assert epochs[-1]["lr"] == pytest.approx(lowest)
    assert [e["lr"] for e in epochs] == sorted((e["lr"] for e in epochs), reverse=True)
    assert {e.get("ended", {}).get("reason") for e in epochs} == {None, "budget"}


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
        ([ramify.Split("0", 0)], "a list with Split from propose, where each entry must"),
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


def test_a_network_that_has_learned_nothing_is_warned_of_before_its_first_edit() -> None:
    x = torch.randn(24, 2, generator=torch.Generator().manual_seed(3))
    batches = [(x, x.sum(1, keepdim=True))]
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    dead = copy.deepcopy(model)
    nn.init.constant_(dead[0].bias, -50.0)
    with pytest.warns(UserWarning, match="network that does not look at its input has"):
        run(dead, batches)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(model, batches, training=Training(epochs=20, lr=0.05))


def test_method_and_rule_have_defaults() -> None:
    settings: dict[str, Any] = {"training": Training(epochs=3, lr=0.05), "budget": {"params": 60}}
    default = run(net(), data(), 4, method=None, rule=None, **settings)
    rule = ramify.TopFraction(0.5, per_group=True)
    given = run(net(), data(), 4, method=ramify.GaussNewton(epochs=2), rule=rule, **settings)
    assert_same(default, given)
    assert any(event["event"] == "edit" for event in default.history)
