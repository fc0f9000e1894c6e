"""The reason why one rank ends reaches those that wait for it.

A collective operation that one rank never comes to leaves the others waiting, until the backend
notices that a connection was closed, or its timeout passes. So a rank that ends in an error first
writes the reason into the store by which the ranks met, and a rank that waits looks there.
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

OFTEN = 0.5  # seconds between two looks at the store
TOLD = 10.0  # seconds that a rank waits at most until the others have heard its reason
HEARD = 3.0  # seconds that a rank which heard it stays for those that have not
FIRST = "first"  # the key of the reason of the rank that was the first to end
ELSEWHERE = "another rank says why all of them end"  # a note at an error
_entered: Counter[str] = Counter()
_board: ContextVar[Board | None] = ContextVar("board", default=None)


@dataclass
class Board:
    """Where the ranks of a group say why they end.

    Attributes:
        store: That of these ranks, for this block alone.
        rank: Of this process.
        size: How many ranks there are.
        heard: Whether the reason came from another rank.
        lost: Whether another rank is gone and gave no reason.
    """

    store: Store
    rank: int
    size: int
    heard: bool = field(default=False, init=False)
    lost: bool = field(default=False, init=False)

    def tell(self, error: BaseException) -> None:
        """Say why this rank ends, unless another said so before, and wait until all know."""
        own = str(error) if isinstance(error, RamifyError) else f"{type(error).__name__}: {error}"
        with contextlib.suppress(RuntimeError):  # the store is gone with the rank that held it
            if not self.heard:
                said = f"rank {self.rank} ended: {own}"
                first = self.store.compare_set(FIRST, "", said).decode(errors="replace")
                # What every rank sees, such as a file that is missing, one of them says.
                knows = not (self.lost or isinstance(error, KeyboardInterrupt))
                self.heard = first != said and (first.partition(": ")[2] == own or not knows)
            if self.heard:
                leave_saying(error)
            self.store.set(str(self.rank), "1")
            # An interrupt ends all processes at once, and one that is gone hears nothing.
            short = self.heard or self.lost or isinstance(error, KeyboardInterrupt)
            last = time.monotonic() + (HEARD if short else TOLD)
            others = [str(number) for number in range(self.size)]
            while not self.store.check(others) and time.monotonic() < last:
                time.sleep(0.05)

    def leave(self) -> None:
        """Say that this rank waits for nobody any more."""
        with contextlib.suppress(RuntimeError):
            self.store.set(str(self.rank), "1")

    def reason(self) -> str | None:
        """Why another rank ended; None where none has said anything."""
        with contextlib.suppress(RuntimeError):
            if self.store.check([FIRST]):
                self.heard = True
                return self.store.get(FIRST).decode(errors="replace")
        return None


@contextlib.contextmanager
def reasons_shared(group: dist.ProcessGroup) -> Iterator[None]:
    """Let the ranks of a group hear why another one ends in an error.

    Args:
        group: Every rank of it enters as many such blocks.

    Yields:
        Nothing.
    """
    # Only here, since a PyTorch without torch.distributed does not have them.
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
    """Wait for an operation of all ranks, or for the reason why one of them does not come to it.

    Args:
        work: From a function of ``torch.distributed`` with ``async_op=True``.

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
    """Note at an error that another rank says it.

    Args:
        error: What this rank ends with.
    """
    error.add_note(ELSEWHERE)


def said_elsewhere(error: BaseException) -> bool:
    """Whether another rank says why this one ended.

    Args:
        error: What this one ended with, from a block in which reasons are shared.

    Returns:
        True for a reason that came from another rank, and for one that several ranks had on their
        own, on all of them but the first.
    """
    return ELSEWHERE in getattr(error, "__notes__", ())


def _unknown(error: RuntimeError) -> str:
    """What is known of a rank that gave no reason."""
    if "timed out" in str(error).lower():
        return "another rank did not come within the time limit of torch.distributed"
    return "another rank ended without a word, such as by a kill"


def _with_it(reason: str) -> str:
    return f"{reason.removesuffix('.')}; this rank ends with it: start all of them again"
