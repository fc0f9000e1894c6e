"""How much of what methods predict comes: by a trial of the edits at hand, and by earlier ones."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

TRIED = 3.0
"""What a trial of the edits at hand counts, in edits."""
FORGOTTEN = 0.5
"""What an edit counts of the one behind it."""
FARTHEST = 100.0
"""A ratio beyond this counts as this, and below its inverse, or of another sign, as that."""


def calibration(history: Iterable[Mapping[str, Any]], tried: float | None = None) -> float:
    r"""What the prediction of the next edit is to be multiplied by.

    .. math:: \exp \frac{w \log r + \sum_{i=1}^n 2^{i - n} \log r_i}{w + \sum_{i=1}^n 2^{i - n}}

    with :math:`r_i` the decrease of the loss that edit i really brought over the one predicted, and
    r the same of a trial of the edits at hand, on some of the samples that judge them. Without a
    trial r and its weight are 1: predictions are believed as far as nothing speaks against them.

    Args:
        history: The events of the run.
        tried: r, or None where nothing was tried. A trial that lowers no loss is believed as it is.

    Returns:
        The factor.

    Example:
        >>> half = {"event": "edit", "predicted_gain": 0.4, "measured_gain": 0.2}
        >>> calibration([]), round(calibration([half]), 3), round(calibration([half] * 9), 3)
        (1.0, 0.707, 0.63)
        >>> round(calibration([half], tried=0.1), 3), calibration([half], tried=-0.01)
        (0.15, -0.01)
    """
    if tried is not None and tried <= 0:
        return tried
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
