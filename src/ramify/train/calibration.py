"""Correction of predicted gains by a trial of the current edits and by earlier edits."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

TRIED = 3.0
"""The weight of a trial of the current edits; the last edit has weight 1."""
FORGOTTEN = 0.5
"""The weight of an edit relative to the edit after it."""
FARTHEST = 100.0
"""Ratios are clipped to this above and to its inverse below."""


def calibration(history: Iterable[Mapping[str, Any]], tried: float | None = None) -> float:
    r"""The factor that corrects the predicted gain of the next edit.

    .. math:: \exp \frac{w \log r + \sum_{i=1}^n 2^{i - n} \log r_i}{w + \sum_{i=1}^n 2^{i - n}}

    with :math:`r_i` the measured over the predicted decrease of the loss at edit i, and r the same
    ratio for a trial of the current edits, on some of the samples that judge them. Without a trial
    r and its weight are 1, so that predictions without any evidence against them are kept. Ratios
    below 1/100 count as 1/100, also those of edits that did not lower the loss on their samples.

    Args:
        history: The events of the run.
        tried: r, or None if nothing was tried.

    Returns:
        The factor.

    Example:
        >>> half = {"event": "edit", "predicted_gain": 0.4, "measured_gain": 0.2}
        >>> calibration([]), round(calibration([half]), 3), round(calibration([half] * 9), 3)
        (1.0, 0.707, 0.63)
        >>> round(calibration([half], tried=0.1), 3), round(calibration([half], tried=-0.01), 3)
        (0.15, 0.027)
    """
    total, weight = (0.0, 1.0) if tried is None else (TRIED * _log(tried), TRIED)
    counts = 1.0
    for event in reversed(list(history)):
        predicted, measured = event.get("predicted_gain"), event.get("measured_gain")
        if predicted and measured is not None:
            total, weight = total + counts * _log(measured / predicted), weight + counts
            counts *= FORGOTTEN
    return math.exp(total / weight)


def _log(ratio: float) -> float:
    return math.log(min(max(ratio, 1 / FARTHEST), FARTHEST))
