"""Commands that go on from what is finished: settings as options, results by their settings."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ramify.store.files import write_lines

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def add_settings(parser: argparse.ArgumentParser, usual: DataclassInstance) -> None:
    """Make every setting of a study an option of its name.

    Args:
        parser: of the command.
        usual: the settings where nothing is asked for.
    """
    for field in fields(usual):
        value = getattr(usual, field.name)
        parser.add_argument(f"--{field.name}", type=type(value), default=value)


def finished(file: Path, settings: DataclassInstance) -> list[dict[str, Any]]:
    """What a file of results, one a line, holds of runs with these settings.

    Args:
        file: the results; none where it is not there.
        settings: what the runs must have had.

    Returns:
        The results, in order.
    """
    return [result for result in _read(file) if result["settings"] == asdict(settings)]


def keep(file: Path, settings: DataclassInstance, results: Sequence[dict[str, Any]]) -> None:
    """Write the results of runs with these settings; those of other settings stay in the file.

    Args:
        file: the results, one a line; its folder is made where it is not there.
        settings: what the runs had.
        results: all of them, those that `finished` gave too; each holds its ``settings``.
    """
    others = [result for result in _read(file) if result["settings"] != asdict(settings)]
    file.parent.mkdir(parents=True, exist_ok=True)
    write_lines(file, [*others, *results])


def _read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
