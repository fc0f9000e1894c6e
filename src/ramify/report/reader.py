"""Reads a run folder, and says clearly what is wrong with one that cannot be read."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ramify.commands.folder import RETRAINED
from ramify.errors import RamifyError

Event = Mapping[str, Any]

_NUMBER = (int, float)
_MAYBE = (int, float, type(None))
_FIELDS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "epoch": {
        "arm": str,
        "seed": int,
        "epoch": int,
        "step": int,
        "test_accuracy": _NUMBER,
        "params": int,
    },
    "edit": {
        "step": int,
        "widths_before": dict,
        "widths_after": dict,
        "params_before": int,
        "params_after": int,
        "loss_before": _MAYBE,
        "loss_after": _MAYBE,
        "predicted_gain": _MAYBE,
        "proposals": list,
        "origin": dict,
    },
    "stop": {"arm": str, "step": int, "round": int, "reason": str},
    "result": {
        "arm": str,
        "seed": int,
        "test_accuracy": _NUMBER,
        "test_loss": _NUMBER,
        "params": int,
        "macs": _NUMBER,
        "steps": int,
        "seconds": _NUMBER,
    },
}
# Of a search for cells: logits have no accuracy, and candidates of random search are not tested.
_PLACE: dict[str, type | tuple[type, ...]] = {"arm": str, "seed": int, "epoch": int, "step": int}
_FOUND: dict[str, type | tuple[type, ...]] = {
    "arm": str,
    "seed": int,
    "genotype": str,
    "params": int,
    "macs": _NUMBER,
    "steps": int,
    "seconds": _NUMBER,
}
_SEARCHED: dict[str, dict[str, type | tuple[type, ...]]] = {
    "epoch": {**_PLACE, "loss_a": _NUMBER, "loss_p": _NUMBER, "mixing": dict, "genotype": str},
    "result": {**_FOUND, "skips": _NUMBER, "latency": _NUMBER},
}
_CANDIDATE: dict[str, dict[str, type | tuple[type, ...]]] = {
    "epoch": {**_PLACE, "valid_accuracy": _NUMBER, "params": int},
    "result": {**_FOUND, "valid_accuracy": _NUMBER},
}
_PROPOSAL: dict[str, type | tuple[type, ...]] = {
    "group": str,
    "channel": int,
    "copies": int,
    "index": _MAYBE,
    "score": _MAYBE,
    "gain": _MAYBE,
    "selected": bool,
}


@dataclass(frozen=True)
class RunRecord:
    """Everything a run folder says about its run.

    Args:
        name: the folder's name.
        config: what the command decided.
        versions: the software that ran it.
        events: the lines of ``metrics.jsonl``, in order, then those of what was retrained.
        finished: whether the run wrote its summary.
        space: what a search for cells wrote of its space; empty for other runs.
    """

    name: str
    config: dict[str, Any]
    versions: dict[str, Any]
    events: list[Event]
    finished: bool
    space: dict[str, Any] = field(default_factory=dict)


def read_run(run: Path) -> RunRecord:
    """Read a run folder, finished or not.

    Args:
        run: the folder.

    Returns:
        What the folder holds; ``events`` is empty where no epoch has ended yet.

    Raises:
        RamifyError: the folder is not a run folder, or one of its files is damaged.
    """
    run = Path(run)
    if not (run / "config.json").is_file():
        seen = "has no config.json" if run.is_dir() else "does not exist"
        raise RamifyError(
            f"'{run}' is not a run folder: it {seen}; give the folder that `ramify grow` wrote."
        )
    return RunRecord(
        name=run.resolve().name,
        config=_read_object(run / "config.json"),
        versions=_read_object(run / "versions.json") if (run / "versions.json").exists() else {},
        events=[*read_events(run), *read_events(run / RETRAINED)],
        space=_read_object(run / "space.json") if (run / "space.json").exists() else {},
        finished=(run / "summary.json").exists() and bool(_read_object(run / "summary.json")),
    )


def read_events(run: Path) -> list[Event]:
    """Read and check the events of a run.

    Args:
        run: the run folder.

    Returns:
        One mapping for each line of ``metrics.jsonl``, in order; none where there is no such file.
        A last line that a kill cut short is left out while the run is unfinished.

    Raises:
        RamifyError: a line is not an event; the message gives its number.
    """
    path = Path(run) / "metrics.jsonl"
    if not path.exists():
        return []
    lines = path.read_bytes().splitlines(keepends=True)
    if lines and _cut_short(lines[-1]) and not (Path(run) / "summary.json").exists():
        lines.pop()
    return [_parse(path, number, line) for number, line in enumerate(lines, start=1)]


def _cut_short(line: bytes) -> bool:
    """Whether a line is what a kill leaves of the last one; a resumed run writes it again."""
    try:
        json.loads(line)
    except ValueError:
        return not line.endswith(b"\n")
    return False


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise RamifyError(
            f"'{path}' is damaged: it is not JSON ({error}); restore the file or run again."
        ) from error
    if not isinstance(value, dict):
        raise RamifyError(
            f"'{path}' is damaged: it holds a {type(value).__name__} where a JSON object was "
            "expected; restore the file or run again."
        )
    return value


def _parse(path: Path, number: int, line: bytes) -> Event:
    try:
        event = json.loads(line)
    except ValueError:
        raise _damaged(path, number, "it is not JSON") from None
    if not isinstance(event, dict):
        raise _damaged(path, number, f"it holds a {type(event).__name__}, not an event")
    fields = {"event": str, "job": str, **_fields_of(event)}
    wrong = _wrong_field(event, fields)
    if wrong is None and event["event"] == "edit":
        wrong = _wrong_edit(event)
    if wrong is not None:
        raise _damaged(path, number, wrong)
    return event


def _fields_of(event: Event) -> dict[str, type | tuple[type, ...]]:
    """What an event of this kind, of this arm, must have."""
    kind, arm = str(event.get("event")), str(event.get("arm"))
    if arm == "searched":
        return _SEARCHED.get(kind, {})
    if arm.startswith("candidate") and kind in _CANDIDATE:
        return _CANDIDATE[kind]
    return _FIELDS.get(kind, {})


def _damaged(path: Path, number: int, what: str) -> RamifyError:
    return RamifyError(
        f"'{path}' is damaged at line {number}: {what}; go on from the last checkpoint with "
        "`ramify grow --resume`, or delete that line and all after it."
    )


def _wrong_field(
    values: Mapping[str, Any], fields: Mapping[str, type | tuple[type, ...]]
) -> str | None:
    for name, kind in fields.items():
        if name not in values:
            return f"the field '{name}' is missing"
        if not isinstance(values[name], kind):
            return f"the field '{name}' holds a {type(values[name]).__name__}"
    return None


def _wrong_edit(event: Event) -> str | None:
    """What makes an edit impossible to draw, if anything."""
    before, after = event["widths_before"], event["widths_after"]
    for proposal in event["proposals"]:
        wrong = _wrong_field(proposal, _PROPOSAL) if isinstance(proposal, dict) else "not an object"
        if wrong is not None:
            return f"a proposal is wrong, {wrong}"
    for side in (before, after):
        if not all(isinstance(width, int) for width in side.values()):
            return "a width is not a whole number"
    for group, origin in event["origin"].items():
        if group not in before or group not in after:
            return f"'origin' names the group '{group}', which has no width"
        if not isinstance(origin, list) or len(origin) != after[group]:
            return f"the origin of '{group}' does not list its {after[group]} channels"
        if not all(isinstance(old, int) and 0 <= old < before[group] for old in origin):
            return f"the origin of '{group}' names a channel outside 0..{before[group] - 1}"
    return None
