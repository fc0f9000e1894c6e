"""What a loop remembers: its events, from which follows where it stands, and its checkpoint."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from ramify import distributed
from ramify.edit import Follower
from ramify.errors import RamifyError
from ramify.probe.splitting_matrix import known_length
from ramify.store.checkpoint import read_checkpoint, restore, write_checkpoint
from ramify.store.model import named_tensors

Event = dict[str, Any]
Data = Iterable[Any] | Callable[[int], Iterable[Any]]


@dataclass
class Journal:
    """The events of a run; all that it needs to go on stands in them and in the checkpoint.

    Attributes:
        model: The network.
        optimizer: Its optimizer.
        followers: Weight averages and the like, stored with it.
        file: The checkpoint, written after each event; None for none.
        log: Called with each event.
        tags: Entries to put in front of each event.
        history: The events so far.
    """

    model: nn.Module
    optimizer: Optimizer
    followers: Sequence[Follower]
    file: Path | None
    log: Callable[[Event], None] | None
    tags: Mapping[str, Any]
    history: list[Event] = field(default_factory=list)

    def resume(self, limits: Mapping[str, Any]) -> None:
        """Go back to the checkpoint where there is one.

        Args:
            limits: What may end the run. Where it ended under others it goes on from there.

        Raises:
            RamifyError: The checkpoint is damaged or of another model.
        """
        if self.file is not None and self.file.exists():
            stored = read_checkpoint(self.file)
            restore(stored, self.model, self.optimizer, self.followers)
            self.history = stored.state["history"]
        if self.stopped and any(self.history[-1][key] != limits[key] for key in limits):
            self.history.pop()
        self._began = time.monotonic() - (self.history[-1]["t"] if self.history else 0.0)

    @property
    def stopped(self) -> bool:
        """Whether the run has come to its end."""
        return bool(self.history) and self.history[-1]["event"] == "stop"

    @property
    def round(self) -> int:
        """The round that trains now."""
        return self.history[-1]["round"] if self.history else 0

    @property
    def epoch(self) -> int:
        """Epochs that this round has trained."""
        return self.history[-1].get("epoch", -1) + 1 if self.history else 0

    @property
    def step(self) -> int:
        """Optimizer steps made since the beginning."""
        return self.history[-1]["step"] if self.history else 0

    @property
    def passes(self) -> int:
        """Epochs of data used up, in training and by a method that learns."""
        return sum(event.get("passes", event["event"] == "epoch") for event in self.history)

    def full(self, budget: Mapping[str, float] | None) -> bool:
        """Whether the last edit used this budget up."""
        edits = [event for event in self.history if event["event"] == "edit"]
        return bool(edits) and edits[-1]["full"] and edits[-1]["budget"] == budget

    def write(self, kind: str, event: Event) -> None:
        """Add an event to the history, write the checkpoint, then tell ``log``."""
        head = {"event": kind, **self.tags, "t": time.monotonic() - self._began}
        self.history.append(head | event)
        if self.file is not None and distributed.is_rank_zero():
            state = {"history": self.history}
            write_checkpoint(self.file, self.model, self.optimizer, state, self.followers)
        if self.log is not None and distributed.is_rank_zero():
            self.log(self.history[-1])


@dataclass(frozen=True)
class Epoch:
    """The batches of one epoch, as often as wanted.

    Attributes:
        data: The batches of every epoch, or a function of its number.
        number: Which.
    """

    data: Data
    number: int

    def __iter__(self) -> Iterator[Any]:
        """One pass; nothing of it is kept."""
        return iter(self.data(self.number) if callable(self.data) else self.data)


@dataclass
class Passes:
    """The training data as a method that learns wants it: each pass is a further epoch.

    Attributes:
        data: As in :class:`Epoch`.
        epoch: The number of the next pass.
        steps: Batches of a pass.
    """

    data: Data
    epoch: int
    steps: int

    def __len__(self) -> int:
        """Batches of a pass."""
        return self.steps

    def __iter__(self) -> Iterator[Any]:
        """The next pass."""
        self.epoch += 1
        return iter(Epoch(self.data, self.epoch - 1))


def steps_of(data: Data) -> int:
    """How many batches an epoch has, counted where the data does not say."""
    known = known_length(data)
    return sum(1 for _ in Epoch(data, 0)) if known is None else known


def distinct(model: nn.Module, followers: Iterable[Follower]) -> list[Follower]:
    """The followers, each a copy of its own.

    Args:
        model: The network that they follow.
        followers: Models or state dictionaries.

    Returns:
        They as a list.

    Raises:
        RamifyError: One is the model itself, two share a tensor, or one is neither a model nor a
            state dictionary of tensors.
    """
    found = list(followers)
    own, seen = _memory(_tensors(model)), dict[int, int]()
    for number, follower in enumerate(found):
        tensors = _tensors(follower)
        if tensors is None:
            raise RamifyError(
                f"follower {number} is a {type(follower).__name__}; give a model or a state "
                "dictionary of tensors with the model's names."
            )
        memory = _memory(tensors)
        if memory <= own:
            raise RamifyError(
                f"follower {number} is the model itself, which grows anyway; give a copy with "
                "weights of its own, such as torch.optim.swa_utils.AveragedModel(model)."
            )
        twice = [seen[place] for place in memory - own if place in seen]
        if twice:
            raise RamifyError(
                f"followers {twice[0]} and {number} hold the same tensors; give each once."
            )
        seen |= dict.fromkeys(memory, number)
    return found


def _tensors(follower: Any) -> Mapping[str, Tensor] | None:
    if isinstance(follower, nn.Module):
        return named_tensors(follower)
    plain = isinstance(follower, Mapping) and all(isinstance(t, Tensor) for t in follower.values())
    return follower if plain else None


def _memory(tensors: Mapping[str, Tensor] | None) -> set[int]:
    return {t.data_ptr() for t in (tensors or {}).values() if t.numel()}


def is_found(event: Mapping[str, Any]) -> bool:
    """Whether an event says what a search for cells found."""
    return event["event"] == "result" and event["arm"] == "searched"
