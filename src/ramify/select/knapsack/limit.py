"""The limit on the search for a better selection."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass


@dataclass
class Limit:
    """A time at which to stop, and the number of steps left until then.

    Attributes:
        until: the time, by `time.monotonic`.
        steps: pairs of groups that may still be compared; for an exact program, nodes of its tree.
    """

    until: float = math.inf
    steps: float = math.inf

    def over(self) -> bool:
        """Whether to stop."""
        return self.steps <= 0 or time.monotonic() >= self.until

    def share(self, part: float) -> float:
        """The time at which this part of the remaining time has passed."""
        now = time.monotonic()
        return now + (self.until - now) * part

    def options(self) -> dict[str, float]:
        """The limit as options of an exact program."""
        given = {} if math.isinf(self.until) else {"time_limit": self.until - time.monotonic()}
        return given if math.isinf(self.steps) else {**given, "node_limit": int(self.steps)}
