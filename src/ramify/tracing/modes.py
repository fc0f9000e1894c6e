"""Sets modes of a model and of torch for one run, and attributes that resist being set."""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ramify.tracing.walk import modules_of

ABSENT = object()
"""The value of an attribute that does not exist."""
_MODE_NAMES = frozenset({"mode", "training", "train", "is_training", "flag"})


def enter_mode(model: nn.Module, training: bool) -> None:
    """Set a model to train or eval mode, with its own `train` if that sets the mode.

    An exported model refuses, and the `train` of some wrappers fits the model. Then the flag of
    every module is set directly.

    Args:
        model: the model.
        training: the mode.
    """
    with contextlib.suppress(Exception):
        first = next(iter(inspect.signature(model.train).parameters.values()), None)
        means_mode = first is not None and first.name in _MODE_NAMES
        if means_mode or (first is not None and first.kind is inspect.Parameter.VAR_POSITIONAL):
            model.train(training)
            return
    for module in model.modules():
        if hasattr(module, "training"):  # a frozen script has no mode
            set_attribute(module, "training", training)


def set_attribute(owner: Any, name: str, value: Any) -> None:
    """Set an attribute directly, bypassing a `__setattr__` of the owner's class.

    Args:
        owner: a module or tensor that has the attribute.
        name: its name; if it is not in the owner's `__dict__`, it is set in the usual way.
        value: the value, or `ABSENT` to delete the attribute.
    """
    own = vars(owner)
    if value is ABSENT:
        own.pop(name, None)
    elif name in own:
        own[name] = value
    else:
        setattr(owner, name, value)


@contextlib.contextmanager
def recurrent_layers_written_out(model: nn.Module) -> Iterator[None]:
    """Disable fused recurrent layers, which hide what they read, so torch uses plain operations."""
    if not any(isinstance(each, nn.RNNBase) for each in modules_of(model).values()):
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a setting of other hardware, on entry and exit
        with torch.backends.mkldnn.flags(enabled=False):
            yield
