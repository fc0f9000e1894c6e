"""Read the pickles of CIFAR without running anything that they name.

A pickle is a small program that may call any function. Here the few names that an array of bytes
needs are replaced by a :class:`_Note`, which records the call instead of making it; every other
name is refused. The recorded calls are interpreted afterwards by this module.
"""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ramify.errors import RamifyError

RECONSTRUCT, NDARRAY, DTYPE, ENCODE = "_reconstruct", "ndarray", "dtype", "encode"
ALLOWED = {
    ("numpy.core.multiarray", RECONSTRUCT),
    ("numpy._core.multiarray", RECONSTRUCT),
    ("numpy", NDARRAY),
    ("numpy", DTYPE),
    ("_codecs", ENCODE),  # how Python 3 writes bytes in the pickle protocol of Python 2
}


class _Note:
    """A name in the pickle, or the result of calling it: recorded, not run."""

    __slots__ = ("arguments", "name", "state")

    def __init__(self, name: str, arguments: tuple[Any, ...] = ()) -> None:
        self.name = name
        self.arguments = arguments
        self.state: Any = None

    def __call__(self, *arguments: Any) -> _Note:
        return _Note(self.name, arguments)

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _NoteTaker(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> _Note:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _Note(name)


def read_pickled_dict(path: Path) -> dict[str, Any]:
    """Read a pickled dictionary of plain values and arrays of bytes.

    Args:
        path: the file, written by Python 2 (the official CIFAR batches) or by Python 3 with a
            protocol up to 4.

    Returns:
        The dictionary, with keys as text and arrays as ``numpy.uint8``.

    Raises:
        RamifyError: if the file is damaged, holds other values, or is not a dictionary.
    """
    try:
        with path.open("rb") as file:
            content = _NoteTaker(file, encoding="bytes").load()
        return {_text(key): _value(value) for key, value in content.items()}
    except Exception as error:  # damaged bytes can make the unpickler raise nearly anything
        raise RamifyError(
            f"{path} is not a pickle of plain values and arrays of bytes ({error}), and nothing "
            "else is ever run: fetch the official file again."
        ) from error


def _value(value: Any) -> Any:
    if not isinstance(value, _Note):
        return value
    return _bytes(value) if value.name == ENCODE else _array(value)


def _text(key: Any) -> str:
    return key if isinstance(key, str) else _bytes(key).decode("latin1")


def _bytes(value: Any) -> bytes:
    if isinstance(value, _Note) and value.name == ENCODE:
        text, _ = value.arguments
        value = text.encode("latin1")
    if not isinstance(value, bytes):
        raise TypeError(f"{type(value).__name__} where bytes belong")
    return value


def _array(note: _Note) -> NDArray[np.uint8]:
    if note.name != RECONSTRUCT or note.state is None:
        raise TypeError(f"a bare {note.name}")
    _, shape, dtype, fortran, raw = note.state
    code = dtype.arguments[0]
    if code not in ("u1", b"u1"):
        raise TypeError(f"an array of type {code!r}")
    raw = _bytes(raw)
    if len(raw) != math.prod(shape):
        raise ValueError(f"{len(raw)} bytes for an array of shape {shape}")
    return np.frombuffer(raw, dtype=np.uint8).reshape(shape, order="F" if fortran else "C")
