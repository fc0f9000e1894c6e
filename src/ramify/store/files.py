"""JSON and tensor files, written atomically and read with readable errors."""

import json
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ramify.errors import RamifyError, check_plain
from ramify.store.disk import append, write_all

NOT_STORED = (torch.complex128, torch.complex32)
TORN = "it is torn or was changed by hand"
LARGEST_JSON = 2**28  # bytes; files of Ramify are far smaller


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, atomically."""
    write_all({path: bytes_writer(content)})


def write_with(path: Path, write: Callable[[str], Any]) -> None:
    """Call ``write`` with a temporary name, and move the file into place atomically."""
    write_all({path: write})


def bytes_writer(content: bytes) -> Callable[[str], Any]:
    """A function that writes this content to a file, for :func:`ramify.store.disk.write_all`."""
    return lambda name: Path(name).write_bytes(content)


def json_bytes(value: Any) -> bytes:
    """A value as indented JSON."""
    return (json.dumps(value, indent=2) + "\n").encode()


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    write_bytes(path, json_bytes(value))


def append_line(path: Path, value: Any) -> None:
    """Append a JSON value as a line, completely or not at all unless the process is killed."""
    append(path, (json.dumps(value) + "\n").encode())


def write_lines(path: Path, values: list[Any]) -> None:
    """Write one JSON value per line, atomically."""
    write_bytes(path, "".join(json.dumps(value) + "\n" for value in values).encode())


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file, atomically; see :func:`tensors_writer`."""
    write_all({path: tensors_writer(tensors, metadata)})


def tensors_writer(tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> Callable[[str], Any]:
    """A function that writes a safetensors file; tensors that share memory are written in full.

    Returns:
        A function of the file's name.

    Raises:
        RamifyError: a tensor has a dtype that safetensors does not support; the message names it.
    """
    seen: set[int] = set()
    owned = {}
    for name, tensor in tensors.items():
        sparse = tensor.layout is not torch.strided or tensor.is_nested
        if tensor.dtype in NOT_STORED or tensor.is_quantized or sparse:
            kind = tensor.layout if sparse else tensor.dtype
            raise RamifyError(
                f"'{name}' is of {kind}, which a safetensors file cannot hold: take "
                "another type, or save the state_dict by torch.save, with ramify.recipe_of(model)"
            )
        plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
        memory = plain.untyped_storage().data_ptr()
        owned[name] = plain.clone() if memory in seen else plain
        seen.add(memory)
    return partial(save_file, owned, metadata=metadata)


def checksum(content: Tensor | bytes) -> str:
    """The CRC-32 of the bytes of a tensor, eight hexadecimal digits.

    Args:
        content: A tensor, whose values are read in the order of its indices, or bytes.

    Returns:
        The digits.

    Example:
        >>> checksum(torch.arange(3)), checksum(b"")
        ('4f8c5ccc', '00000000')
    """
    if isinstance(content, bytes):
        return f"{zlib.crc32(content):08x}"
    flat = content.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    held = flat.view(torch.uint8).numpy().data if flat.numel() else b""
    return f"{zlib.crc32(held):08x}"


def read_json(path: Path, advice: str) -> Any:
    """Read a JSON file.

    Args:
        path: The file.
        advice: What to do if the file is missing or damaged, the end of the error message.

    Returns:
        The value.

    Raises:
        RamifyError: The file is missing, cannot be read or is not JSON.
    """
    try:
        return parse_json(_text(path))
    except FileNotFoundError:
        raise RamifyError(f"{path} is missing; {advice}") from None
    except OSError as error:
        raise RamifyError(_closed(path, error)) from None
    except ValueError as error:
        raise RamifyError(f"{path} is not readable JSON ({error}): {TORN}; {advice}") from None


def _closed(path: Path, error: OSError) -> str:
    """The message for a file that the system cannot open, though it may be intact."""
    return f"{path} cannot be opened ({error.strerror or error}): mend that and try again."


def _text(path: Path) -> str:
    check_plain(path)
    if path.stat().st_size > LARGEST_JSON:
        raise ValueError(f"it has {path.stat().st_size} bytes")
    return path.read_text(encoding="utf-8")


def parse_json(text: str) -> Any:
    """Parse JSON.

    Args:
        text: the JSON text.

    Returns:
        The value.

    Raises:
        ValueError: it is not JSON, or is nested too deeply for Python.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_tensors(path: Path, advice: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file and its metadata; errors as in :func:`read_json`."""
    try:
        check_plain(path)
        path.open("rb").close()  # raises the system's error, which means no damage
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            # Cloned, because the last bit of a sum can depend on how its memory is aligned.
            tensors = {name: file.get_tensor(name).clone() for name in names}
            return tensors, file.metadata() or {}
    except FileNotFoundError:
        raise RamifyError(f"{path} is missing; {advice}") from None
    except OSError as error:
        raise RamifyError(_closed(path, error)) from None
    except (SafetensorError, ValueError, RuntimeError, TypeError, KeyError) as error:
        raise RamifyError(
            f"{path} is not a readable safetensors file ({error}): {TORN}; {advice}"
        ) from None


def same_memory_format(tensor: Tensor, like: Tensor) -> Tensor:
    """``tensor`` in the memory format of ``like``: channels last stays channels last."""
    for ndim, layout in ((4, torch.channels_last), (5, torch.channels_last_3d)):
        last = like.ndim == ndim and like.is_contiguous(memory_format=layout)
        if last and not like.is_contiguous():
            return tensor.contiguous(memory_format=layout)
    return tensor.contiguous()
