"""Load the weights of a trained network from users' files; only tensors are unpickled."""

import hashlib
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ramify.errors import RamifyError
from ramify.store.files import read_json, read_tensors
from ramify.store.model import SUFFIX, load, named_tensors
from ramify.store.recipe_checks import FORMAT

NESTED = ("state_dict", "model", "model_state_dict")  # keys under which scripts store the tensors
WRAPPERS = ("module.", "_orig_mod.")  # prefixes that DataParallel and torch.compile add to names
COUNTER = "num_batches_tracked"  # missing in old files, and needed only for a cumulative mean
FEW = 3
ADVICE = "give what torch.save(model.state_dict(), FILE) or ramify.save wrote."


def trained_network(path: str, build: Callable[[], nn.Module]) -> nn.Module:
    """Build a network with the weights from a file.

    Args:
        path: A safetensors file; a state dictionary that ``torch.load`` reads with
            ``weights_only=True``, alone or as the entry ``state_dict`` or ``model``; or the output
            of :func:`ramify.save`, whose recipe defines the shape of the network.
        build: Builds the network.

    Returns:
        The network, on the CPU, with each tensor in the type that ``build`` gave it.

    Raises:
        RamifyError: The file is missing or damaged, holds something other than tensors, or does not
            fit the network.
    """
    file = file_of(path)
    shapes = file.with_suffix(".json")
    if file.suffix == SUFFIX and shapes.exists() and _is_recipe(shapes):
        return load(file, build)
    stored = read_tensors(file, ADVICE)[0] if file.suffix == SUFFIX else _state(file)
    model = build()
    _fill(model, _unwrapped(stored, set(named_tensors(model))), path)
    return model


def digest_of(path: str) -> str:
    """The SHA-256 of a file of weights, to detect changes.

    Args:
        path: As in :func:`trained_network`.

    Returns:
        Hexadecimal digits.

    Raises:
        RamifyError: There is no such file.
    """
    with file_of(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_of(path: str) -> Path:
    """The file of weights for a path, which may omit the suffix ``.safetensors``."""
    for file in (Path(path), Path(f"{path}{SUFFIX}")):
        if file.is_file():
            return file
    seen = "is a folder" if Path(path).is_dir() else "does not exist"
    if inside := sorted(Path(path).glob(f"*{SUFFIX}")):
        raise RamifyError(
            f"the file of weights {path} is a folder: give a file in it, such as {inside[0]}."
        )
    raise RamifyError(f"the file of weights {path} {seen}; {ADVICE}")


def _is_recipe(path: Path) -> bool:
    content = read_json(path, "move it elsewhere, or restore it.")
    return isinstance(content, dict) and content.get("format") == FORMAT


def _state(file: Path) -> Mapping[str, Tensor]:
    """The state dictionary in a file written by torch.save."""
    if not file.stat().st_size:
        raise RamifyError(f"the file of weights {file} is empty: copy it again, or {ADVICE}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # many kinds, from pickle, zip and torch
        raise RamifyError(
            f"{file} cannot be read as tensors alone, and nothing else is unpickled, since that "
            f"could run code: {ADVICE}"
        ) from error
    inner = content if isinstance(content, Mapping) else {}
    for found in (content, *(inner[key] for key in NESTED if key in inner)):
        if _is_state(found):
            return dict(found)
    seen = f"a table of {', '.join(map(str, list(inner)[:FEW]))}" if inner else type(content)
    raise RamifyError(f"{file} holds {seen}, and no state dictionary; {ADVICE}")


def _is_state(content: Any) -> bool:
    return (
        isinstance(content, Mapping)
        and len(content) > 0
        and all(isinstance(tensor, Tensor) for tensor in content.values())
    )


def _unwrapped(stored: Mapping[str, Tensor], own: set[str]) -> dict[str, Tensor]:
    """The tensors, with the prefix of a wrapper removed from their names."""
    for prefix in (*WRAPPERS, *WRAPPERS[:1]):  # torch.compile may wrap DataParallel or vice versa
        if all(n.startswith(prefix) for n in stored) and not any(n.startswith(prefix) for n in own):
            stored = {name.removeprefix(prefix): tensor for name, tensor in stored.items()}
    return dict(stored)


def _fill(model: nn.Module, stored: Mapping[str, Tensor], source: str) -> None:
    """Copy the values of a file into a network after checking that they fit."""
    own = named_tensors(model)
    given = {id(own[name]) for name in stored if name in own}  # a tied tensor has several names
    missing = [
        name
        for name in model.state_dict()
        if name in own and id(own[name]) not in given and not name.endswith(COUNTER)
    ]
    unknown = [name for name in stored if name not in own]
    other = [
        f"{name} as {tuple(tensor.shape)} instead of {tuple(own[name].shape)}"
        for name, tensor in stored.items()
        if name in own and tensor.shape != own[name].shape
    ]
    wrong = [
        f"{verb} {_few(names)}"
        for verb, names in (("lacks", missing), ("has also", unknown), ("has", other))
        if names
    ]
    if wrong:
        raise RamifyError(
            f"{source} does not hold the weights of this {type(model).__name__}, it "
            f"{', and '.join(wrong)}: give --model and --width as it was trained."
        )
    # A mask holds minus infinity in the network as it was built, too.
    broken = [
        name
        for name, tensor in stored.items()
        if tensor.is_floating_point() and not (tensor.isfinite() | (tensor == own[name])).all()
    ]
    if broken:
        raise RamifyError(
            f"{source} has numbers that are not finite in {_few(broken)}: give the weights of a "
            "network that works."
        )
    with torch.no_grad():
        for name, tensor in stored.items():
            own[name].copy_(tensor)  # converted, for example from half precision


def _few(names: list[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return ", ".join(names[:FEW]) + more
