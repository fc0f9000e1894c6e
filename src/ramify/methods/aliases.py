"""Old names of settings that still work: constructor keywords that have been renamed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def accepts_old_keywords(**names: str) -> Callable[[type[T]], type[T]]:
    """Let a class accept the old names of its keywords as well.

    Args:
        **names: old name -> current name.

    Returns:
        The class decorator.
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
