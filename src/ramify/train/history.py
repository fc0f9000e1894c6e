"""The record of a run: its events, from which its progress follows, and its checkpoint."""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ramify import distributed
from ramify.store.checkpoint import Checkpoint, damage_named, read_checkpoint, write_checkpoint
from ramify.store.disk import make_folder
from ramify.store.state import Resumable, random_states, set_random_states
from ramify.train.epoch import located
from ramify.train.logs import Log, told_to

Event = dict[str, Any]
TRAINING, SEARCH = "training", "search"  # the kinds of runs
BOUNDS = ("keep", "ceiling", "groups", "depth")  # absent from the events of a run without them


@dataclass
class Journal:
    """The events of a run; together with the checkpoint they hold all that resuming needs.

    Attributes:
        kind: The kind of run, ``"training"`` or ``"search"``.
        subject: The state that the run changes.
        file: The checkpoint, written after each event; None for none.
        log: Called with each event, or with its numbers, on rank 0.
        tags: Entries to put at the front of each event.
        history: The events so far.
        begun_with: Entries to append to the first event.
    """

    kind: str
    subject: Resumable
    file: Path | None
    log: Log | None
    tags: Mapping[str, Any]
    history: list[Event] = field(default_factory=list)
    begun_with: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._tell = told_to(self.log)

    def resume(self, limits: Mapping[str, Any]) -> None:
        """Restore the checkpoint if there is one.

        Args:
            limits: The limits that may end the run. A run that ended under other limits continues.

        Raises:
            RamifyError: The checkpoint is damaged or of another run.
        """
        if self.file is not None:
            make_folder(self.file.parent)
        if self.file is not None and self.file.exists():
            stored = read_checkpoint(self.file, self.kind)
            with located(str(self.file)), damage_named(self.file):
                self.subject.load_state_dict(stored.state)
                # Every process draws its own random numbers, for example for dropout.
                if len(stored.random) == distributed.world_size():
                    set_random_states(stored.random[distributed.rank()])
            self.history = stored.history
        if self.stopped and not _still_hold(limits, self.history[-1]):
            self.history.pop()
        self._began = time.monotonic() - (self.history[-1]["t"] if self.history else 0.0)

    @property
    def stopped(self) -> bool:
        """Whether the run has ended."""
        return bool(self.history) and self.history[-1]["event"] == "stop"

    @property
    def round(self) -> int:
        """The present round."""
        return self.history[-1]["round"] if self.history else 0

    @property
    def epoch(self) -> int:
        """Epochs trained in this round."""
        return self.history[-1].get("epoch", -1) + 1 if self.history else 0

    @property
    def losses(self) -> list[float]:
        """The mean training loss of each epoch of this round."""
        made = self.history[len(self.history) - self.epoch :]
        return [event["train_loss"] for event in made]

    @property
    def epochs_by_round(self) -> list[int]:
        """Epochs trained in each round, this one last."""
        made = Counter(event["round"] for event in self.history if event["event"] == "epoch")
        return [made[number] for number in range(self.round + 1)]

    @property
    def step(self) -> int:
        """Optimizer steps since the beginning."""
        return self.history[-1]["step"] if self.history else 0

    @property
    def passes(self) -> int:
        """Epochs of data used, in training and by a method that learns."""
        return sum(event.get("passes", event["event"] == "epoch") for event in self.history)

    def full(self, budget: Mapping[str, float] | None) -> bool:
        """Whether the last edit used this budget up."""
        edits = [event for event in self.history if event["event"] == "edit"]
        return bool(edits) and edits[-1]["full"] and edits[-1]["budget"] == budget

    def ended(self, limits: Mapping[str, Any]) -> str | None:
        """Why editing has ended under these limits; None if it has not."""
        last: Event = (self.history[-1].get("ended") if self.history else None) or {}
        return str(last["reason"]) if last and _still_hold(limits, last) else None

    def write(self, kind: str, event: Event) -> None:
        """Add an event to the history, write the checkpoint, then tell ``log``."""
        head = {"event": kind, **self.tags, "t": time.monotonic() - self._began}
        self.history.append(head | event | ({} if self.history else dict(self.begun_with)))
        if self.file is not None:
            random = distributed.all_gather(random_states())
            if distributed.is_rank_zero():
                state = self.subject.state_dict()
                write_checkpoint(self.file, Checkpoint(self.kind, state, random, self.history))
        if self._tell is not None and distributed.is_rank_zero():
            self._tell(self.history[-1])


def _still_hold(limits: Mapping[str, Any], event: Mapping[str, Any]) -> bool:
    """Whether the limits of a run are the same as at an event."""
    return all(event.get(name) == limits.get(name) for name in {*limits, *BOUNDS})


def is_found(event: Mapping[str, Any]) -> bool:
    """Whether an event holds the result of a cell search."""
    return event["event"] == "result" and event["arm"] == "searched"
