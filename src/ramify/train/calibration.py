"""How much of what methods predicted has come in a run so far."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

PRIOR = 0.5
"""What the belief that predictions are right weighs, in edits."""
FARTHEST = 100.0
"""A ratio beyond this counts as this, and below its inverse, or of another sign, as that."""


def calibration(history: Iterable[Mapping[str, Any]]) -> float:
    r"""What predictions of the next edit are to be multiplied by.

    .. math:: \exp \frac{\sum_{i=1}^n \log r_i}{n + \tfrac12}

    with :math:`r_i` the decrease of the loss that edit i really brought over the one predicted:
    their geometric mean, drawn toward 1 while there are few edits.

    Args:
        history: The events of the run.

    Returns:
        The factor, 1 before the first edit that was measured.

    Example:
        >>> half = {"event": "edit", "predicted_gain": 0.4, "measured_gain": 0.2}
        >>> calibration([]), round(calibration([half]), 3), round(calibration([half] * 9), 3)
        (1.0, 0.63, 0.519)
    """
    logs = []
    for event in history:
        predicted, measured = event.get("predicted_gain"), event.get("measured_gain")
        if predicted and measured is not None:
            ratio = min(max(measured / predicted, 1 / FARTHEST), FARTHEST)
            logs.append(math.log(ratio))
    return math.exp(sum(logs) / (len(logs) + PRIOR))
