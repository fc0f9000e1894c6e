"""One trial: run some work, raise an error at one line of Ramify, and compare the state."""

from __future__ import annotations

import ast
import functools
import random
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

import ramify
from benchmarks.faults.state import Snapshot, differences, snapshot
from benchmarks.faults.work import MAKES_MODULES, WORKS, Work, new

SOURCE = str(Path(ramify.__file__).parent)
ERRORS: tuple[type[BaseException], ...] = (KeyboardInterrupt, MemoryError, RuntimeError)


@dataclass(frozen=True)
class Fault:
    """The result of an error at one line.

    Attributes:
        work: the name of the work.
        place: the file and the line.
        error: the error's name.
        wrong: the entries whose state is neither that before nor that after the work.
        ended: the error that was finally raised, ``""`` if the work succeeded anyway.
    """

    work: str
    place: str
    error: str
    wrong: tuple[str, ...]
    ended: str


def lines_of(name: str, within: str = "") -> int:
    """The number of lines of Ramify that a work runs, after one-time computations are cached.

    Args:
        name: the name of the work.
        within: count only the lines of files whose path ends with this.

    Returns:
        The number.
    """
    count = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(2):
            lines = _Lines(0, RuntimeError, within)
            _under(lines, name, new())
            count = lines.count
    return count


def expected(name: str) -> Snapshot:
    """The state after a work without errors, independent of the ids of objects."""
    work = new()
    WORKS[name](work)
    return _state(work)


def run(name: str, lines: int, seed: int, within: str = "") -> Fault:
    """Raise an error at a random line.

    Args:
        name: the name of the work.
        lines: the number of its lines.
        seed: seed of the line and the error.
        within: as in :func:`lines_of`.

    Returns:
        The result.
    """
    draw = random.Random(f"{name} {seed}")
    found = _Lines(draw.randint(1, lines), draw.choice(ERRORS), within)
    work = new()
    before, ended = _state(work), ""
    done = _copy_done(name, work)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            _under(found, name, work)
        except BaseException as error:
            ended = f"{type(error).__name__}: {error}"[:300]
    after = _state(work)
    wrong = differences(before, after)
    if name == MAKES_MODULES:  # new modules have new ids each time
        done, after = _without_ids(done), _without_ids(after)
    if wrong and not differences(done, after):
        wrong = []
    wrong += _wrong_files(name, work)
    torch.set_grad_enabled(True)  # for the next trial
    return Fault(name, found.place, found.error.__name__, tuple(wrong), ended)


class _Lines:
    """Counts the lines of Ramify, and raises an error at one of them."""

    def __init__(self, at: int, error: type[BaseException], within: str) -> None:
        self.count, self.at, self.error, self.place = 0, at, error, ""
        self.within = within

    def __call__(self, frame: FrameType, event: str, _: Any) -> Callable[..., Any] | None:
        if not frame.f_code.co_filename.startswith(SOURCE):
            return None
        if not frame.f_code.co_filename.endswith(self.within):
            return None
        if event == "line" and frame.f_lineno not in _of_with(frame.f_code.co_filename):
            self.count += 1
            if self.count == self.at:
                file = Path(frame.f_code.co_filename).relative_to(SOURCE)
                self.place = f"{file}:{frame.f_lineno} in {frame.f_code.co_name}"
                raise self.error("raised on purpose")
        return self


@functools.cache
def _of_with(file: str) -> frozenset[int]:
    """The line numbers of the heads of `with` statements.

    Python visits these a second time when the block ends, and an error there would skip the exit of
    the context manager, which no signal or lack of memory can do.

    Args:
        file: a file of Ramify.

    Returns:
        The line numbers.
    """
    found = set[int]()
    for node in ast.walk(ast.parse(Path(file).read_text())):
        if isinstance(node, ast.With):
            found |= set(range(node.lineno, node.body[0].lineno))
    return frozenset(found)


def _under(lines: _Lines, name: str, work: Work) -> None:
    sys.settrace(lines)
    try:
        WORKS[name](work)
    finally:
        sys.settrace(None)


def _state(work: Work) -> Snapshot:
    return snapshot(work.model, work.parts, work.optimizer, work.follower)


def _copy_done(name: str, work: Work) -> Snapshot:
    """The state after the work, with the ids of this work's own objects."""
    other = new()
    own, first = _identities(work), _identities(other)
    WORKS[name](other)
    theirs = _identities(other)
    theirs = theirs if len(theirs) == len(own) else first  # blocks were removed or inserted
    return _renamed(_state(other), dict(zip(theirs, own, strict=True)))


def _identities(work: Work) -> list[int]:
    """The ids of all objects in a snapshot, in a fixed order."""
    found: list[int] = []
    for module in work.model.modules():
        found += [id(module), *(id(t) for t in module._parameters.values())]
        found += [id(tensor) for tensor in module._buffers.values()]
        found += [id(value) for value in vars(module).values()]
    return found


def _renamed(value: Any, names: dict[int, int]) -> Any:
    if isinstance(value, dict):
        return {key: _renamed(item, names) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_renamed(item, names) for item in value)
    return names.get(value, value) if type(value) is int and value > 2**20 else value


def _without_ids(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_ids(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_without_ids, value))
    return 0 if type(value) is int and value > 2**20 else value


def _wrong_files(name: str, work: Work) -> list[str]:
    """Files that are neither complete nor absent."""
    if name != "save":
        return []
    names = sorted(path.name for path in work.folder.iterdir())
    if names and names != ["net.json", "net.safetensors"]:
        if names == ["net.json"]:  # between the two renames, as after a kill
            return []
        return [f"files {names}"]
    return []
