"""Imports objects named as ``package.module:object``, and checks optional dependencies."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ramify.errors import RamifyError, did_you_mean


def object_at(
    text: str, what: str, known: str = "package.module:object", names: Iterable[str] = ()
) -> Any:
    """Import the object that a user names as ``package.module:object``.

    Args:
        text: the name; the module is searched on Python's path and in the current directory.
        what: what the object is, such as ``model``, for errors.
        known: the valid values, for errors.
        names: the valid names, of which an error suggests the most similar one.

    Returns:
        The object.

    Raises:
        RamifyError: the text does not have this form, or there is no such module or object.

    Example:
        >>> object_at("math:sqrt", "function")(9)
        3.0
    """
    module_name, colon, path = text.partition(":")
    if not (module_name and colon and path):
        near = did_you_mean(text, names)
        module, dot, last = text.rpartition(".")
        if not near and dot and all(part.isidentifier() for part in text.split(".")):
            near = f" (did you mean '{module}:{last}'?)"
        raise RamifyError(f"unknown {what} {text!r}{near}: give {known}.")
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise RamifyError(
            f"{module_name!r}, before the colon of the {what} {text!r}, is no name of a module: "
            "write it as an import would, such as package.module, without a path."
        )
    if module_name.endswith(".py") and Path(f"{module_name[:-3].replace('.', '/')}.py").exists():
        raise RamifyError(
            f"the {what} {text!r} names a file, where a module is expected: give "
            f"{module_name[:-3]}:{path}."
        )
    found = _module(module_name, f"the {what} {text!r}")
    for name in path.split("."):
        if not hasattr(found, name):
            raise RamifyError(
                f"{module_name} has no {path!r}, which the {what} {text!r} asks for: correct "
                "the name after the colon."
            )
        found = getattr(found, name)
    return found


def made(
    found: Any, text: str, what: str, given: Mapping[str, Any] | None = None, **offered: Any
) -> Any:
    """Call a class or function that the user named, with the offered arguments that it takes.

    Args:
        found: the class or the function.
        text: the user's name for it, for errors.
        what: what the result is, for errors.
        given: keyword arguments that it must accept.
        **offered: keyword arguments; those that its signature does not name are omitted.

    Returns:
        The result.

    Raises:
        RamifyError: it needs an argument that is not offered, or does not accept one of `given`.

    Example:
        >>> made(dict, "builtins:dict", "table")
        {}
    """
    try:
        signature = inspect.signature(found)
    except ValueError:  # a class in C without a signature
        try:
            return found()
        except TypeError as error:
            raise RamifyError(
                f"the {what} {text} cannot be called without arguments ({error}): give a function "
                "that can."
            ) from error
    taken = {key: value for key, value in offered.items() if key in signature.parameters}
    taken |= given or {}
    try:
        signature.bind(**taken)
    except TypeError as error:
        raise RamifyError(
            f"the {what} {text}{signature} cannot be called with {', '.join(taken) or 'nothing'} "
            f"({error}): leave out what it does not take, and give a default to what is not among "
            f"{', '.join(offered) or 'these'}."
        ) from error
    return found(**taken)


def takes_arguments(call: Any, count: int, named: str, text: str, what: str) -> None:
    """Check that a method of a user's object takes the arguments that it will be called with.

    Args:
        call: the bound method.
        count: the number of positional arguments that it will get.
        named: the expected signature, for errors.
        text: the user's name for the object, for errors.
        what: what the object is, for errors.

    Raises:
        RamifyError: it takes fewer arguments, or needs more.

    Example:
        >>> takes_arguments(dict().get, 2, "get(key, default)", "mine:table", "table")
    """
    if misfit := why_not_called(call, count):
        signature, error = misfit
        raise RamifyError(
            f"the {what} {text} has {call.__name__}{signature}, which cannot be called as "
            f"{named} ({error}): give it these arguments."
        ) from error


def why_not_called(call: Any, count: int) -> tuple[inspect.Signature, TypeError] | None:
    """Why a function cannot be called with a number of positional arguments.

    Args:
        call: the function.
        count: the number of arguments.

    Returns:
        Its signature and the error of such a call; None if it can be called, or if it is a function
        in C without a signature.

    Example:
        >>> why_not_called(dict().get, 0) is None, why_not_called(dict().get, 1) is None
        (False, True)
    """
    try:
        signature = inspect.signature(call)
    except (TypeError, ValueError):
        return None
    try:
        signature.bind(*[None] * count)
    except TypeError as error:
        return signature, error
    return None


def place_in_users_code(error: BaseException) -> str | None:
    """The location of an error in the user's code, outside Ramify, Python and installed packages.

    Args:
        error: the error that was raised.

    Returns:
        The innermost such location, as the end of a sentence; None if there is none.

    Example:
        >>> place_in_users_code(ValueError("raised nowhere"))
    """
    if isinstance(error, SyntaxError) and error.filename and _is_users(error.filename):
        return f"in line {error.lineno} of {error.filename}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if _is_users(f.filename)]
    if not frames:
        return None
    inside = "" if frames[-1].name.startswith("<") else f", in {frames[-1].name}"
    return f"in line {frames[-1].lineno} of {frames[-1].filename}{inside}"


def _is_users(file: str) -> bool:
    paths = sysconfig.get_paths()
    places = [str(Path(__file__).parent)]
    places += [paths[key] for key in ("stdlib", "purelib", "platlib")]
    command = Path(sys.argv[0]).resolve()
    path = Path(file).resolve()
    if {"site-packages", "dist-packages"} & set(path.parts):  # also those of another Python
        return False
    return path.is_file() and path != command and not any(path.is_relative_to(p) for p in places)


def made_with(found: Any, text: str, what: str, verb: str, **offered: Any) -> Any:
    """Return the object that the user named, and check that it has a method.

    Args:
        found: the object, or a class or function that creates it.
        text: the user's name for it, for errors.
        what: what the object is, for errors.
        verb: the method that it must have, with its arguments.
        **offered: as in :func:`made`, for a class or a function.

    Returns:
        The object.

    Raises:
        RamifyError: it does not have the method.

    Example:
        >>> made_with(list, "builtins:list", "stack", "append(item)")
        []
    """
    name = verb.partition("(")[0]
    if makes_objects(found):
        found = made(found, text, what, **offered)
    if not callable(getattr(found, name, None)):
        raise RamifyError(
            f"{text} is a {type(found).__name__} without {verb}, which a {what} has: name a "
            f"{what}, or a class or function that makes one."
        )
    return found


def makes_objects(found: Any) -> bool:
    """Whether the object that the user named must be called: a class or function, no other object.

    Args:
        found: the object that the user named.

    Returns:
        True for a class or function that creates the object; a callable object, such as a network,
        is used directly.

    Example:
        >>> makes_objects(dict), makes_objects(len), makes_objects({})
        (True, True, False)
    """
    return isinstance(found, type | functools.partial) or inspect.isroutine(found)


def refuse_foreign(
    values: Mapping[str, Any], names: Iterable[str], given: Mapping[str, Any], file: Path
) -> None:
    """Refuse to import modules that a file names, unless they are the user's or also named by them.

    Importing a module runs its code, and a file may come from anywhere. The user's modules are
    those below the current directory and the folders of ``PYTHONPATH``, except installed packages
    and the folder in the current directory that holds the file.

    Args:
        values: the settings of the file.
        names: the settings that may be ``package.module:object``.
        given: the settings of the command line, which may repeat the names to import.
        file: the file, for errors.

    Raises:
        RamifyError: the file names a module from elsewhere.

    Example:
        >>> refuse_foreign({"model": "os:abort"}, ["model"], {}, Path("run/config.json"))
        Traceback (most recent call last):
        ...
        ramify.errors.RamifyError: run/config.json asks for the model 'os:abort', ...
    """
    for name in names:
        text = values.get(name)
        module = text.partition(":")[0] if isinstance(text, str) and ":" in text else ""
        if name in given or not module or (name == "data" and _is_plain_data(str(text))):
            continue
        if not is_users(module, file):
            raise RamifyError(
                f"{file} asks for the {name} {text!r}, which is neither in the current directory "
                "nor in PYTHONPATH, and importing it would run code that a file names: give "
                f"--{name} {text} too if you trust it, or run the command where the module lies."
            )


def _is_plain_data(text: str) -> bool:
    """Whether a data set with a colon in its name is a folder, or a column of a table."""
    file, colon, _ = text.partition(".csv:")
    return Path(text).is_dir() or (bool(colon) and Path(f"{file}.csv").is_file())


def is_users(module: str, file: Path) -> bool:
    """Whether a module that a file names is the user's, found without importing anything.

    Args:
        module: the name of the module, as in ``package.module``.
        file: the file that names it.

    Returns:
        Whether it is below the current directory or a folder of ``PYTHONPATH``, but is not an
        installed package and not next to the file.
    """
    if module.partition(".")[0] in sys.stdlib_module_names:
        return False
    apart = {Path(sysconfig.get_path(kind)).resolve() for kind in ("purelib", "platlib")}
    here, folder = Path.cwd().resolve(), file.resolve().parent
    if folder.is_relative_to(here) and folder != here:  # nor code that came with the file
        apart.add(here / folder.relative_to(here).parts[0])
    elif folder != here or file.name == "config.json":
        apart.add(folder)
    listed = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    for root in (Path.cwd(), *map(Path, listed)):
        base = root.resolve().joinpath(*module.split("."))
        for path in (base.with_name(f"{base.name}.py"), base / "__init__.py"):
            if path.is_file() and apart.isdisjoint(path.resolve().parents):
                return True
    return False


def _module(name: str, asking: str) -> Any:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)  # a console command does not search the current directory
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # If the user's module fails to import another module, its error is raised unchanged.
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise RamifyError(
            f"there is no module {error.name!r}, which {asking} asks for: correct the "
            "name before the colon, or run the command where the module lies."
        ) from error


def require(package: str, extra: str, purpose: str) -> None:
    """Check that an optional package is installed.

    Args:
        package: Its import name.
        extra: The extra of Ramify that installs it.
        purpose: What needs it, the beginning of the error message.

    Raises:
        RamifyError: It is not installed; the message says what to install.
    """
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise RamifyError(
            f'{purpose} {package}, which is not installed: pip install "ramify[{extra}]".'
        ) from error
