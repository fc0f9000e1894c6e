"""Destinations of the events of a run: a function, a logger of numbers, or a TensorBoard log."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from ramify.arguments import arguments_checked
from ramify.errors import RamifyError
from ramify.imports import require

TAGS = ("seed",)  # numbers that identify the network and are not measures


class Logger(Protocol):
    """A logger of numbers by name, such as a run of Weights & Biases."""

    def log(self, data: dict[str, Any], /) -> Any:
        """Log the numbers of one event."""


Log = Callable[[dict[str, Any]], Any] | Logger
"""A function that is called with each event, or a logger that gets its numbers."""


def told_to(log: Log | None) -> Callable[[dict[str, Any]], Any] | None:
    """The function to call with each event.

    Args:
        log: A function of the event, an object with ``log(dict)``, or None.

    Returns:
        The function; for an object, one that passes the event's numbers to it; None for None.

    Raises:
        RamifyError: ``log`` is none of these.

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
            f"`log` must be a function of an event, or an object with log(dict), but got {log!r}"
        )
    return lambda event: write(numbers(event))


def numbers(event: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of an event, by flat names.

    Args:
        event: An event as passed to ``log``.

    Returns:
        Numbers by name; those of a nested dictionary are prefixed with its name.

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
        folder: The folder for its files. Files of an earlier part of the same run are kept, but
            their entries for later steps are purged.

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
