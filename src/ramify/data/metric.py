"""What says how good a network is: a number of test samples, its name, and how it is written."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

DIGITS = 4  # of a number that is no percentage
FIELDS: dict[str, type] = {"key": str, "words": str, "higher": bool, "percent": bool}


@dataclass(frozen=True)
class Metric:
    """How good a network is on test samples, in one number.

    Attributes:
        key: its name in events, as in ``test_accuracy``.
        words: what people call it.
        higher: whether a higher number is a better one.
        percent: whether it is a share, written in per cent.
        measure: ``measure(model, batches)`` -> the number, of a metric of the user's own; the model
            is in evaluation mode, a batch is samples and labels. None where the task measures it.

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
        """The metric of an event or of a row of a table; without a word of it, accuracy."""
        found = entry.get("metric")
        return cls(**{name: found[name] for name in FIELDS}) if found else ACCURACY

    def tags(self) -> dict[str, Any]:
        """What events say of the metric: nothing of accuracy, which all can read."""
        told = {name: getattr(self, name) for name in FIELDS}
        return {} if self == ACCURACY else {"metric": told}

    @property
    def scale(self) -> float:
        """By what a value is multiplied where it is drawn."""
        return 100.0 if self.percent else 1.0

    @property
    def unit(self) -> str:
        """What stands behind a value, with its space."""
        return " %" if self.percent else ""

    @property
    def axis(self) -> str:
        """What an axis of test values is called."""
        return f"test {self.words}{' (%)' if self.percent else ''}"

    def worth(self, value: float) -> float:
        """A number that is higher where the network is better."""
        return value if self.higher else -value

    def text(self, value: float, deviation: float | None = None) -> str:
        """A value, and its deviation over seeds where there are several."""
        spread = "" if deviation is None else f" ± {self._plain(deviation, value)}"
        return f"{self._plain(value, value)}{spread}{self.unit}"

    def change(self, before: float, after: float) -> str:
        """Two values in one unit, such as '93.16 -> 91.02 %'."""
        return f"{self._plain(before, before)} -> {self.text(after)}"

    def difference(self, value: float, other: float) -> str:
        """By how much a value lies above another, with its sign."""
        change = self.scale * (value - other)
        if self.percent:
            return f"{change:+.2f} points".replace("-", "−")
        return f"{change:+.{_decimals(change)}f}".replace("-", "−")

    def _plain(self, value: float, like: float) -> str:
        """A value without its unit, with as many decimals as ``like`` has."""
        decimals = 2 if self.percent else _decimals(like)
        return f"{self.scale * value:.{decimals}f}"


def _decimals(value: float) -> int:
    """Decimals that leave a number four digits, but no more than four."""
    whole = math.floor(math.log10(abs(value))) if value and math.isfinite(value) else 0
    return min(max(DIGITS - 1 - whole, 0), DIGITS)


ACCURACY = Metric("accuracy", "accuracy", percent=True)
R2 = Metric("r2", "R²")
IOU = Metric("iou", "mean IoU", percent=True)
PERPLEXITY = Metric("perplexity", "perplexity", higher=False)
LOSS = Metric("loss", "loss", higher=False)
