"""Where the events of a run go: a function, any logger of numbers, or a TensorBoard log."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from ramify.arguments import arguments_checked
from ramify.errors import RamifyError
from ramify.imports import require

TAGS = ("seed",)  # numbers that say which network it is


class Logger(Protocol):
    """What takes numbers by name, such as a run of Weights & Biases."""

    def log(self, data: dict[str, Any], /) -> Any:
        """Take the numbers of one event."""


Log = Callable[[dict[str, Any]], Any] | Logger
"""A function that is called with each event, or a logger that gets its numbers."""


def told_to(log: Log | None) -> Callable[[dict[str, Any]], Any] | None:
    """What is called with each event.

    Args:
        log: A function of the event, an object with ``log(dict)``, or None for nothing.

    Returns:
        The function; for an object, one that gives it the event's numbers.

    Raises:
        RamifyError: It is neither.

    Example:
        >>> class Printer:
        ...     def log(self, data):
        ...         print(data)
        >>> told_to(Printer())({"event": "epoch", "step": 20, "train_loss": 0.5})
        {'step': 20.0, 'train_loss': 0.5}
    """
    if log is None or (callable(log) and not isinstance(log, type)):
        return log
    write = getattr(log, "log", None)
    if not callable(write) or isinstance(log, type):
        raise RamifyError(
            f"`log` is a function of an event, or an object with log(dict), and this is {log!r}"
        )
    return lambda event: write(numbers(event))


def numbers(event: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of an event, by flat names.

    Args:
        event: As ``log`` gets it.

    Returns:
        Numbers by name; those of a table within have its name in front.

    Example:
        >>> numbers({"event": "edit", "step": 8, "widths_after": {"conv": 5}, "proposals": []})
        {'step': 8.0, 'widths_after/conv': 5.0}
    """
    found: dict[str, float] = {}
    for name, value in event.items():
        if isinstance(value, Mapping):
            found |= {f"{name}/{key}": number for key, number in numbers(value).items()}
        elif isinstance(value, int | float) and not isinstance(value, bool) and name not in TAGS:
            found[name] = float(value)
    return found


class TensorBoard:
    """A TensorBoard log of a run, with the extra ``tensorboard``: an object with ``log(dict)``.

    Args:
        folder: Where its files are to be; those of an earlier part of the same run stay, and what
            they say of later steps is taken back.

    Raises:
        RamifyError: TensorBoard is not installed.

    Example:
        >>> import ramify
        >>> board = ramify.TensorBoard("runs/mine")  # doctest: +SKIP
        >>> ramify.grow(..., log=board)  # doctest: +SKIP
    """

    @arguments_checked
    def __init__(self, folder: str | Path) -> None:
        require("tensorboard", "tensorboard", "a TensorBoard log needs")
        self.folder = Path(folder)
        self._writer: Any = None

    def log(self, data: dict[str, Any], /) -> None:
        """Write the numbers of one event, at its step."""
        values = dict(data)
        step = int(values.pop("step"))
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self.folder), purge_step=step)
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()
