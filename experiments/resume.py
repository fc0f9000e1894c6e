"""Commands that go on from what is finished: settings as options, results by their settings."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    results = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [result for result in results if result["settings"] == asdict(settings)]
