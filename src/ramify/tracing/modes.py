"""Modes of a model and of torch for one run, and attributes that refuse to be set."""

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
"""The value of an attribute that is not there."""
_MODE_NAMES = frozenset({"mode", "training", "train", "is_training", "flag"})


def enter_mode(model: nn.Module, training: bool) -> None:
    """Bring a model into train or eval mode, by its own `train` where that means the mode.

    An exported model refuses, and the `train` of some wrappers fits the model: there, the flag of
    every module is set.

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
        if hasattr(module, "training"):  # a script that was frozen has no mode
            set_attribute(module, "training", training)


def set_attribute(owner: Any, name: str, value: Any) -> None:
    """Set an attribute where it lies, past a `__setattr__` of the owner's class.

    Args:
        owner: a module or tensor that has the attribute.
        name: its name; where it is no entry of the owner's `__dict__`, it is set in the usual way.
        value: the value, or `ABSENT` to take the attribute away.
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
    """A fused recurrent layer hides what it reads; without it torch takes plain operations."""
    if not any(isinstance(each, nn.RNNBase) for each in modules_of(model).values()):
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a setting of other hardware, on the way in and out
        with torch.backends.mkldnn.flags(enabled=False):
            yield
