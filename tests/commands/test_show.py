"""What `ramify show` prints: groups, and blocks behind them."""

from __future__ import annotations

import torch

import ramify
from ramify.commands.show import groups_of
from tests.block_nets import stream


def shown(model: str) -> str:
    return groups_of(model, data=None, shape="1,3,8,8", classes=3, width=None)


def test_blocks_are_listed_behind_the_groups() -> None:
    lines = shown("tests.block_nets:stream").splitlines()
    place = lines.index("7 blocks")
    assert "channel groups" in lines[0]
    assert lines[place + 1].split() == "block kind params MACs drop insert why not".split()
    [row] = [line for line in lines[place + 1 :] if line.startswith("2 ")]
    assert row.split() == ["2", "residual", "342", "21,120", "yes", "yes"]
    assert any("changes the shape" in line for line in lines[place:])


def test_the_cost_of_the_whole_network_comes_last() -> None:
    net = stream(3, 3)
    params = sum(parameter.numel() for parameter in net.parameters())
    macs = sum(block.cost.macs for block in ramify.trace(net, torch.zeros(1, 3, 8, 8)).blocks)
    *_, last = shown("tests.block_nets:stream").splitlines()
    said, rest = last.split(" parameters, ")
    assert said == f"{params:,}"
    assert int(rest.split(" MACs")[0].replace(",", "")) >= macs
    assert rest.endswith(" MACs for an input of shape (1, 3, 8, 8)")
