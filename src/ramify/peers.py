"""Passes the reason why one rank ends to the ranks that wait for it.

If one rank never reaches a collective operation, the others wait until the backend notices a closed
connection or its timeout passes. So a rank that ends in an error first writes the reason into the
store through which the ranks were initialised, and waiting ranks read it there.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch.distributed as dist

from ramify.errors import RamifyError

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

OFTEN = 0.5  # seconds between two reads of the store
TOLD = 10.0  # the most seconds that a rank waits until the others have read its reason
HEARD = 3.0  # seconds that a rank which read it waits for the others
FIRST = "first"  # the key for the reason of the first rank that ended
ELSEWHERE = "another rank says why all of them end"  # a note on an error
_entered: Counter[str] = Counter()
_board: ContextVar[Board | None] = ContextVar("board", default=None)


@dataclass
class Board:
    """The store in which the ranks of a group write why they end.

    Attributes:
        store: The store of these ranks, for this block only.
        rank: The rank of this process.
        size: The number of ranks.
        heard: Whether the reason came from another rank.
        lost: Whether another rank ended without a reason.
    """

    store: Store
    rank: int
    size: int
    heard: bool = field(default=False, init=False)
    lost: bool = field(default=False, init=False)

    def tell(self, error: BaseException) -> None:
        """Write why this rank ends, unless another did so first, and wait until all read it."""
        own = str(error) if isinstance(error, RamifyError) else f"{type(error).__name__}: {error}"
        with contextlib.suppress(RuntimeError):  # the rank that hosted the store has ended
            if not self.heard:
                said = f"rank {self.rank} ended: {own}"
                first = self.store.compare_set(FIRST, "", said).decode(errors="replace")
                # An error of every rank, such as a missing file, is reported by one of them.
                knows = not (self.lost or isinstance(error, KeyboardInterrupt))
                self.heard = first != said and (first.partition(": ")[2] == own or not knows)
            if self.heard:
                leave_saying(error)
            self.store.set(str(self.rank), "1")
            # An interrupt ends all processes at once, and a rank that has ended reads nothing.
            short = self.heard or self.lost or isinstance(error, KeyboardInterrupt)
            last = time.monotonic() + (HEARD if short else TOLD)
            others = [str(number) for number in range(self.size)]
            while not self.store.check(others) and time.monotonic() < last:
                time.sleep(0.05)

    def leave(self) -> None:
        """Record that this rank no longer waits for others."""
        with contextlib.suppress(RuntimeError):
            self.store.set(str(self.rank), "1")

    def reason(self) -> str | None:
        """Why another rank ended; None if no rank gave a reason."""
        with contextlib.suppress(RuntimeError):
            if self.store.check([FIRST]):
                self.heard = True
                return self.store.get(FIRST).decode(errors="replace")
        return None


@contextlib.contextmanager
def reasons_shared(group: dist.ProcessGroup) -> Iterator[None]:
    """Let the ranks of a group read why another one ends in an error.

    Args:
        group: The group; every rank of it must enter the same number of such blocks.

    Yields:
        Nothing.
    """
    # Imported here, since a PyTorch without torch.distributed does not have them.
    from torch.distributed.distributed_c10d import PrefixStore, _get_default_store

    _entered[group.group_name] += 1
    name = f"ramify/{group.group_name}/{_entered[group.group_name]}"
    store = PrefixStore(name, _get_default_store())
    board = Board(store, dist.get_rank(group), dist.get_world_size(group))
    token = _board.set(board)
    try:
        yield
    except BaseException as error:
        board.tell(error)
        raise
    else:
        board.leave()
    finally:
        _board.reset(token)


def wait_for(work: dist.Work | None) -> None:
    """Wait for a collective operation, or for the reason why a rank does not reach it.

    Args:
        work: The result of a function of ``torch.distributed`` with ``async_op=True``.

    Raises:
        RamifyError: Another rank ended.
    """
    board = _board.get()
    assert work is not None
    pause, look = 2e-5, time.monotonic() + OFTEN
    while board is not None and not work.is_completed():
        time.sleep(pause)
        pause = min(1.5 * pause, 5e-3)
        if time.monotonic() > look:
            look = time.monotonic() + OFTEN
            if reason := board.reason():
                raise RamifyError(_with_it(reason))
    try:
        work.wait()
    except RuntimeError as error:
        reason = board.reason() if board is not None else None
        if reason is None and board is not None:
            board.lost = True
        raise RamifyError(_with_it(reason or _unknown(error))) from error


def leave_saying(error: BaseException) -> None:
    """Note on an error that another rank reports it.

    Args:
        error: The error with which this rank ends.
    """
    error.add_note(ELSEWHERE)


def said_elsewhere(error: BaseException) -> bool:
    """Whether another rank reports the error of this one.

    Args:
        error: The error of this rank, from a block in which reasons are shared.

    Returns:
        True for a reason that came from another rank. If several ranks have the same error, True on
        all of them except the first.
    """
    return ELSEWHERE in getattr(error, "__notes__", ())


def _unknown(error: RuntimeError) -> str:
    """The message for a rank that ended without a reason."""
    if "timed out" in str(error).lower():
        return "another rank did not come within the time limit of torch.distributed"
    return "another rank ended without a word, such as by a kill"


def _with_it(reason: str) -> str:
    return f"{reason.removesuffix('.')}; this rank ends with it: start all of them again"
