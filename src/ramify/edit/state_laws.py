"""The laws by which optimizer state follows an edit, and `ramify.state_rule` to register one.

An edit multiplies the gradients of a weight by g and its values by f. A law computes from both
the factor for a state entry.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch.optim import Optimizer

from ramify.arguments import check_kind
from ramify.errors import RamifyError

Law: TypeAlias = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]
"""(factors of the gradients, factors of the values) -> factors of a state entry."""

SMALLEST = 0.1  # smaller shares count as this, or the copy would hardly ever move


def _pace(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The factor of steps: that of the values, but 0 (nothing reads the copy yet) counts as 1."""
    return np.where(values == 0.0, 1.0, np.maximum(np.abs(values), SMALLEST))


def _size(gradients: NDArray[np.float64]) -> NDArray[np.float64]:
    """The factor of the size of gradients; 0 counts as 1, or later steps would explode."""
    return np.where(gradients == 0.0, 1.0, np.abs(gradients))


def _square(gradients: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The factor of squares that divide gradients: the quotient is multiplied by sign(g) |f|."""
    return (_size(gradients) / _pace(values)) ** 2


LAWS: dict[str, Law] = {
    "weights": lambda g, f: f,
    "gradients": lambda g, f: g,
    "squares": _square,
    "sizes": lambda g, f: _size(g) / _pace(f),
    "steps": lambda g, f: np.sign(g) * _pace(f),
    "step sizes": lambda g, f: _pace(f),
    "constant": lambda g, f: np.ones_like(f),
}
"""The kinds of state entries, by the words of `ramify.state_rule`."""

NEVER_NEGATIVE = frozenset({"squares", "sizes", "step sizes"})

# The entries of torch's own optimizers. Entries not named here are means of gradients.
_TORCH: dict[str, str | Law] = {
    "exp_avg": "gradients",
    "momentum_buffer": "gradients",
    "prev": "gradients",  # Rprop
    "exp_avg_sq": "squares",  # Adam, AdamW, NAdam, RAdam
    "max_exp_avg_sq": "squares",
    "square_avg": "squares",  # RMSprop
    "variance": "squares",  # Adafactor, of vectors
    "sum": "squares",  # Adagrad
    "exp_inf": "sizes",  # Adamax
    "grad_avg": lambda g, f: g / _pace(f),  # RMSprop, centred: subtracts its square from square_avg
    "step_size": "step sizes",  # Rprop
}
_OWN: dict[tuple[type[Optimizer], str], str | Law] = {
    (torch.optim.RMSprop, "momentum_buffer"): "steps",  # sums steps
    (torch.optim.Adadelta, "square_avg"): lambda g, f: _size(g) ** 2,
    (torch.optim.Adadelta, "acc_delta"): lambda g, f: _pace(f) ** 2,  # squared steps
    (torch.optim.ASGD, "ax"): "weights",
}
_REGISTERED: dict[tuple[type, str], str | Law] = {}


def state_rule(optimizer: type, key: str, like: str | Law) -> None:
    r"""Register the kind of an optimizer state entry that Ramify cannot identify.

    An edit multiplies a weight's gradients by :math:`g` and its values by :math:`f`. An entry like

    - ``"weights"`` (a copy or an average of the weight) is multiplied by :math:`f`, and displaced
      as the weight is;
    - ``"gradients"`` (a mean of gradients) by :math:`g`;
    - ``"squares"`` (a mean of squared gradients, or a variance, that divides gradients) by
      :math:`(g / f)^2`;
    - ``"sizes"`` (sizes of gradients, that divide gradients) by :math:`|g / f|`;
    - ``"steps"`` (a mean of steps whose length does not depend on the size of gradients) by
      :math:`\operatorname{sign}(g)\,|f|`;
    - ``"step sizes"`` by :math:`|f|`;
    - ``"constant"`` (a mask, a fixed factor) is copied unchanged.

    Args:
        optimizer: the class of the optimizer; the rule also applies to its subclasses.
        key: the name of the entry in ``optimizer.state[parameter]``, a tensor of the parameter's
            shape.
        like: one of these words, or a function that returns the factors for g and f, two arrays of
            the same shape.

    Raises:
        RamifyError: the word is unknown, or `optimizer` is not a class.

    Example:
        >>> import ramify, torch
        >>> class Averaged(torch.optim.SGD):
        ...     "Keeps the sum of its weights, one for every step, beside SGD's own state."
        >>> ramify.state_rule(Averaged, "total", like="weights")
    """
    if not isinstance(optimizer, type):
        raise RamifyError(
            f"a state rule must be for a class of optimizers, but got a "
            f"{type(optimizer).__name__}: give its class"
        )
    check_kind(key, "key", str, optional=False)
    if not callable(like) and not (isinstance(like, str) and like in LAWS):
        raise RamifyError(
            f"the rule of '{key}' must be one of {', '.join(map(repr, LAWS))} or a function of g "
            f"and f, but got {like!r}"
        )
    _REGISTERED[optimizer, key] = like


def known_law(kind: type, key: str) -> str | Law | None:
    """The registered law of an entry, or that of torch's own optimizers; None if unknown."""
    for base in kind.__mro__:
        if (base, key) in _REGISTERED:
            return _REGISTERED[base, key]
    of_torch = [b for b in kind.__mro__ if b.__module__.startswith("torch.") and b is not Optimizer]
    if not any(issubclass(base, Optimizer) for base in of_torch):
        return None
    for base in of_torch:
        if (base, key) in _OWN:
            return _OWN[base, key]
    # An unnamed entry of torch's own class is a mean; one that a subclass adds may not be.
    return _TORCH.get(key, "gradients" if of_torch[0] is kind else None)


def law_of(rule: str | Law) -> Law:
    """The function for a word."""
    return LAWS[rule] if isinstance(rule, str) else rule
