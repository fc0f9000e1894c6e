"""Growing that is interrupted goes on to the same result; copies of the network grow along."""

import copy
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import ramify
from ramify.errors import RamifyError
from ramify.train.loop import Grown
from ramify.train.passes import Data
from tests.stop import Stop
from tests.train.growing import (
    assert_equal,
    assert_same,
    data,
    net,
    net_of_other_weights,
    run,
)


def batches(kind: str) -> Data:
    if kind == "list":
        return data()
    if kind == "function":
        return lambda epoch: data() if epoch % 2 else data()[::-1]
    whole = torch.utils.data.TensorDataset(*(torch.cat(part) for part in zip(*data(), strict=True)))
    return torch.utils.data.DataLoader(whole, batch_size=10, shuffle=True)


@functools.cache
def uninterrupted(kind: str) -> Grown:
    return run(net(), batches(kind), probe=data())


@pytest.mark.parametrize("kind", ["list", "function", "loader"])
@pytest.mark.parametrize("after", [1, 3, 4, 5])
def test_a_checkpoint_goes_on_to_the_same_network(tmp_path: Path, kind: str, after: int) -> None:
    file = tmp_path / "checkpoint.safetensors"

    with pytest.raises(KeyboardInterrupt):
        run(net(), batches(kind), probe=data(), checkpoint=file, log=Stop(after - 1))
    torch.manual_seed(77)
    resumed = run(net_of_other_weights(), batches(kind), probe=data(), checkpoint=file)
    assert_same(resumed, uninterrupted(kind))


SPANNED: dict[str, Any] = {
    "rounds": 5,
    "budget": {"params": 50},
    "training": ramify.Training(epochs=2, lr=0.02, span="run"),
}


@functools.cache
def spanned() -> Grown:
    return run(net(), data(), **SPANNED)


@pytest.mark.parametrize("after", [4, 6, 8, 11, 13])
def test_a_resume_is_exact_where_it_trains_on_after_the_last_edit(
    tmp_path: Path, after: int
) -> None:
    expected, settings = spanned(), SPANNED
    file = tmp_path / "c"

    with pytest.raises(KeyboardInterrupt):
        run(net(), data(), checkpoint=file, log=Stop(after - 1), **settings)
    assert_same(run(net(), data(), checkpoint=file, **settings), expected)
    more = run(net(), data(), checkpoint=file, **settings | {"budget": {"params": 70}})
    assert [event["event"] for event in more.history].count("edit") > [
        event["event"] for event in expected.history
    ].count("edit")


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

        expected, held = followed(net())
        file = tmp_path / "c"
        with pytest.raises(KeyboardInterrupt):
            followed(net(), checkpoint=file, log=Stop(after - 1))
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
