"""The error class for users, and helpers for its messages."""

import contextlib
import difflib
import errno
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path


class RamifyError(ValueError):
    """An error whose message says what was found, what was expected and what to do.

    Example:
        >>> import ramify
        >>> try:
        ...     ramify.Knapsack()
        ... except ramify.RamifyError as error:
        ...     print(error)
        a knapsack needs at least one budget: give params, macs, flops, energy or latency
    """


class Diverged(RamifyError):
    """A loss, weight or buffer is no longer finite, or exceeds all bounds."""


class OutOfReach(RamifyError):
    """No selection of the proposed edits brings the model within its budget, or none was found.

    Example:
        >>> from ramify import Knapsack, Proposal, Prune
        >>> from ramify.cost import Cost
        >>> proposals = [Proposal(Prune("conv1", 0), -0.1, Cost(params=-30, macs=-900))]
        >>> try:
        ...     Knapsack(params=-50).select(proposals)
        ... except OutOfReach as error:
        ...     print(error)
        no selection is within the budgets, which change params by -50 where all prunes together \
reach -30: raise a budget, or propose more prunes
    """


def module_in_words(name: str) -> str:
    """The description of a module in a message; the empty name is the model itself."""
    return f"module '{name}'" if name else "the model's own forward"


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """A suggestion to append to an unknown name: the most similar known name, if there is one.

    Args:
        given: The name that the user wrote.
        known: The valid names.

    Returns:
        The text to append directly to the name; empty if no name is similar.

    Example:
        >>> "no method 's2dd'" + did_you_mean("s2dd", ["s2d", "s3d", "random"])
        "no method 's2dd' (did you mean 's2d'?)"
    """
    near = difflib.get_close_matches(given, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


_THOUSAND = 1000


def in_digits(value: float) -> str:
    """A number in words: three digits, or all digits before the point.

    Args:
        value: The number, such as milliseconds or a count.

    Returns:
        The text, without an exponent for large numbers.

    Example:
        >>> in_digits(0.8437), in_digits(12.3456), in_digits(1020.4), in_digits(1234567)
        ('0.844', '12.3', '1,020', '1,234,567')
    """
    return f"{value:.3g}" if abs(value) < _THOUSAND - 0.5 else f"{value:,.0f}"


def first_line(error: BaseException) -> str:
    """The first line of another library's error, to be quoted in a message."""
    return (str(error).strip() or repr(error)).splitlines()[0].rstrip(".")


def in_one_line(error: BaseException, most: int = 300) -> str:
    """The kind of another library's error and its text, as one line of limited length."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:most]}"


@contextlib.contextmanager
def derivatives() -> Iterator[None]:
    """Turn torch's errors about a backward pass inside the block into readable ones.

    Raises:
        RamifyError: an operation has no second derivative in torch, the model saves memory in a
            way that excludes gradients by name, or a tensor that the pass needs was overwritten.
        RuntimeError: any other error of torch, unchanged.
    """
    try:
        yield
    except RuntimeError as error:
        said = first_line(error)
        if "use_reentrant" in said:
            raise RamifyError(
                "the forward calls torch.utils.checkpoint with use_reentrant=True, behind which no "
                "gradient of a single tensor can be computed: call it with use_reentrant=False, or "
                "switch checkpointing off"
            ) from error
        if "modified by an inplace operation" in said:
            raise RamifyError(
                "the gradient of the loss cannot be computed, since the model or its loss "
                "overwrites a tensor that the backward pass needs "
                f"({said.partition('. Hint')[0]}): write that operation out of place"
            ) from error
        if "derivative for" in said or "@once_differentiable" in said:
            raise RamifyError(
                f"an operation of the model or of its loss has no second derivative ({said}): use "
                "a method that needs none, such as ramify.GaussNewton, or write the operation out"
            ) from error
        raise


def check_plain(path: Path) -> None:
    """Check that a path is a regular file or folder, so that reading it ends.

    Args:
        path: The path to read; a pipe that this process was given is allowed.

    Raises:
        OSError: The path does not exist, or is a pipe or a device, of which reading may block or
            never end.

    Example:
        >>> check_plain(Path("/dev/zero"))
        Traceback (most recent call last):
        ...
        OSError: [Errno 22] it is a pipe or a device: '/dev/zero'
    """
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) and Path("/dev/fd") not in path.parents:
        raise OSError(errno.EINVAL, "it is a pipe or a device", str(path))
