"""How long a better selection is looked for."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass


@dataclass
class Limit:
    """A moment at which to stop, and how many steps are left until then.

    Attributes:
        until: the moment, by `time.monotonic`.
        steps: pairs of groups that may yet be compared; of an exact program, nodes of its tree.
    """

    until: float = math.inf
    steps: float = math.inf

    def over(self) -> bool:
        """Whether to stop."""
        return self.steps <= 0 or time.monotonic() >= self.until

    def share(self, part: float) -> float:
        """The moment at which this part of the time that is left has passed."""
        now = time.monotonic()
        return now + (self.until - now) * part

    def options(self) -> dict[str, float]:
        """The same for an exact program."""
        given = {} if math.isinf(self.until) else {"time_limit": self.until - time.monotonic()}
        return given if math.isinf(self.steps) else {**given, "node_limit": int(self.steps)}
