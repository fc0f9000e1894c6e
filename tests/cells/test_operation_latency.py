"""The latency table against counts by hand, with a clock that tells what was run."""

import json
from typing import Any

import pytest
import torch
from torch import nn

from ramify.cells import DARTS, NATS
from ramify.cells.operation_latency import LatencyTable, Place, measure_latencies
from ramify.errors import RamifyError
from ramify.relax import ExpectedCost


class Steps:
    """A clock that goes on by one at each mark, and by nothing else."""

    def __init__(self) -> None:
        self.now = 0.0

    def ready(self) -> None:
        pass

    def mark(self) -> float:
        self.now += 1.0
        return self.now

    def between(self, start: float, end: float) -> float:
        return end - start


def made_up(space: Any, channels: int, cells: int, size: int) -> tuple[Any, Any, LatencyTable]:
    """A supernet, its input, and a table that says what and where: digits of a number."""
    net = space.supernet(channels=channels, cells=cells)
    x = torch.randn(2, 3, size, size)
    table = measure_latencies(net, x, repeats=1, warmup=0, clock=Steps())
    numbers = {name: number for number, name in enumerate(space.operations)}
    times = {
        (name, place): 0.0
        if name == "none"
        else 1e4 * place.channels + 100 * place.height + 10 * place.stride + numbers[name]
        for name, place in table.times
    }
    return net, x, LatencyTable("cpu", 1, 2, times)


def test_darts_costs_are_the_sums_over_cells() -> None:
    net, x, table = made_up(DARTS, channels=2, cells=5, size=16)
    normal, reduce = table.costs(net, x)
    # Cells 1 and 3 of 0..4 reduce: normal at 16, 8 and 4 pixels, with 2, 4 and 8 channels.
    sizes = [(2, 16), (4, 8), (8, 4)]
    for row, (source, _) in enumerate(DARTS.edges):
        for column, name in enumerate(DARTS.operations):
            if name == "none":
                assert normal[row, column] == reduce[row, column] == 0
                continue
            wanted = sum(1e4 * c + 100 * s + 10 + column for c, s in sizes)
            assert normal[row, column] == wanted
            # A reduction cell reads its inputs with stride 2, its states at half the size.
            places = [(4, 16, 2), (8, 8, 2)] if source < 2 else [(4, 8, 1), (8, 4, 1)]
            wanted = sum(1e4 * c + 100 * s + 10 * stride + column for c, s, stride in places)
            assert reduce[row, column] == wanted


def test_channels_that_pass_by_are_counted_as_later_on() -> None:
    net, x, table = made_up(DARTS, channels=4, cells=3, size=8)
    partial = DARTS.supernet(channels=4, cells=3, partial=2)
    for one, two in zip(table.costs(net, x), table.costs(partial, x), strict=True):
        assert torch.equal(one, two)


def test_nats_penalty_is_the_expectation() -> None:
    net, x, table = made_up(NATS, channels=3, cells=2, size=12)
    [cost] = table.costs(net, x)
    sizes = [(3, 12), (6, 6), (12, 3)]
    for column, name in enumerate(NATS.operations):
        wanted = 0 if name == "none" else 2 * sum(1e4 * c + 100 * s + 10 + column for c, s in sizes)
        assert (cost[:, column] == wanted).all()
    penalty = ExpectedCost(table.costs(net, x))(net.arch_parameters())
    [alpha] = net.arch_parameters()
    by_hand = sum(
        float(alpha[e].detach().double().softmax(0) @ cost[e].double())
        for e in range(len(NATS.edges))
    )
    assert penalty.item() == pytest.approx(by_hand, rel=1e-5)
    [gradient] = torch.autograd.grad(penalty, [alpha])
    assert gradient[:, list(NATS.operations).index("none")].max() < 0 < gradient[:, -1].min()


def test_each_operation_is_measured_once_a_place_as_the_derived_network_runs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[bool, bool, int]] = []
    run = nn.BatchNorm2d.forward

    def note(self: nn.BatchNorm2d, x: torch.Tensor) -> torch.Tensor:
        seen.append((self.affine, self.training, len(x)))
        return run(self, x)

    net = NATS.supernet(channels=2, cells=2)
    x = torch.randn(4, 3, 8, 8)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    monkeypatch.setattr(nn.BatchNorm2d, "forward", note)
    table = measure_latencies(net, x, repeats=3, warmup=2, clock=Steps())
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    places = [Place(2, 8, 8, 1), Place(4, 4, 4, 1), Place(8, 2, 2, 1)]
    assert set(table.times) == {(name, place) for name in NATS.operations for place in places}
    # A 1×1 and a 3×3 convolution, each with its norm, 5 calls at each of three places; and what of
    # the supernet has norms with weights, once: the stem, the residual blocks, the head.
    assert sum(affine and not training and size == 4 for affine, training, size in seen) == 30 + 6
    assert {(table.device, table.threads, table.batch)} == {("cpu", torch.get_num_threads(), 4)}
    assert all(ms == (name != "none") for (name, _), ms in table.times.items())


def test_a_table_comes_back_from_json() -> None:
    table = LatencyTable("cuda:0", 3, 8, {("conv", Place(2, 8, 9, 1)): 0.25})
    value = json.loads(json.dumps(table.to_json()))
    assert LatencyTable.from_json(value) == table


@pytest.mark.parametrize(
    "change, pattern",
    [
        ({"format": "other"}, "not a latency table of the form ramify-latency-1 but 'other'"),
        ({"device": None, "entries": 3}, "latency table is damaged"),
        ({"threads": "many"}, "latency table is damaged"),
        ({"entries": [{"operation": "conv"}]}, "entry 0 of the latency table is damaged"),
        ({"ms": -1.0}, "entry 1 of the latency table is out of range"),
        ({"ms": float("nan")}, "entry 1 of the latency table is out of range"),
        ({"stride": 0}, "entry 1 of the latency table is out of range"),
        ({"width": 4}, "entry 1 of the latency table repeats another"),
    ],
)
def test_what_is_no_table_is_refused(change: dict[str, Any], pattern: str) -> None:
    times = {("conv", Place(2, 8, width, 1)): 0.5 for width in (4, 5)}
    value = LatencyTable("cpu", 1, 1, times).to_json()
    if set(change) & {"ms", "stride", "width"}:
        value["entries"][1] |= change
    else:
        value |= change
    with pytest.raises(RamifyError, match=pattern):
        LatencyTable.from_json(value)


def test_a_table_of_another_size_is_refused() -> None:
    net, _, table = made_up(NATS, channels=2, cells=1, size=8)
    with pytest.raises(RamifyError, match="no none of 2 channels at 16×16 with stride 1"):
        table.costs(net, torch.randn(1, 3, 16, 16))
