import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ramify.errors import RamifyError
from ramify.report import read_events, read_run

Make = Callable[..., Path]
Events = list[dict[str, Any]]


def test_reads_what_was_written(make_run: Make, events: Events) -> None:
    record = read_run(make_run(events))
    assert record.events == events
    assert record.finished
    assert record.config["model"] == "digits_net"
    assert record.versions["python"] == "3.11.9"


def test_run_without_epochs(make_run: Make) -> None:
    run = make_run([], finished=False)
    (run / "metrics.jsonl").unlink()
    record = read_run(run)
    assert record.events == []
    assert not record.finished


def test_not_a_run_folder(tmp_path: Path) -> None:
    with pytest.raises(RamifyError, match="has no config.json; give the folder"):
        read_run(tmp_path)
    with pytest.raises(RamifyError, match="does not exist"):
        read_run(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["config.json", "versions.json", "summary.json"])
@pytest.mark.parametrize("text", ['{"data": ', "[1, 2]", "", "[" * 100_000])
def test_damaged_file_is_named(make_run: Make, events: Events, name: str, text: str) -> None:
    run = make_run(events)
    (run / name).write_text(text)
    with pytest.raises(RamifyError, match=f"{name}' is damaged"):
        read_run(run)


EPOCH = (
    b'{"event": "epoch", "job": "grown-0", "arm": "grown", "seed": 0, "epoch": 0, "step": 1, '
    b'"test_accuracy": %s, "params": %s}'
)


def damage(run: Path, number: int, line: bytes) -> Path:
    """Put another line in the place of the number-th of the metrics."""
    lines = (run / "metrics.jsonl").read_bytes().splitlines()
    lines[number - 1] = line
    (run / "metrics.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    return run


@pytest.mark.parametrize(
    "line, words",
    [
        (b'{"event": "epo', "it is not JSON"),
        (b"\xff\xfe", "it is not JSON"),
        (b"", "it is not JSON"),
        (b"[1]", "it holds a list, not an event"),
        (b"[" * 100_000, "it is not JSON"),
        (b'{"event": "\\ud800", "job": "grown-0"}', "it is not JSON"),
        (EPOCH % (b"NaN", b"1"), "the field 'test_accuracy' is nan"),
        (EPOCH % (b"1e999", b"1"), "the field 'test_accuracy' is inf"),
        (
            EPOCH % (b"0.5", b"1" + b"0" * 400),
            "the field 'params' holds a number that is too large",
        ),
        (b'{"job": "grown-0"}', "the field 'event' is missing"),
        (b'{"event": "epoch", "job": "grown-0", "arm": 3}', "the field 'arm' holds a int"),
        (b'{"event": "epoch", "job": "grown-0", "arm": "grown"}', "the field 'seed' is missing"),
    ],
)
def test_damaged_line_is_numbered(make_run: Make, events: Events, line: bytes, words: str) -> None:
    with pytest.raises(RamifyError) as caught:
        read_events(damage(make_run(events), 5, line))
    assert f"metrics.jsonl' is damaged at line 5: {words}" in str(caught.value)
    assert "\n" not in str(caught.value)


def change_origin(edit: dict[str, Any]) -> None:
    edit["origin"]["conv1"][0] = 99


def shorten_origin(edit: dict[str, Any]) -> None:
    edit["origin"]["conv1"].pop()


def name_stranger(edit: dict[str, Any]) -> None:
    edit["origin"]["fc"] = [0]


def spoil_proposal(edit: dict[str, Any]) -> None:
    del edit["proposals"][2]["selected"]


def spoil_width(edit: dict[str, Any]) -> None:
    edit["widths_after"]["conv2"] = "five"


def spoil_refit(edit: dict[str, Any]) -> None:
    edit["refitted"] = [{"name": "conv1.weight", "strength": None, "before": 0.5}]


def spoil_warnings(edit: dict[str, Any]) -> None:
    edit["warnings"] = "lost nearly all"


def spoil_block(edit: dict[str, Any]) -> None:
    edit["blocks"] = {"tried": [{"behind": "layer1.0"}]}


def spoil_blocks(edit: dict[str, Any]) -> None:
    edit["blocks"] = {"tried": "layer1.0"}


def spoil_came_from(edit: dict[str, Any]) -> None:
    edit["came_from"] = {"conv1": 3}


@pytest.mark.parametrize(
    "spoil, words",
    [
        (spoil_block, "a block is wrong, the field 'inserted' is missing"),
        (spoil_blocks, "the blocks that were tried are not a list"),
        (spoil_came_from, "'came_from' does not name groups"),
        (spoil_refit, "a refit is wrong, the field 'after' is missing"),
        (spoil_warnings, "the field 'warnings' holds a str"),
        (change_origin, "names a channel outside 0..3"),
        (shorten_origin, "does not list its"),
        (name_stranger, "'fc', which has no width"),
        (spoil_proposal, "a proposal is wrong, the field 'selected' is missing"),
        (spoil_width, "a width is not a whole number"),
    ],
)
def test_impossible_edit(
    make_run: Make, events: Events, spoil: Callable[[dict[str, Any]], None], words: str
) -> None:
    number = next(k for k, event in enumerate(events, 1) if event["event"] == "edit")
    edit = json.loads(json.dumps(events[number - 1]))
    spoil(edit)
    with pytest.raises(RamifyError, match=f"line {number}: .*{words}"):
        read_events(damage(make_run(events), number, json.dumps(edit).encode()))


@pytest.mark.parametrize(
    "groups, words",
    [
        ({"conv1": 3}, "a trial of 'conv1' is not a share and a loss"),
        ({"conv1": [[0.5]]}, "a trial of 'conv1' is not a share and a loss"),
        ({"conv1": [[0.5, 1.0], ["half", 1.0]]}, "a trial of 'conv1' is not a share and a loss"),
        ([], "the field 'groups' holds a list"),
    ],
)
def test_impossible_sensitivity(make_run: Make, events: Events, groups: Any, words: str) -> None:
    event = {"event": "sensitivity", "job": "pruned-0", "loss": 0.1, "groups": groups}
    with pytest.raises(RamifyError, match=f"line 3: {words}"):
        read_events(damage(make_run(events), 3, json.dumps(event).encode()))


def test_unknown_event_is_kept(make_run: Make, events: Events) -> None:
    run = damage(make_run(events), 1, b'{"event": "note", "job": "grown-0"}')
    assert read_events(run)[0]["event"] == "note"


def cut(run: Path) -> Path:
    """Cut the metrics short in the middle of their last line."""
    path = run / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    return run


def test_last_line_cut_short_by_a_kill_is_left_out(make_run: Make, events: Events) -> None:
    assert read_events(cut(make_run(events[:4], finished=False))) == events[:3]


def test_last_line_of_a_finished_run_must_be_whole(make_run: Make, events: Events) -> None:
    with pytest.raises(RamifyError, match=f"damaged at line {len(events)}"):
        read_events(cut(make_run(events)))
