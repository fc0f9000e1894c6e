"""A metric on test samples: its name and how its values are printed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

DIGITS = 4  # of a number that is not a percentage
FIELDS: dict[str, type] = {"key": str, "words": str, "higher": bool, "percent": bool}


@dataclass(frozen=True)
class Metric:
    """One number that says how good a network is on test samples.

    Attributes:
        key: its name in events, as in ``test_accuracy``.
        words: its name in text.
        higher: whether higher is better.
        percent: whether it is a share, printed in per cent.
        measure: ``measure(model, batches)`` -> the number, for a user's own metric; the model is in
            evaluation mode, and a batch is samples and labels. None if the task measures it.

    Example:
        >>> error = Metric("mae", "mean absolute error", higher=False)
        >>> error.text(1.2345), error.worth(1.0) > error.worth(2.0)
        ('1.234', True)
        >>> ACCURACY.text(0.9316, 0.0042), ACCURACY.difference(0.93, 0.95)
        ('93.16 ± 0.42 %', '−2.00 points')
    """

    key: str
    words: str
    higher: bool = True
    percent: bool = False
    measure: Callable[[Any, Any], float] | None = None

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Metric:
        """The metric that an event or a table row names, accuracy by default."""
        found = entry.get("metric")
        return cls(**{name: found[name] for name in FIELDS}) if found else ACCURACY

    def tags(self) -> dict[str, Any]:
        """The entries of events that name the metric; none for accuracy, the default."""
        told = {name: getattr(self, name) for name in FIELDS}
        return {} if self == ACCURACY else {"metric": told}

    @property
    def scale(self) -> float:
        """The factor by which values are multiplied in figures."""
        return 100.0 if self.percent else 1.0

    @property
    def unit(self) -> str:
        """The unit printed after a value, with its space."""
        return " %" if self.percent else ""

    @property
    def axis(self) -> str:
        """The label of an axis of test values."""
        return f"test {self.words}{' (%)' if self.percent else ''}"

    def worth(self, value: float) -> float:
        """The value with its sign such that higher is better."""
        return value if self.higher else -value

    def text(self, value: float, deviation: float | None = None) -> str:
        """A value, with its deviation over seeds if given."""
        spread = "" if deviation is None else f" ± {self._plain(deviation, value)}"
        return f"{self._plain(value, value)}{spread}{self.unit}"

    def change(self, before: float, after: float) -> str:
        """Two values in one unit, such as '93.16 -> 91.02 %'."""
        return f"{self._plain(before, before)} -> {self.text(after)}"

    def difference(self, value: float, other: float) -> str:
        """A value minus another, with its sign."""
        change = self.scale * (value - other)
        if self.percent:
            return f"{change:+.2f} points".replace("-", "−")
        return f"{change:+.{_decimals(change)}f}".replace("-", "−")

    def _plain(self, value: float, like: float) -> str:
        """A value without its unit, with as many decimals as ``like`` has."""
        decimals = 2 if self.percent else _decimals(like)
        return f"{self.scale * value:.{decimals}f}"


def _decimals(value: float) -> int:
    """Decimals that give a number four digits, at most four."""
    whole = math.floor(math.log10(abs(value))) if value and math.isfinite(value) else 0
    return min(max(DIGITS - 1 - whole, 0), DIGITS)


ACCURACY = Metric("accuracy", "accuracy", percent=True)
R2 = Metric("r2", "R²")
IOU = Metric("iou", "mean IoU", percent=True)
PERPLEXITY = Metric("perplexity", "perplexity", higher=False)
LOSS = Metric("loss", "loss", higher=False)
