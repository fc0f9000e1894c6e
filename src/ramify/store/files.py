"""Whole files or none: JSON and tensors written to a temporary name, then moved into place."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ramify.errors import RamifyError

TORN = "it is torn or was changed by hand"
LARGEST_JSON = 2**28  # bytes; what Ramify writes is far smaller


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, atomically."""
    _atomically(path, lambda name: Path(name).write_bytes(content))


def write_with(path: Path, write: Callable[[str], Any]) -> None:
    """Call ``write`` with a temporary name, and put what it wrote in place at once."""
    _atomically(path, write)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    write_bytes(path, (json.dumps(value, indent=2) + "\n").encode())


def write_lines(path: Path, values: list[Any]) -> None:
    """Write one JSON value a line, atomically."""
    write_bytes(path, "".join(json.dumps(value) + "\n" for value in values).encode())


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file, atomically; tensors that share memory are each written in full."""
    seen: set[int] = set()
    owned = {}
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        memory = plain.untyped_storage().data_ptr()
        owned[name] = plain.clone() if memory in seen else plain
        seen.add(memory)
    _atomically(path, lambda name: save_file(owned, name, metadata=metadata))


def read_json(path: Path, advice: str) -> Any:
    """Read a JSON file.

    Args:
        path: The file.
        advice: What to do where the file is missing or damaged; it ends the error's sentence.

    Returns:
        The value.

    Raises:
        RamifyError: The file is missing, cannot be read or is not JSON.
    """
    try:
        return parse_json(_text(path))
    except FileNotFoundError:
        raise RamifyError(f"{path} is missing; {advice}") from None
    except (OSError, ValueError) as error:
        raise RamifyError(f"{path} is not readable JSON ({error}): {TORN}; {advice}") from None


def _text(path: Path) -> str:
    if path.stat().st_size > LARGEST_JSON:
        raise ValueError(f"it has {path.stat().st_size} bytes")
    return path.read_text(encoding="utf-8")


def parse_json(text: str) -> Any:
    """A JSON value.

    Args:
        text: JSON.

    Returns:
        The value.

    Raises:
        ValueError: it is none, or nested deeper than Python follows.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_tensors(path: Path, advice: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file and its metadata; errors as :func:`read_json`."""
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            # Cloned, because the last bit of a sum can depend on how its memory is aligned.
            tensors = {name: file.get_tensor(name).clone() for name in names}
            return tensors, file.metadata() or {}
    except FileNotFoundError:
        raise RamifyError(f"{path} is missing; {advice}") from None
    except (SafetensorError, OSError, ValueError, RuntimeError, TypeError, KeyError) as error:
        raise RamifyError(
            f"{path} is not a readable safetensors file ({error}): {TORN}; {advice}"
        ) from None


def _atomically(path: Path, write: Callable[[str], Any]) -> None:
    """Call ``write`` with a temporary name beside ``path``, flush it to disk and move it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # save_file leaves a file that only its owner can read
        write(str(temporary))
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(mode)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def same_memory_format(tensor: Tensor, like: Tensor) -> Tensor:
    """``tensor`` laid out in memory as ``like`` is: channels last stays channels last."""
    for ndim, layout in ((4, torch.channels_last), (5, torch.channels_last_3d)):
        last = like.ndim == ndim and like.is_contiguous(memory_format=layout)
        if last and not like.is_contiguous():
            return tensor.contiguous(memory_format=layout)
    return tensor.contiguous()
