"""The loop as a library call: what it does each round, and what it needs of its data."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ramify
from ramify.run.loop import Data, Grown, grow
from ramify.run.training import Training

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
    assert [event["event"] for event in seen] == ["epoch"] * 3 + (["edit"] + ["epoch"] * 3) * 2
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
    assert [event["event"] for event in grown.history] == ["epoch"] * 3
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
    assert without_time(resumed.history) == without_time(expected.history)
    pairs = zip(
        expected.graph.model.state_dict().items(),
        resumed.graph.model.state_dict().items(),
        strict=True,
    )
    assert all(one[0] == two[0] and torch.equal(one[1], two[1]) for one, two in pairs)


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
    assert second.history[: len(first.history)] == first.history
    times = [event["t"] for event in second.history]
    assert times == sorted(times)
    assert times[0] >= 0
