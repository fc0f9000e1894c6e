"""Checks of arguments: a value of the wrong type is refused with a message that names it."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import types
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from typing import (
    Any,
    Literal,
    TypeGuard,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from torch import Tensor, nn

from ramify.errors import RamifyError

F = TypeVar("F", bound=Callable[..., Any])

_LONG = 60  # characters of a value that a message shows
_WORDS: dict[Any, tuple[type, str, str]] = {
    int: (Integral, "a whole number", "whole numbers"),
    float: (Real, "a number", "numbers"),
    bool: (bool, "True or False", "True or False"),
    str: (str, "a text", "texts"),
    type(None): (type(None), "None", "None"),
}


def check_settings(settings: Any) -> None:
    """Check that every setting has the type that its dataclass declares.

    Args:
        settings: an object of a dataclass. Fields that accept user-defined objects (a latency
            model) are checked where they are used.

    Raises:
        RamifyError: a value has the wrong type.

    Example:
        >>> import ramify
        >>> try:
        ...     ramify.TopFraction("half")
        ... except ramify.RamifyError as error:
        ...     print(error)
        fraction of TopFraction must be a number, but got 'half'
    """
    kind_of_settings: Any = type(settings)
    for name, kind in _hints(kind_of_settings).items():
        value = getattr(settings, name)
        ours = any(getattr(one, "__module__", "").startswith("ramify.") for one in get_args(kind))
        if not ours and not _is(value, kind):
            raise RamifyError(
                f"{name} of {type(settings).__name__} must be {_words(kind)}, "
                f"but got {shown(value)}"
            )


def is_number(value: Any) -> bool:
    """Whether a value is a real number of Python or NumPy."""
    return isinstance(value, Real) and not isinstance(value, bool)


def is_whole(value: Any) -> TypeGuard[int]:
    """Whether a value is a whole number of Python or NumPy."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def shown(value: Any) -> str:
    """A value as a message shows it: only its type if it is long or not a plain value."""
    plain = isinstance(value, (Real, str, bytes, tuple, list, dict, types.NoneType))
    said = repr(value) if plain else ""
    if said and len(said) <= _LONG and "\n" not in said:
        return said
    return f"the class {value.__name__}" if inspect.isclass(value) else f"a {type(value).__name__}"


def form_of(value: Any) -> str:
    """The shape of a tensor as a message shows it; of another object, what `shown` gives."""
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else shown(value)


def arguments_checked(function: F) -> F:
    """Make a function refuse arguments that do not have the declared types.

    Args:
        function: any function.

    Returns:
        The same function, which raises a `RamifyError` for such an argument.

    Example:
        >>> @arguments_checked
        ... def halved(number: float) -> float:
        ...     return number / 2
        >>> halved("x")
        Traceback (most recent call last):
        ...
        ramify.errors.RamifyError: number of halved must be a number, but got 'x'
    """
    signature = inspect.signature(function)
    name = function.__qualname__.removesuffix(".__init__")

    @functools.wraps(function)
    def with_checks(*args: Any, **named: Any) -> Any:
        for key, value in signature.bind(*args, **named).arguments.items():
            kind = _declared(function).get(key, Any)
            if not _is(value, kind):
                raise RamifyError(f"{key} of {name} must be {_words(kind)}, but got {shown(value)}")
        return function(*args, **named)

    return cast(F, with_checks)


@functools.cache
def _declared(function: Any) -> dict[str, Any]:
    """The declared types of all arguments but `*args` and `**kwargs`, as far as they are known."""
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    try:
        hints = get_type_hints(function)
    except NameError:
        return {}
    kinds = inspect.signature(function).parameters
    return {
        key: kind for key, kind in hints.items() if key in kinds and kinds[key].kind not in several
    }


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    """The declared type of each field, as far as it is known."""
    try:
        hints = get_type_hints(kind)
    except NameError:  # a module that is imported only for type checkers
        return {}
    return {field.name: hints[field.name] for field in dataclasses.fields(kind) if field.init}


