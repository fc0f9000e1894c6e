"""Read a run folder, with a clear error message if it cannot be read."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ramify.commands.run_folder import (
    COMMAND,
    CONFIG,
    METRICS,
    RETRAINED,
    VERSIONS,
    seen_in_place_of,
)
from ramify.data.metric import ACCURACY, FIELDS
from ramify.errors import RamifyError, check_plain
from ramify.report.events import Event
from ramify.store.files import parse_json

Fields = dict[str, type | tuple[type, ...]]
"""The required fields of an event: their names and the allowed types of their values."""

LARGEST = 2**63  # the largest integer allowed, far above any real count
_NUMBER = (int, float)
_MAYBE = (int, float, type(None))
_JOB: Fields = {"arm": str, "seed": int}
_EPOCH = _JOB | {"epoch": int, "step": int}
_RESULT = _JOB | {"params": int, "macs": _NUMBER, "steps": int, "seconds": _NUMBER}
_WIDTHS: Fields = {"widths_before": dict, "widths_after": dict, "origin": dict, "proposals": list}
_SIZES: Fields = {"params_before": int, "params_after": int}
_LOSSES: Fields = {"loss_before": _MAYBE, "loss_after": _MAYBE, "predicted_gain": _MAYBE}
_FIELDS: dict[str, Fields] = {
    "epoch": _EPOCH | {"params": int},
    "edit": {"step": int} | _SIZES | _LOSSES | _WIDTHS,
    "stop": {"arm": str, "step": int, "round": int, "reason": str},
    "result": _RESULT | {"test_loss": _NUMBER},
    "sensitivity": {"groups": dict, "loss": _NUMBER},
    "rate": {"lr": _NUMBER, "step": int},
}
# In a search for cells logits have no accuracy, and candidates of random search are not tested.
_SEARCHED: dict[str, Fields] = {
    "epoch": _EPOCH | {"loss_a": _NUMBER, "loss_p": _NUMBER, "mixing": dict, "genotype": str},
    "result": _RESULT | {"genotype": str, "skips": _NUMBER, "latency": _NUMBER},
}
_CANDIDATE: dict[str, Fields] = {
    "epoch": _EPOCH | {"valid_accuracy": _NUMBER, "params": int},
    "result": _RESULT | {"genotype": str, "valid_accuracy": _NUMBER},
}
_PROPOSAL: Fields = {"group": str, "channel": int, "copies": int, "selected": bool}
_PROPOSAL |= {"index": _MAYBE, "score": _MAYBE, "gain": _MAYBE}
_REFITTED: Fields = {"name": str, "strength": _MAYBE, "before": _NUMBER, "after": _NUMBER}
_TRIED: Fields = {"behind": str, "inserted": bool}
_LATER: Fields = {  # what not every edit has, nor those of folders of earlier versions
    **{"floors": dict, "warnings": list, "refitted": list, "drops": list},
    **{"blocks": dict, "came_from": dict},
}


@dataclass(frozen=True)
class RunRecord:
    """The contents of a run folder.

    Args:
        name: the folder's name.
        config: the settings of the run.
        versions: the versions of its software.
        events: the lines of ``metrics.jsonl``, in order, then those of retrained networks.
        finished: whether the run wrote its summary.
        space: the description of the space of a cell search; empty for other runs.
        command_line: the command that repeats the run; empty if it is not known.
    """

    name: str
    config: dict[str, Any]
    versions: dict[str, Any]
    events: list[Event]
    finished: bool
    space: dict[str, Any] = field(default_factory=dict)
    command_line: str = ""


def read_run(run: Path) -> RunRecord:
    """Read a run folder, finished or not.

    Args:
        run: the folder.

    Returns:
        Its contents; ``events`` is empty if no epoch has ended yet.

    Raises:
        RamifyError: the folder is not a run folder, or one of its files is damaged.
    """
    run = Path(run)
    if not (run / CONFIG).is_file():
        seen = seen_in_place_of(run, CONFIG)
        raise RamifyError(
            f"'{run}' is not a run folder: it {seen}; give the folder that a command wrote, or "
            "see the runs of a sweep with ramify compare."
        )
    return RunRecord(
        name=run.resolve().name,
        config=_read_object(run / CONFIG),
        versions=_read_object(run / VERSIONS),
        events=[*read_events(run), *read_events(run / RETRAINED)],
        space=_read_object(run / "space.json"),
        finished=bool(_read_object(run / "summary.json")),
        command_line=_read_line(run / COMMAND),
    )


def read_events(run: Path) -> list[Event]:
    """Read and check the events of a run.

    Args:
        run: the run folder.

    Returns:
        One mapping for each line of ``metrics.jsonl``, in order; empty if there is no such file.
        A last line that was truncated by a kill is left out while the run is unfinished.

    Raises:
        RamifyError: a line is not an event; the message gives its number.
    """
    path = Path(run) / METRICS
    if not path.exists():
        return []
    check_plain(path)
    lines = path.read_bytes().splitlines(keepends=True)
    if lines and _cut_short(lines[-1]) and not (Path(run) / "summary.json").exists():
        lines.pop()
    return [_parse(path, number, line) for number, line in enumerate(lines, start=1)]


def _cut_short(line: bytes) -> bool:
    """Whether the last line was truncated by a kill; a resumed run writes it again."""
    try:
        parse_json(line.decode())
    except ValueError:
        return not line.endswith(b"\n")
    return False


def _read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is no such file."""
    try:
        if path.exists():
            check_plain(path)
        value = parse_json(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError as error:
        raise RamifyError(
            f"'{path}' is damaged: it is not JSON ({error}); restore the file or repeat the run."
        ) from error
    if not isinstance(value, dict):
        raise RamifyError(
            f"'{path}' is damaged: it holds a {type(value).__name__} where a JSON object was "
            "expected; restore the file or repeat the run."
        )
    return value


def _read_line(path: Path) -> str:
    """The text of a file with one line; empty if there is no such file."""
    return path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else ""


def _parse(path: Path, number: int, line: bytes) -> Event:
    """The event on a line."""
    try:
        event = parse_json(line.decode())
        if b"\\ud" in line.lower():  # an unpaired surrogate, which a page cannot show
            json.dumps(event, ensure_ascii=False).encode()
        wrong = _wrong_event(event)
    except ValueError:
        wrong = "it is not JSON"
    if wrong is not None:
        raise RamifyError(
            f"'{path}' is damaged at line {number}: {wrong}; restore it, or delete that line "
            "and all after it and resume, which runs the jobs concerned again."
        )
    return event


def _wrong_event(event: Any) -> str | None:
    """Why this is not a valid event; None if it is valid."""
    if not isinstance(event, dict):
        return f"it holds a {type(event).__name__}, not an event"
    kind, arm, fields = str(event.get("event")), str(event.get("arm")), _FIELDS
    if arm == "searched":
        fields = _SEARCHED
    elif arm.startswith("candidate") and kind in _CANDIDATE:
        fields = _CANDIDATE
    wrong = _wrong_field(event, {"event": str, "job": str} | fields.get(kind, {}))
    if wrong is None and fields is _FIELDS and kind in ("epoch", "result"):
        wrong = _wrong_metric(event)
    deeper = {"edit": _wrong_edit, "sensitivity": _wrong_sensitivity}.get(kind)
    return deeper(event) if wrong is None and deeper is not None else wrong


def _wrong_metric(event: Event) -> str | None:
    """Why the metric of an event is not valid; None if it is valid."""
    told = event.get("metric", vars(ACCURACY))
    wrong = _wrong_field(told, dict(FIELDS)) if isinstance(told, dict) else "not an object"
    if wrong is not None:
        return f"the metric is wrong, {wrong}"
    name = f"test_{told['key']}"
    wrong = _wrong_field(event, {name: _NUMBER})
    if wrong is None and not math.isfinite(event[name]):
        return f"the field '{name}' is {event[name]}"
    return wrong


def _wrong_field(values: Mapping[str, Any], fields: Fields) -> str | None:
    for name, kind in fields.items():
        if name not in values:
            return f"the field '{name}' is missing"
        if not isinstance(values[name], kind):
            return f"the field '{name}' holds a {type(values[name]).__name__}"
        if isinstance(values[name], int) and abs(values[name]) > LARGEST:
            return f"the field '{name}' holds a number that is too large"
    return None


def _wrong_edit(event: Event) -> str | None:
    """Why an edit cannot be drawn; None if it can."""
    before, after = event["widths_before"], event["widths_after"]
    wrong = _wrong_field(event, {name: kind for name, kind in _LATER.items() if name in event})
    if wrong is not None:
        return wrong
    if not isinstance(tried := event.get("blocks", {}).get("tried", []), list):
        return "the blocks that were tried are not a list"
    parts = (
        ("proposal", event["proposals"], _PROPOSAL),
        ("refit", event.get("refitted", []), _REFITTED),
        ("block", tried, _TRIED),
    )
    for what, every, fields in parts:
        for part in every:
            wrong = _wrong_field(part, fields) if isinstance(part, dict) else "not an object"
            if wrong is not None:
                return f"a {what} is wrong, {wrong}"
    if not all(isinstance(width, int) for width in [*before.values(), *after.values()]):
        return "a width is not a whole number"
    came_from = event.get("came_from", {})
    if not all(isinstance(name, str) for name in came_from.values()):
        return "'came_from' does not name groups"
    for group, origin in event["origin"].items():
        source = came_from.get(group, group)
        if source not in before or group not in after:
            return f"'origin' names the group '{group}', which has no width"
        if not isinstance(origin, list) or len(origin) != after[group]:
            return f"the origin of '{group}' does not list its {after[group]} channels"
        if not all(isinstance(old, int) and 0 <= old < before[source] for old in origin):
            return f"the origin of '{group}' names a channel outside 0..{before[source] - 1}"
    return None


def _wrong_sensitivity(event: Event) -> str | None:
    """Why a sensitivity cannot be drawn; None if it can."""
    for group, trials in event["groups"].items():
        pairs = trials if isinstance(trials, list) else [[]]
        for pair in pairs:
            alike = isinstance(pair, list) and len(pair) == 2
            if not (alike and isinstance(pair[0], _NUMBER) and isinstance(pair[1], _MAYBE)):
                return f"a trial of '{group}' is not a share and a loss"
    return None
