"""The command line that repeats a run, to copy."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from ramify.commands.launched import launcher
from ramify.commands.settings import Settings
from ramify.errors import RamifyError

SELECTORS = ("data", "method", "rule", "searcher", "space", "model", "weights", "budget")
Kind = TypeVar("Kind", bound=Settings)


def options_for(settings: Kind, resolve: Callable[[Mapping[str, Any]], Kind]) -> dict[str, Any]:
    """The options that produce settings, without those that have their default values.

    Args:
        settings: The settings of a run.
        resolve: Fills in the defaults of missing options.

    Returns:
        Options by name, which ``resolve`` turns into these settings.
    """
    names = list(settings.options())
    names.sort(key=lambda name: SELECTORS.index(name) if name in SELECTORS else len(SELECTORS))
    values = {name: getattr(settings, name) for name in names}
    given = {name: values[name] for name in names[:1]}

    def found(options: Mapping[str, Any]) -> Settings | None:
        try:
            return resolve(options)
        except RamifyError:  # some settings require others
            return None

    for name in names[1:]:
        now = found(given)
        if now == settings:
            break
        if values[name] is not None and (now is None or getattr(now, name) != values[name]):
            given[name] = values[name]
    for name in names[1:]:  # a later option may imply an earlier one
        fewer = {key: value for key, value in given.items() if key != name}
        if name in given and found(fewer) == settings:
            given = fewer
    return given


def command_line(command: str, options: Mapping[str, Any], before: Iterable[str] = ()) -> str:
    """A command line.

    Args:
        command: Such as ``"grow"``.
        options: Values by name.
        before: Positional arguments.

    Returns:
        Text for a shell.

    Example:
        >>> command_line("grow", {"data": "my digits", "budget": {"params": 5e3}, "trial": False})
        "ramify grow --data 'my digits' --budget params=5000 --no-trial"
    """
    words = [command, *before]
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        elif isinstance(value, Mapping):
            for key, number in value.items():
                words += [flag, f"{key}={_plain(number)}"]
        elif isinstance(value, tuple | list):
            words += [flag, ",".join(map(str, value))]
        else:
            words += [flag, str(value)]
    return f"{launcher()} {shlex.join(words)}"


def _plain(number: Any) -> str:
    """A number in the form to type; 1.0 keeps its point, since it may be a share and 1 a count."""
    whole = isinstance(number, float) and number.is_integer() and number > 1
    return f"{number:.0f}" if whole else str(number)
