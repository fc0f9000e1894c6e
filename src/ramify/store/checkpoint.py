"""One atomic file from which a run goes on to the same numbers, bit for bit on the CPU.

It is a safetensors file. Tensors: ``model/NAME``, ``optimizer/state/PARAMETER/...``,
``followers/NUMBER/NAME`` and the random states ``rng/...`` of torch, numpy and Python. Metadata:
shape recipes, what of the optimizer and the random states is not a tensor, and the loop's own
state, all as JSON.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn
from torch.optim import Optimizer

from ramify.edit import Follower
from ramify.errors import RamifyError
from ramify.store.files import read_tensors, write_tensors
from ramify.store.model import Recipe, fill, named_tensors, recipe_of, to_shape
from ramify.store.state import (
    check_optimizer,
    load_optimizer,
    optimizer_state,
    random_states,
    set_random_states,
)

FORMAT = "ramify-checkpoint-3"
STATE_FORMAT = "ramify-state-1"
PARTS = ("recipe", "optimizer", "followers", "rng", "state")
ADVICE = "restore it from a copy, or delete it to begin again."


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read from disk.

    Attributes:
        path: The file.
        tensors: Everything stored as a tensor, by prefixed name.
        recipe: The shape recipe of the model.
        optimizer: Class, groups and state of the optimizer, tensors by reference.
        followers: For each follower its shape recipe, or None for a state dictionary.
        rng: The random states of numpy and Python, tensors by reference.
        state: What the loop wrote of itself.
    """

    path: Path
    tensors: dict[str, Tensor]
    recipe: Recipe
    optimizer: dict[str, Any]
    followers: list[Recipe | None]
    rng: dict[str, Any]
    state: dict[str, Any]

    def model_tensors(self) -> dict[str, Tensor]:
        """The model's tensors under their own names."""
        return _under("model/", self.tensors)


def write_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: Optimizer,
    state: dict[str, Any],
    followers: Sequence[Follower] = (),
) -> None:
    """Write everything that a run needs to go on to one file, atomically.

    Args:
        path: Where to.
        model: The network, of whatever shape it has now.
        optimizer: Over the network's parameters; its state goes by their names.
        state: What the loop needs to know of itself, plain JSON.
        followers: Weight averages and other models or state dictionaries of the same shape.

    Raises:
        RamifyError: The optimizer holds a parameter that is not the model's, or a state that is
            neither a tensor nor plain.
    """
    tensors = {f"model/{name}": tensor for name, tensor in named_tensors(model).items()}
    known = optimizer_state(optimizer, _names(model))
    for number, follower in enumerate(followers):
        tensors |= {f"followers/{number}/{name}": t for name, t in _held(follower).items()}
    parts = {
        "recipe": recipe_of(model),
        "optimizer": _encode(known, "optimizer", tensors),
        "followers": [recipe_of(f) if isinstance(f, nn.Module) else None for f in followers],
        "rng": _encode(random_states(), "rng", tensors),
        "state": state,
    }
    write_tensors(path, tensors, {"format": FORMAT} | {k: json.dumps(v) for k, v in parts.items()})


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint file.

    Args:
        path: What :func:`write_checkpoint` was given.

    Returns:
        Its contents; the model is not built.

    Raises:
        RamifyError: The file is missing, torn, or not a checkpoint.
    """
    tensors, metadata = read_tensors(path, ADVICE)
    if metadata.get("format") != FORMAT:
        raise RamifyError(f"{path} is not a {FORMAT} file; {ADVICE}")
    with _damage(path):
        parts = [json.loads(metadata[key]) for key in PARTS]
    return Checkpoint(path, tensors, *parts)


def read_history(path: Path) -> list[Any]:
    """The events that a checkpoint holds, whether of :func:`ramify.grow` or of a search.

    Args:
        path: What was given as ``checkpoint``.

    Returns:
        The events.

    Raises:
        RamifyError: The file is missing, torn, or neither.
    """
    _, metadata = read_tensors(path, ADVICE)
    kept = read_state(path) if metadata.get("format") == STATE_FORMAT else None
    state = read_checkpoint(path).state if kept is None else kept
    with _damage(path):
        history: list[Any] = state["history"]
    return history


def restore(
    checkpoint: Checkpoint,
    model: nn.Module,
    optimizer: Optimizer,
    followers: Sequence[Follower] = (),
) -> None:
    """Bring model, optimizer, followers and random states back to where they were, in place.

    Args:
        checkpoint: From :func:`read_checkpoint`.
        model: A network of the same class, of any widths.
        optimizer: An optimizer of the same class over the same parameters.
        followers: As many as were written, of the same kinds in the same order.

    Raises:
        RamifyError: The model, the optimizer or a follower is of another kind than the stored one.
    """
    kinds = [recipe is not None for recipe in checkpoint.followers]
    if kinds != [isinstance(follower, nn.Module) for follower in followers]:
        raise RamifyError(
            f"{checkpoint.path} holds {_named(kinds)}, and was given "
            f"{_named([isinstance(follower, nn.Module) for follower in followers])}; resume with "
            "followers of the same kinds in the same order."
        )
    fill(to_shape(model, checkpoint.recipe), checkpoint.model_tensors(), str(checkpoint.path))
    _restore_optimizer(checkpoint, model, optimizer)
    for number, follower in enumerate(followers):
        _restore_follower(checkpoint, number, follower)
    with _damage(checkpoint.path):
        set_random_states(_decode(checkpoint.rng, checkpoint.tensors))


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Write nested dictionaries and lists of tensors and plain values to one file, atomically.

    Args:
        path: Where to; a safetensors file whose metadata holds what is not a tensor.
        state: Such as the state dictionary of a searcher.

    Raises:
        RamifyError: A value is neither a tensor nor plain.
    """
    tensors: dict[str, Tensor] = {}
    encoded = json.dumps(_encode(state, "state", tensors))
    write_tensors(path, tensors, {"format": STATE_FORMAT, "state": encoded})


