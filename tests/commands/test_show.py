"""What `ramify show` prints: groups, and blocks behind them."""

from __future__ import annotations

from ramify.commands.show import groups_of


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
