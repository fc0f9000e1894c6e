"""Where a new block would learn fastest."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ramify
from ramify import RamifyError
from ramify.probe.loss import mean_loss
from tests.block_nets import made
from tests.checks import snapshot


def loss(model: nn.Module, x: Tensor) -> Tensor:
    return model(x).square().flatten(1).mean(1)


@pytest.mark.parametrize("name", ["preactivation", "convnext"])
def test_the_gain_is_the_decrease_by_a_small_step(name: str) -> None:
    model, x = made(name)
    batches = [x, 0.5 * x[:1]]
    graph = ramify.trace(model, x)
    before = snapshot(model)
    rows = ramify.insert_gains(graph, loss, batches, lr=0.1)
    assert snapshot(model) == before
    assert [row.gain for row in rows] == sorted((row.gain for row in rows), reverse=True)
    assert {row.block for row in rows} == {b.name for b in graph.blocks if b.can_insert}
    for row in rows:
        other = copy.deepcopy(model)
        start = mean_loss(other, loss, batches)
        known = {id(p) for p in other.parameters()}
        traced = ramify.trace(other, x)
        cost = ramify.cost.graph_cost(traced)
        edited = ramify.apply(traced, [row.edit])
        assert ramify.cost.graph_cost(edited) - cost == row.cost
        new = [p for p in other.parameters() if id(p) not in known]
        mean = torch.cat([loss(other, batch) for batch in batches]).mean()
        slopes = torch.autograd.grad(mean, new, allow_unused=True)
        for parameter, slope in zip(new, slopes, strict=True):
            if slope is not None:
                parameter.data -= 1e-5 * slope
        fallen = start - mean_loss(other, loss, batches)
        assert fallen / 1e-5 == pytest.approx(row.gain / 0.1, rel=2e-2)


def test_blocks_by_name() -> None:
    model, x = made("resnet")
    graph = ramify.trace(model, x)
    [row] = ramify.insert_gains(graph, loss, [x], blocks=["layer1.0"])
    assert row.block == "layer1.0"
    given: dict[str, Any] = {"blocks": ["layer2.0"]}
    with pytest.raises(RamifyError, match="no copy of block 'layer2.0' can be inserted"):
        ramify.insert_gains(graph, loss, [x], **given)