def _is(value: Any, kind: Any) -> bool:
    """Whether a value has a declared type; True if that is not one of the plain types."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return any(_is(value, one) for one in inner)
    if origin is Literal:
        return isinstance(value, str)  # the class checks which string it is
    if origin is tuple:
        return isinstance(value, (tuple, list)) and all(_is(item, inner[0]) for item in value)
    if kind in (int, float):
        return is_whole(value) if kind is int else is_number(value)
    if kind in _WORDS:
        return isinstance(value, _WORDS[kind][0])
    wanted = kind if origin is None else origin
    if wanted is Callable:
        return callable(value)
    if kind is Any or not inspect.isclass(wanted) or getattr(wanted, "_is_protocol", False):
        return True
    if issubclass(wanted, Iterable) and not issubclass(wanted, (Mapping, nn.Module, Tensor)):
        return isinstance(value, Iterable) and not (isinstance(value, Tensor) and not value.dim())
    return isinstance(value, wanted)


def _words(kind: Any) -> str:
    """The name of a declared type in a message."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(_words(one) for one in inner)
    if origin is Literal:
        return " or ".join(map(repr, inner))
    if origin is tuple:
        return f"a tuple of {_WORDS[inner[0]][2]}" if inner[0] in _WORDS else "a tuple"
    if kind in _WORDS:
        return _WORDS[kind][1]
    wanted = kind if origin is None else origin
    if wanted is Callable:
        return "a function"
    if inspect.isclass(wanted) and origin is not None:
        return "a dictionary" if issubclass(wanted, Mapping) else "a list"
    return f"a {getattr(wanted, '__name__', wanted)}"


def each_of(given: Any, name: str, of: str) -> list[Any]:
    """Return an argument with several values as a list; a single string gives a list of one.

    Args:
        given: a list, tuple or another iterable.
        name: the name of the argument.
        of: what it is a list of.

    Returns:
        The list.

    Raises:
        RamifyError: the argument is not iterable.

    Example:
        >>> each_of("blocks.*", "alike", "patterns"), each_of(("a", "b"), "alike", "patterns")
        (['blocks.*'], ['a', 'b'])
    """
    if isinstance(given, str):
        return [given]
    if not isinstance(given, Iterable) or isinstance(given, (Mapping, bytes, Tensor)):
        raise RamifyError(f"`{name}` must be a list of {of}, but got {shown(given)}")
    return list(given)


def texts_of(given: Any, name: str, of: str) -> list[str]:
    """Return an argument of one or several strings as a list.

    Args:
        given: a string, or several.
        name: the name of the argument.
        of: what the strings are.

    Returns:
        The list.

    Raises:
        RamifyError: one of them is not a string.
    """
    found = each_of(given, name, of)
    for one in found:
        if not isinstance(one, str):
            raise RamifyError(f"`{name}` must be a list of {of}, but holds {shown(one)}")
    return found


def check_kind(given: Any, name: str, *kinds: type, optional: bool = True) -> None:
    """Check that an argument is an instance of one of some classes.

    Args:
        given: the argument.
        name: its name.
        *kinds: the classes.
        optional: whether it may be None.

    Raises:
        RamifyError: it is not.

    Example:
        >>> check_kind({"epochs": 3}, "training", dict)
    """
    if not (isinstance(given, kinds) or (optional and given is None)):
        what = " or ".join(kind.__name__ for kind in kinds)
        raise RamifyError(f"`{name}` must be a {what}, but got {shown(given)}")


def check_called(given: Any, name: str, of: str) -> None:
    """Check that an argument is callable or None.

    Args:
        given: the argument.
        name: its name.
        of: what it is called with.

    Raises:
        RamifyError: it cannot be called.

    Example:
        >>> check_called(print, "log", "the report")
    """
    if given is not None and not callable(given):
        raise RamifyError(f"`{name}` must be a function of {of}, but got {shown(given)}")


def check_method_and_rule(method: Any, rule: Any) -> None:
    """Check that a method can propose and a rule can select, if they are given.

    Args:
        method: a method, or None.
        rule: a rule, or None.

    Raises:
        RamifyError: one of them cannot.
    """
    for name, value, can in (("method", method, "propose"), ("rule", rule, "select")):
        made = not isinstance(value, (type, Tensor)) and callable(getattr(value, can, None))
        if not made and value is not None:
            raise RamifyError(
                f"`{name}` must be an object that can {can}, such as ramify.SplittingDescent() for "
                f"a method or ramify.TopFraction(0.35) for a rule, but got {value!r}"
            )
