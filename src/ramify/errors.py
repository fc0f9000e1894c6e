"""The error that a user is meant to read, and words that its messages share."""

import contextlib
import difflib
import errno
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path


class RamifyError(ValueError):
    """One sentence that says what was seen, what was expected and what to do.

    Example:
        >>> import ramify
        >>> try:
        ...     ramify.Knapsack()
        ... except ramify.RamifyError as error:
        ...     print(error)
        a knapsack takes one budget or more: give params, macs, flops, energy or latency
    """


class Diverged(RamifyError):
    """A loss, weight or buffer is no finite number any more, or beyond all bounds."""


def module_in_words(name: str) -> str:
    """A module of the user's model as a message names it; the empty name is the model itself."""
    return f"module '{name}'" if name else "the model's own forward"


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """The end of a mention of an unknown name: the known one that is most like it, if any is.

    Args:
        given: What the user wrote.
        known: The names that there are.

    Returns:
        Words to put right behind the name; nothing where no name is like it.

    Example:
        >>> "no method 's2dd'" + did_you_mean("s2dd", ["s2d", "s3d", "random"])
        "no method 's2dd' (did you mean 's2d'?)"
    """
    near = difflib.get_close_matches(given, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def first_line(error: BaseException) -> str:
    """What another library's error says, to be quoted in a sentence of ours."""
    return (str(error).strip() or repr(error)).splitlines()[0].rstrip(".")


@contextlib.contextmanager
def second_derivatives() -> Iterator[None]:
    """What is differentiated twice inside the block may have no second derivative: a sentence.

    Raises:
        RamifyError: torch knows no second derivative of an operation on the way.
        RuntimeError: what else torch may say, as it is.
    """
    try:
        yield
    except RuntimeError as error:
        said = first_line(error)
        if "derivative for" not in said and "@once_differentiable" not in said:
            raise
        raise RamifyError(
            f"an operation of the model or of its loss has no second derivative ({said}): take a "
            "method that needs none, such as ramify.GaussNewton, or write the operation out"
        ) from error


def check_plain(path: Path) -> None:
    """Make sure that what is read has an end.

    Args:
        path: What is to be read; a pipe that this process was given will do.

    Raises:
        OSError: It is not there, or a pipe or a device, which may never give anything, or never
            end.

    Example:
        >>> check_plain(Path("/dev/zero"))
        Traceback (most recent call last):
        ...
        OSError: [Errno 22] it is a pipe or a device: '/dev/zero'
    """
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) and Path("/dev/fd") not in path.parents:
        raise OSError(errno.EINVAL, "it is a pipe or a device", str(path))
