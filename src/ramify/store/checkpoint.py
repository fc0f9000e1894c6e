"""The atomic checkpoint file from which a run resumes, with identical results on the CPU.

Training and searches write the same format, a safetensors file. Its tensors are those of the run's
state, named by their path in it, such as ``state/model/conv.weight``. Its metadata holds, as JSON,
the kind of run, its events, and the part of its state that is not tensors.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ramify.errors import RamifyError
from ramify.store.encoding import decode, encode
from ramify.store.files import checksum, parse_json, read_tensors, write_tensors

FORMAT = "ramify-checkpoint-4"
OLDER = ("ramify-checkpoint-", "ramify-state-")
ADVICE = "restore it from a copy, or delete it to begin again."


@dataclass(frozen=True)
class Checkpoint:
    """The data that a run needs to resume.

    Attributes:
        kind: The kind of run, ``"training"`` or ``"search"``.
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
        path: The file.
        checkpoint: The checkpoint.

    Raises:
        RamifyError: The state holds a value that is neither a tensor nor plain.
    """
    tensors: dict[str, Tensor] = {}
    parts = {
        "state": encode(checkpoint.state, "state", tensors),
        "random": encode(checkpoint.random, "random", tensors),
        "history": checkpoint.history,
    }
    plain = {key: json.dumps(value) for key, value in parts.items()}
    plain |= {"format": FORMAT, "kind": checkpoint.kind}
    write_tensors(path, tensors, plain | {"checksums": json.dumps(_checksums(plain, tensors))})


def _checksums(plain: Mapping[str, str], tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """The checksum of each entry of the metadata and of each tensor."""
    texts = {f"metadata/{key}": checksum(text.encode()) for key, text in plain.items()}
    return texts | {name: checksum(tensor) for name, tensor in tensors.items()}


def read_checkpoint(path: Path, kind: str | None = None) -> Checkpoint:
    """Read a checkpoint file.

    Args:
        path: The path given to :func:`write_checkpoint`.
        kind: The kind of run to resume; None for any.

    Returns:
        Its contents; tensors are on the CPU.

    Raises:
        RamifyError: The file is missing, truncated or no checkpoint, or comes from an older version
            of Ramify or another kind of run.
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
        _check_sums(metadata, tensors)
        state, random = (decode(parse_json(metadata[k]), tensors) for k in ("state", "random"))
        checkpoint = Checkpoint(metadata["kind"], state, random, parse_json(metadata["history"]))
        _check_kinds(checkpoint)
    if kind not in (None, checkpoint.kind):
        raise RamifyError(f"{path} is not the checkpoint of a {kind} run; {ADVICE}")
    return checkpoint


def _check_sums(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> None:
    """Raise if a part was changed after writing; files of older versions have no checksums."""
    if "checksums" not in metadata:
        return
    kept = parse_json(metadata["checksums"])
    found = _checksums({k: v for k, v in metadata.items() if k != "checksums"}, tensors)
    wrong = sorted(name for name in kept.keys() | found if kept.get(name) != found.get(name))
    if wrong:
        raise ValueError(f"{wrong[0]} has not the values that were written")


def _check_kinds(checkpoint: Checkpoint) -> None:
    lists = checkpoint.random, checkpoint.history
    whole = isinstance(checkpoint.state, dict) and all(isinstance(one, list) for one in lists)
    if not whole or not all(isinstance(entry, dict) for one in lists for entry in one):
        raise ValueError("its state, random states and history are not of these kinds")


_DAMAGE = (LookupError, ValueError, TypeError, RuntimeError, ArithmeticError, AttributeError)


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Turn a missing or damaged part of the file into a readable error."""
    try:
        yield
    except RamifyError:
        raise
    except _DAMAGE as error:
        said = str(error)[:300] or type(error).__name__
        raise RamifyError(f"{path} is damaged ({said}); {ADVICE}") from None