def read_state(path: Path) -> dict[str, Any]:
    """Read what :func:`write_state` wrote.

    Args:
        path: The file.

    Returns:
        The same values; tensors are on the CPU.

    Raises:
        RamifyError: The file is missing, torn, or holds something else.
    """
    tensors, metadata = read_tensors(path, ADVICE)
    if metadata.get("format") != STATE_FORMAT:
        raise RamifyError(f"{path} is not a {STATE_FORMAT} file; {ADVICE}")
    with _damage(path):
        state: dict[str, Any] = _decode(json.loads(metadata["state"]), tensors)
        return state


def _named(modules: Sequence[bool]) -> str:
    """How many followers of each kind there are."""
    return f"{sum(modules)} follower modules and {len(modules) - sum(modules)} state dictionaries"


def _held(follower: Follower) -> Mapping[str, Tensor]:
    return named_tensors(follower) if isinstance(follower, nn.Module) else follower


def _restore_follower(checkpoint: Checkpoint, number: int, follower: Follower) -> None:
    tensors = _under(f"followers/{number}/", checkpoint.tensors)
    recipe = checkpoint.followers[number]
    if isinstance(follower, nn.Module) and recipe is not None:
        fill(to_shape(follower, recipe), tensors, str(checkpoint.path))
        return
    held = cast(MutableMapping[str, Tensor], follower)
    if held.keys() != tensors.keys():
        raise RamifyError(
            f"follower {number} and the one in {checkpoint.path} do not have the same names "
            f"({min(held.keys() ^ tensors.keys())} is only in one); resume with the same follower."
        )
    for name, tensor in tensors.items():
        held[name] = tensor.to(held[name].device)


def _restore_optimizer(checkpoint: Checkpoint, model: nn.Module, optimizer: Optimizer) -> None:
    with _damage(checkpoint.path):
        stored = _decode(checkpoint.optimizer, checkpoint.tensors)
    check_optimizer(optimizer, _names(model), stored, str(checkpoint.path))
    load_optimizer(optimizer, stored)


def _names(model: nn.Module) -> dict[int, str]:
    return {id(parameter): name for name, parameter in model.named_parameters()}


def _encode(value: Any, key: str, tensors: dict[str, Tensor]) -> Any:
    """``value`` as JSON: tensors go to ``tensors`` under ``key``, containers keep their type."""
    if isinstance(value, Tensor):
        tensors[key] = value
        return {"tensor": key}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if type(value) in (list, tuple):
        items = [_encode(item, f"{key}/{i}", tensors) for i, item in enumerate(value)]
        return {type(value).__name__: items}
    if type(value) is dict and all(type(name) is str for name in value):
        return {"dict": {k: _encode(v, f"{key}/{k}", tensors) for k, v in value.items()}}
    if type(value) in (dict, Counter):  # as the milestones of a schedule
        items = [_encode(item, f"{key}/{i}", tensors) for i, item in enumerate(value.items())]
        return {type(value).__name__ + " items": items}
    raise RamifyError(
        f"{key} is a {type(value).__name__}, which a checkpoint cannot hold; "
        "use an optimizer whose state is made of tensors and plain values."
    )


def _decode(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of :func:`_encode`."""
    if not isinstance(value, dict):
        return value
    [(kind, content)] = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {name: _decode(item, tensors) for name, item in content.items()}
    items = [_decode(item, tensors) for item in content]
    if kind == "Counter items":
        return Counter(dict(items))
    return {"list": list, "tuple": tuple, "dict items": dict}[kind](items)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Turn a missing or broken part of the file into one readable error."""
    try:
        yield
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise RamifyError(f"{path} is damaged ({error!r}); {ADVICE}") from None
