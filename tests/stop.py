"""Ctrl-C at a place that a test chooses."""

from __future__ import annotations


class Stop:
    """A callback that raises KeyboardInterrupt once it has been called so often."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self, _: object) -> None:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
