"""Old names of settings that still work: constructor keywords that have a better name now."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def accepts_old_keywords(**names: str) -> Callable[[type[T]], type[T]]:
    """Let a class be made with the old names of its keywords as well.

    Args:
        **names: old name -> the name that it has now.

    Returns:
        What decorates the class.
    """

    def decorate(cls: type[T]) -> type[T]:
        made = cls.__init__

        @functools.wraps(made)
        def init(self: T, *args: Any, **given: Any) -> None:
            old = {names[name]: given.pop(name) for name in names.keys() & given.keys()}
            made(self, *args, **{**given, **old})  # dataclasses.replace gives both

        cls.__init__ = init  # type: ignore[method-assign, assignment]
        return cls

    return decorate
