"""Latency: what is measured, in which shape, and that the model is as it was; never how long."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ramify
from ramify import latency
from ramify.latency import timing


class Recorder(nn.Module):
    """Notes the widths that it runs with in eval mode; on its class, since a model is restored."""

    seen: ClassVar[list[tuple[int, int]]] = []

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 8), nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled() and not self.training:
            self.seen.append((self.a.weight.shape[0], self.b.weight.shape[0]))
        return self.c(torch.tanh(self.b(torch.tanh(self.a(x)))))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """A clock that moves on by the next of these times between two looks."""
    times: list[float] = []
    now, looks = 0.0, 0

    def look() -> float:
        nonlocal now, looks
        looks += 1
        if looks % 2 == 0 and times:
            now += times.pop(0)
        return now

    for name in ("perf_counter", "thread_time"):
        monkeypatch.setattr(time, name, look)
    return times


@pytest.mark.skipif(os.name != "posix", reason="the processor time moves on by long ticks")
def test_in_one_thread_on_the_cpu_the_time_of_others_does_not_count() -> None:
    class Waits(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            time.sleep(0.05)
            return super().forward(x)

    assert latency.measure(Waits(2, 2), torch.randn(1, 2), repeats=3).median < 25
    torch.set_num_threads(2)
    try:
        assert latency.measure(Waits(2, 2), torch.randn(1, 2), repeats=1).median >= 50
    finally:
        torch.set_num_threads(1)


def test_median_and_spread_without_the_warm_up(clock: list[float]) -> None:
    clock += [9.0, 9.0, 0.004, 0.001, 0.002, 0.003, 0.005]
    found = latency.measure(nn.Linear(2, 2), torch.randn(1, 2), repeats=5, warmup=2)
    assert found.median == pytest.approx(3.0)
    assert found.spread == pytest.approx(2.0)


def test_the_model_runs_in_eval_mode_without_gradients_and_comes_back() -> None:
    net = Recorder()
    net.b.eval()
    net.seen.clear()
    latency.measure(net, torch.randn(1, 3), repeats=2, warmup=1)
    assert net.seen == [(8, 6)] * 3
    assert net.training
    assert not net.b.training


def test_a_model_that_counts_its_runs_is_left_as_it_was() -> None:
    class Counted(nn.Linear):
        def __init__(self) -> None:
            super().__init__(2, 2)
            self.register_buffer("runs", torch.zeros(()))
            self.cache: list[Tensor] = []

        def forward(self, x: Tensor) -> Tensor:
            self.runs += 1
            self.cache.append(x)
            return super().forward(x)

    net = Counted()
    graph = ramify.trace(nn.Sequential(net, nn.ReLU(), nn.Linear(2, 1)), torch.randn(1, 2))
    latency.measure(net, torch.randn(1, 2), repeats=2)
    latency.measure_edited(graph, [ramify.Prune("0", 0)], repeats=2)
    latency.observe(graph, [np.array([1, 1]), np.array([2, 1])], rounds=1)
    assert net.runs == 0
    assert net.cache == []


def test_attention_is_timed_in_the_fused_form_that_a_user_runs() -> None:
    forms: list[bool] = []
    net = nn.TransformerEncoderLayer(4, 2, batch_first=True)
    net.register_forward_hook(lambda *_: forms.append(torch.backends.mha.get_fastpath_enabled()))
    latency.measure(net, torch.randn(1, 3, 4), repeats=1, warmup=0)
    assert forms == [True]


def test_an_edited_shape_is_really_run_and_taken_back() -> None:
    net = Recorder()
    graph = ramify.trace(net, torch.randn(1, 3))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.seen.clear()
    edits = [ramify.Split("a", 0, (0.5, 0.25, 0.25)), ramify.Prune("b", 1)]
    latency.measure_edited(graph, edits, repeats=2, warmup=0)
    assert net.seen == [(10, 5)] * 2
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_the_price_of_a_channel_is_the_slope(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Recorder()
    graph = ramify.trace(net, torch.randn(1, 3))

    def measured(model: nn.Module, *_: object, **__: object) -> latency.Latency:
        widths = model.a.weight.shape[0], model.b.weight.shape[0]
        return latency.Latency(1.0 + 0.25 * widths[0] - 0.5 * widths[1], 0.0)

    monkeypatch.setattr(timing, "measure", measured)
    assert latency.prices(graph) == pytest.approx({"a": 0.25, "b": 0.0})  # never below zero
    assert latency.prices(graph, ["a"], scales=(0.25, 1.0)) == pytest.approx({"a": 0.25})
    with pytest.raises(ramify.RamifyError, match="two widths"):
        latency.prices(graph, scales=(1.0,))


def test_no_calls_are_no_measurement() -> None:
    with pytest.raises(ramify.RamifyError, match="repeats must be at least 1"):
        latency.measure(nn.Linear(2, 2), torch.randn(1, 2), repeats=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="takes a GPU")
def test_on_a_gpu() -> None:
    net = nn.Linear(2, 2).cuda()
    assert latency.measure(net, torch.randn(1, 2).cuda()).median > 0
