"""One atomic file from which a run goes on to the same numbers, bit for bit on the CPU.

Training and searches write the same format, a safetensors file. Its tensors are those of the
run's state, by their place in it, such as ``state/model/conv.weight``. Its metadata holds, as JSON,
what kind of run it is, its events, and what of its state is no tensor.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ramify.errors import RamifyError
from ramify.store.files import read_tensors, write_tensors

FORMAT = "ramify-checkpoint-4"
OLDER = ("ramify-checkpoint-", "ramify-state-")
ADVICE = "restore it from a copy, or delete it to begin again."


@dataclass(frozen=True)
class Checkpoint:
    """What a run needs to go on.

    Attributes:
        kind: What kind of run it is, ``"training"`` or ``"search"``.
        state: Nested dictionaries, lists and tuples of tensors and plain values.
        random: The random states of every process, as
            :func:`ramify.store.state.random_states` gives them.
        history: The events of the run so far, plain JSON.

    Example:
        >>> import tempfile, torch
        >>> file = Path(tempfile.mkdtemp()) / 'run.safetensors'
        >>> state = {'weights': torch.ones(2), 'rate': 0.1}
        >>> write_checkpoint(file, Checkpoint('search', state, random=[], history=[{'epoch': 0}]))
        >>> read_checkpoint(file).state
        {'weights': tensor([1., 1.]), 'rate': 0.1}
    """

    kind: str
    state: dict[str, Any]
    random: list[dict[str, Any]]
    history: list[dict[str, Any]]


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint to one file, atomically.

    Args:
        path: Where to.
        checkpoint: What to keep.

    Raises:
        RamifyError: The state holds something that is neither a tensor nor plain.
    """
    tensors: dict[str, Tensor] = {}
    parts = {
        "state": _encode(checkpoint.state, "state", tensors),
        "random": _encode(checkpoint.random, "random", tensors),
        "history": checkpoint.history,
    }
    plain = {key: json.dumps(value) for key, value in parts.items()}
    write_tensors(path, tensors, {"format": FORMAT, "kind": checkpoint.kind} | plain)


def read_checkpoint(path: Path, kind: str | None = None) -> Checkpoint:
    """Read a checkpoint file.

    Args:
        path: What :func:`write_checkpoint` was given.
        kind: The kind of run that is to go on; None for any.

    Returns:
        Its contents; tensors are on the CPU.

    Raises:
        RamifyError: The file is missing, torn, no checkpoint, of an older version of Ramify, or of
            another kind of run.
    """
    tensors, metadata = read_tensors(path, ADVICE)
    found = metadata.get("format", "")
    if found != FORMAT and found.startswith(OLDER):
        raise RamifyError(
            f"{path} is a {found} file, and this version of Ramify reads {FORMAT}: finish the run "
            "with the version that began it, or delete the file to begin again."
        )
    if found != FORMAT:
        raise RamifyError(f"{path} is not a {FORMAT} file; {ADVICE}")
    with damage_named(path):
        state, random = (_decode(json.loads(metadata[k]), tensors) for k in ("state", "random"))
        checkpoint = Checkpoint(metadata["kind"], state, random, json.loads(metadata["history"]))
    if kind not in (None, checkpoint.kind):
        raise RamifyError(f"{path} is not the checkpoint of a {kind} run; {ADVICE}")
    return checkpoint


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Turn a missing or broken part of the file into one readable error."""
    try:
        yield
    except RamifyError:
        raise
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise RamifyError(f"{path} is damaged ({error!r}); {ADVICE}") from None


# What JSON has no word for is a dictionary with one of these as its only key.
TENSOR, TUPLE, ITEMS, COUNTER = "<tensor>", "<tuple>", "<items>", "<counter>"


def _encode(value: Any, key: str, tensors: dict[str, Tensor]) -> Any:
    """``value`` as JSON: tensors go to ``tensors`` under ``key``, containers keep their type."""
    if isinstance(value, Tensor):
        tensors[key] = value
        return {TENSOR: key}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    kind = type(value)
    if kind in (list, tuple):
        items = [_encode(item, f"{key}/{i}", tensors) for i, item in enumerate(value)]
        return items if kind is list else {TUPLE: items}
    if kind is dict and all(type(name) is str and not name.startswith("<") for name in value):
        return {name: _encode(item, f"{key}/{name}", tensors) for name, item in value.items()}
    if kind in (dict, Counter):  # as the milestones of a schedule
        items = [_encode(item, f"{key}/{i}", tensors) for i, item in enumerate(value.items())]
        return {COUNTER if kind is Counter else ITEMS: items}
    raise RamifyError(
        f"{key} is a {kind.__name__}, which a checkpoint cannot hold; "
        "use an optimizer whose state is made of tensors and plain values."
    )


def _decode(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of :func:`_encode`."""
    if isinstance(value, list):
        return [_decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if TENSOR in value:
        return tensors[value[TENSOR]]
    if TUPLE in value:
        return tuple(_decode(value[TUPLE], tensors))
    if ITEMS in value:
        return dict(_decode(value[ITEMS], tensors))
    if COUNTER in value:
        return Counter(dict(_decode(value[COUNTER], tensors)))
    return {name: _decode(item, tensors) for name, item in value.items()}
