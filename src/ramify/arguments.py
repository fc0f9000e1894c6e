"""Checks of what users give: a value of another type is refused in one sentence, by its name."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import types
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from torch import Tensor, nn

from ramify.errors import RamifyError

F = TypeVar("F", bound=Callable[..., Any])

_LONG = 60  # characters of a value that a refusal shows
_WORDS: dict[Any, tuple[type, str, str]] = {
    int: (Integral, "a whole number", "whole numbers"),
    float: (Real, "a number", "numbers"),
    bool: (bool, "True or False", "True or False"),
    str: (str, "a text", "texts"),
    type(None): (type(None), "None", "None"),
}


def check_settings(settings: Any) -> None:
    """Every setting has a value of the type that its dataclass declares.

    Args:
        settings: an object of a dataclass. What may be an object of the user's own in place of one
            of ours (a latency model) is left to whoever uses it.

    Raises:
        RamifyError: a value is of another type.

    Example:
        >>> import ramify
        >>> try:
        ...     ramify.TopFraction("half")
        ... except ramify.RamifyError as error:
        ...     print(error)
        fraction of TopFraction is a number, and got 'half'
    """
    kind_of_settings: Any = type(settings)
    for name, kind in _hints(kind_of_settings).items():
        value = getattr(settings, name)
        ours = any(getattr(one, "__module__", "").startswith("ramify.") for one in get_args(kind))
        if not ours and not _is(value, kind):
            raise RamifyError(
                f"{name} of {type(settings).__name__} is {_words(kind)}, and got {shown(value)}"
            )


def is_number(value: Any) -> bool:
    """Whether a value is a real number, of Python or NumPy."""
    return isinstance(value, Real) and not isinstance(value, bool)


def shown(value: Any) -> str:
    """A value as a refusal shows it: of what is no plain value, or long, the type alone."""
    plain = isinstance(value, (Real, str, bytes, tuple, list, dict, types.NoneType))
    said = repr(value) if plain else ""
    if said and len(said) <= _LONG and "\n" not in said:
        return said
    return f"the class {value.__name__}" if inspect.isclass(value) else f"a {type(value).__name__}"


def arguments_checked(function: F) -> F:
    """Let a function refuse arguments of another type than it declares.

    Args:
        function: any.

    Returns:
        The same, which raises a `RamifyError` for such an argument.

    Example:
        >>> @arguments_checked
        ... def halved(number: float) -> float:
        ...     return number / 2
        >>> halved("x")
        Traceback (most recent call last):
        ...
        ramify.errors.RamifyError: number of halved is a number, and got 'x'
    """
    signature = inspect.signature(function)
    name = function.__qualname__.removesuffix(".__init__")

    @functools.wraps(function)
    def with_checks(*args: Any, **named: Any) -> Any:
        for key, value in signature.bind(*args, **named).arguments.items():
            kind = _declared(function).get(key, Any)
            if not _is(value, kind):
                raise RamifyError(f"{key} of {name} is {_words(kind)}, and got {shown(value)}")
        return function(*args, **named)

    return cast(F, with_checks)


@functools.cache
def _declared(function: Any) -> dict[str, Any]:
    """The declared types of arguments that stand for one thing each, as far as they can be told."""
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
    """The declared type of each field, as far as it can be told."""
    try:
        hints = get_type_hints(kind)
    except NameError:  # of a module that is imported for type checkers alone
        return {}
    return {field.name: hints[field.name] for field in dataclasses.fields(kind) if field.init}


def _is(value: Any, kind: Any) -> bool:
    """Whether a value is of a declared type; True where that is none of the plain ones."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return any(_is(value, one) for one in inner)
    if origin is Literal:
        return isinstance(value, str)  # which text it is, is asked by the class
    if origin is tuple:
        return isinstance(value, (tuple, list)) and all(_is(item, inner[0]) for item in value)
    if kind in (int, float):
        return isinstance(value, _WORDS[kind][0]) and not isinstance(value, bool)
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
    """What a declared type is called in a sentence."""
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
    """What a user gave as several, as a list; one text alone counts as a list of it.

    Args:
        given: a list, tuple or another iterable.
        name: of the argument.
        of: what it is a list of.

    Returns:
        The list.

    Raises:
        RamifyError: it is no list of anything.

    Example:
        >>> each_of("blocks.*", "alike", "patterns"), each_of(("a", "b"), "alike", "patterns")
        (['blocks.*'], ['a', 'b'])
    """
    if isinstance(given, str):
        return [given]
    if not isinstance(given, Iterable) or isinstance(given, (Mapping, bytes, Tensor)):
        raise RamifyError(f"`{name}` is a list of {of}, and this is {shown(given)}")
    return list(given)


def texts_of(given: Any, name: str, of: str) -> list[str]:
    """The same of texts.

    Args:
        given: a text, or several.
        name: of the argument.
        of: what they are.

    Returns:
        The list.

    Raises:
        RamifyError: one of them is no text.
    """
    found = each_of(given, name, of)
    for one in found:
        if not isinstance(one, str):
            raise RamifyError(f"`{name}` is a list of {of}, and holds {shown(one)}")
    return found


def check_kind(given: Any, name: str, *kinds: type, optional: bool = True) -> None:
    """An argument is an object of one of these classes.

    Args:
        given: the argument.
        name: of it.
        *kinds: the classes.
        optional: whether it may be None.

    Raises:
        RamifyError: it is not.

    Example:
        >>> check_kind({"epochs": 3}, "training", dict)
    """
    if not (isinstance(given, kinds) or (optional and given is None)):
        what = " or ".join(kind.__name__ for kind in kinds)
        raise RamifyError(f"`{name}` is a {what}, and this is {shown(given)}")


def check_called(given: Any, name: str, of: str) -> None:
    """An argument that is called later is a function, or None.

    Args:
        given: the argument.
        name: of it.
        of: what it is called with.

    Raises:
        RamifyError: it cannot be called.

    Example:
        >>> check_called(print, "log", "the report")
    """
    if given is not None and not callable(given):
        raise RamifyError(f"`{name}` is a function of {of}, and this is {shown(given)}")


def check_method_and_rule(method: Any, rule: Any, *, optional: bool = True) -> None:
    """A method can propose and a rule can select, where they are given.

    Args:
        method: a method, or None.
        rule: a rule, or None.
        optional: whether they may be None.

    Raises:
        RamifyError: one of them cannot.
    """
    for name, value, can in (("method", method, "propose"), ("rule", rule, "select")):
        made = not isinstance(value, (type, Tensor)) and callable(getattr(value, can, None))
        if not made and not (optional and value is None):
            raise RamifyError(
                f"`{name}` is an object that can {can}, such as ramify.SplittingDescent() for a "
                f"method or ramify.TopFraction(0.35) for a rule, and this is {value!r}"
            )
