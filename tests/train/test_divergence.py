"""Training that diverges is named, and the network given back as it last was in order."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ramify
from ramify import RamifyError
from ramify.store.checkpoint import read_checkpoint
from ramify.train.divergence import DivergenceWatch
from ramify.train.loop import train


def problem(norm: bool = True) -> tuple[nn.Sequential, Tensor, list[Any]]:
    """A network, one input and batches."""
    torch.manual_seed(0)
    middle = nn.BatchNorm1d(6) if norm else nn.Identity()
    net = nn.Sequential(nn.Linear(4, 6), middle, nn.ReLU(), nn.Linear(6, 3))
    x, y = torch.randn(64, 4), torch.randint(0, 3, (64,))
    return net, x[:1], list(zip(x.split(16), y.split(16), strict=True))


def loss(model: nn.Module, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


def grow(net: nn.Module, x: Tensor, data: Any, **given: Any) -> ramify.Grown:
    return ramify.grow(
        net,
        x,
        loss,
        data,
        method=ramify.RandomSplit(),
        rule=ramify.TopFraction(0.35),
        training=ramify.Training(epochs=2, lr=given.pop("lr", 1e10)),
        rounds=1,
        **given,
    )


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("lr", [1e6, 1e10, 1e30])
def test_a_rate_without_bounds_is_named_and_taken_back(norm: bool, lr: float) -> None:
    net, x, data = problem(norm)
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(RamifyError, match=r"round 0, epoch 0.*the network is as it was before"):
        grow(net, x, data, lr=lr)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


class Masked(nn.Module):
    """A layer of attention under a causal mask of minus infinity, held as a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.MultiheadAttention(4, 2, batch_first=True)
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 3)
        self.register_buffer("mask", torch.full((5, 5), -torch.inf).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.heads(x, x, x, attn_mask=self.mask, need_weights=False)[0]
        return self.down(torch.relu(self.up(x))).mean(1)


def test_a_mask_of_minus_infinity_is_no_divergence() -> None:
    torch.manual_seed(0)
    net, x, y = Masked(), torch.randn(32, 5, 4), torch.randint(0, 3, (32,))
    grown = grow(net, x[:1], list(zip(x.split(16), y.split(16), strict=True)), lr=0.01)
    assert grown.history[-1]["event"] == "stop"
    watch = DivergenceWatch(net)
    net.mask[0, 1] = torch.nan  # type: ignore[index]
    with pytest.raises(RamifyError, match="buffer 'mask' holds values that are not finite"):
        watch.weights()


def test_the_last_good_epoch_is_kept_with_optimizer_follower_and_checkpoint(tmp_path: Path) -> None:
    """The rate is good for one epoch, then there is a batch that breaks everything."""
    net, x, data = problem()
    average = copy.deepcopy(net)
    states: list[dict[str, Tensor]] = []

    def batches(epoch: int) -> list[Any]:
        broken = (torch.full((16, 4), 1e30), data[0][1])
        return [*data, broken] if epoch else data

    def follow(model: nn.Module) -> None:
        for one, two in zip(average.parameters(), model.parameters(), strict=True):
            one.data.lerp_(two.data, 0.5)

    with pytest.raises(RamifyError, match="epoch 1.*diverged|epoch 1.*not finite|epoch 1.*is nan"):
        train(
            net,
            x,
            loss,
            batches,
            training=ramify.Training(epochs=2, lr=0.1),
            followers=[average],
            after_step=follow,
            checkpoint=tmp_path / "run",
            log=lambda event: states.append(copy.deepcopy(net.state_dict())),
        )
    kept = read_checkpoint(tmp_path / "run").state
    for name, value in net.state_dict().items():
        assert torch.equal(value, states[0][name])
        assert torch.equal(value, kept["model"][name])
        assert torch.equal(average.state_dict()[name], kept["followers"][0]["tensors"][name])


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda net: net[0].weight.data.fill_(float("nan")), "parameter '0.weight' holds values"),
        (lambda net: net[1].running_var.fill_(float("inf")), "buffer '1.running_var' holds values"),
        (lambda net: net[3].weight.data.mul_(1e9), "all weights together are .* times as long"),
        (lambda net: net[3].weight.data.fill_(1e30), "all weights together are"),
    ],
)
def test_what_left_all_bounds_is_named(spoil: Any, says: str) -> None:
    net, _, _ = problem()
    watch = DivergenceWatch(net)
    watch.weights()
    spoil(net)
    with pytest.raises(RamifyError, match=says):
        watch.weights()


def test_the_bounds_of_a_loss() -> None:
    net, _, _ = problem()
    watch = DivergenceWatch(net)
    for value in (1e-3, 5.0, -20.0, 900.0):  # noise of a small loss is no divergence
        watch.loss(value)
    for value in (2e4, -2e4, float("inf"), float("nan")):
        with pytest.raises(RamifyError, match=r"the loss is .*, and was 0.001 at the beginning"):
            watch.loss(value)
    DivergenceWatch(net, first_loss=1e6).loss(1e9)
    with pytest.raises(RamifyError, match="diverged"):
        DivergenceWatch(net, first_loss=1e6).loss(2e10)


def test_ordinary_training_is_left_alone() -> None:
    net, x, data = problem()
    grown = grow(net, x, data, lr=0.5)
    assert grown.history[-1]["event"] == "stop"


def test_a_search_that_diverges_is_taken_back() -> None:
    net, x, data = problem()
    gates = ramify.gate(ramify.trace(net, x))
    sgd = partial(torch.optim.SGD, lr=1e12)
    searcher = ramify.relax.Joint(
        net, arch=gates, weight_optimizer=sgd, arch_optimizer=sgd, loss=loss
    )
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(RamifyError, match="the network is as it was before this epoch"):
        ramify.search(searcher, ramify.relax.Pairs(data[:2], data[2:]), epochs=2)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
