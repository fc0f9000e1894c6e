"""What a sweep varies, from the texts of ``--vary``: choices and ranges of settings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from ramify.cli.options import container, parsed, scalar
from ramify.commands.settings import RUN, Settings, check_choice
from ramify.errors import RamifyError, did_you_mean

LOG = ":log"
FORM = "NAME=VALUE,VALUE,... or NAME=LOW..HIGH, such as lr=0.01..0.3:log"


@dataclass(frozen=True)
class Choices:
    """One of several values.

    Attributes:
        texts: As on the command line.
    """

    texts: tuple[str, ...]


@dataclass(frozen=True)
class Range:
    """A number between two others.

    Attributes:
        low: The least.
        high: The most.
        log: Whether it is drawn evenly by its logarithm.
        whole: Whether it is a whole number.
    """

    low: float
    high: float
    log: bool
    whole: bool


Space = dict[str, Choices | Range]
"""What is varied, by the name of the setting."""


def space_of(kind: type[Settings], texts: Sequence[str]) -> Space:
    """What a sweep varies.

    Args:
        kind: The settings of the command that it runs.
        texts: Such as ``"method=s2d,random"`` or ``"lr=0.01..0.3:log"``.

    Returns:
        The choices or the range of each setting.

    Raises:
        RamifyError: A text is of another form, or names a setting that cannot be varied.
    """
    space: Space = {}
    for text in texts:
        name, equals, values = (part.strip() for part in text.partition("="))
        name = name.lstrip("-").replace("-", "_")
        if not (equals and values):
            raise RamifyError(f"--vary is {text!r}; give {FORM}.")
        _check_name(kind, name)
        if name in space:
            raise RamifyError(f"--vary names {name} twice; give each once.")
        space[name] = _range(kind, name, values) if ".." in values else _choices(kind, name, values)
    if not space:
        raise RamifyError(f"a sweep needs a setting to vary: give --vary {FORM}.")
    return space


def combinations(space: Space) -> list[dict[str, str]] | None:
    """Every combination of choices; None where a range has no end of them."""
    several = [entry.texts for entry in space.values() if isinstance(entry, Choices)]
    if len(several) < len(space):
        return None
    return [dict(zip(space, values, strict=True)) for values in product(*several)]


def settings_of(kind: type[Settings], drawn: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that were drawn, as a command takes them.

    Args:
        kind: The settings of the command.
        drawn: Texts and numbers by name.

    Returns:
        Values by name.

    Raises:
        RamifyError: A text is no value of its setting.
    """
    options: dict[str, Any] = {}
    for name, value in drawn.items():
        field = kind.model_fields[name]
        options[name] = value
        if isinstance(value, str):
            options[name] = [value] if container(field) is dict else _typed(kind, name, value)
    return parsed(options, {name: (kind, field) for name, field in kind.model_fields.items()})


def drawn_in_words(drawn: Mapping[str, Any]) -> str:
    """What was drawn, such as ``lr=0.0312 method=s2d``."""
    return " ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in drawn.items()
    )


def _check_name(kind: type[Settings], name: str) -> None:
    known = kind.options()
    free = [n for n, entry in known.items() if entry["panel"] != RUN and n != "data"]
    if name not in known:
        raise RamifyError(
            f"ramify {kind.command()} has no setting {name!r}{did_you_mean(name, free)} to vary; "
            f"ramify {kind.command()} --help lists them."
        )
    if name not in free or container(kind.model_fields[name]) is tuple:
        raise RamifyError(
            f"{name} cannot be varied, since "
            + ("it is a list" if name in free else "results would not compare")
            + "; vary another setting."
        )


def _choices(kind: type[Settings], name: str, values: str) -> Choices:
    texts = tuple(dict.fromkeys(part.strip() for part in values.split(",")))
    for text in texts:
        settings_of(kind, {name: text})
        check_choice(name, text, kind.options()[name]["choices"])
    return Choices(texts)


def _range(kind: type[Settings], name: str, values: str) -> Range:
    field = kind.model_fields[name]
    plain = scalar(field)
    ends = values.removesuffix(LOG).split("..")
    try:
        low, high = map(float, ends)
        fits = plain in (int, float) and container(field) is None and math.isfinite(low + high)
    except ValueError:
        fits = False
    if not fits:
        raise RamifyError(
            f"--vary is {name + '=' + values!r}; a range is of a setting that is a number, and has "
            "two numbers, such as lr=0.01..0.3:log."
        )
    log, whole = values.endswith(LOG), plain is int
    if not low < high or (log and low <= 0) or (whole and low % 1 + high % 1):
        needed = "whole numbers, " if whole else ""
        raise RamifyError(
            f"the range of {name} is {values}; give {needed}the smaller number first"
            f"{', above 0' if log else ''}."
        )
    return Range(low, high, log, whole)


def _typed(kind: type[Settings], name: str, text: str) -> Any:
    """A text as the type of its setting."""
    plain = scalar(kind.model_fields[name])
    if plain is bool:
        if text not in ("true", "false"):
            raise RamifyError(f"{name} is {text!r} in --vary; give true or false.")
        return text == "true"
    try:
        return plain(text)
    except ValueError:
        number, example = ("a whole number", "1..4") if plain is int else ("a number", "0.1..0.3")
        raise RamifyError(
            f"{name} is {text!r} in --vary; give {number}, several with commas between, or a range "
            f"such as {example}."
        ) from None
