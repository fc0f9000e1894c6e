"""Tests whether removing channels equals zeroing them where they are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import nn

from ramify.tracing.decisions import Decisions
from ramify.tracing.dims import Atom
from ramify.tracing.indexing import Change, Index, Indexing
from ramify.tracing.on_use import OnUse
from ramify.tracing.recorder import call, record
from ramify.tracing.resizing import resized
from ramify.tracing.verify.comparison import near_equal


def removal_is_zeroing(
    model: nn.Module, indexing: Indexing, inputs: Any, kept: Mapping[Atom, Index]
) -> bool | None:
    """Whether a model without some channels has the outputs that it has with them read as zeros.

    Args:
        model: the model, which is restored afterwards.
        indexing: the indexing of the model.
        inputs: the inputs to run it on.
        kept: the kept channels, in order, of each axis that loses some.

    Returns:
        The answer; None if the forward fails.
    """
    zeroed = {
        atom: Change(np.arange(atom.size), np.isin(np.arange(atom.size), stay).astype(float))
        for atom, stay in kept.items()
    }
    removed = {atom: Change(stay, np.ones(len(stay))) for atom, stay in kept.items()}
    tapes, decisions = [], Decisions()
    for changes in (zeroed, removed):
        later = OnUse(model)
        with resized(model, indexing, changes, on_use=later):
            try:
                run = decisions.of(lambda: call(model, inputs))
                tapes.append(record(model, run, inputs, execute=later))
            except Exception:
                return None
        # Rounding could change decisions between nearly equal numbers, so they are repeated.
        decisions = Decisions(decisions.noted)
    return near_equal(*tapes)
