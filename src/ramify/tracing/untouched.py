"""Restores a model and the random states after a block that runs the model."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.autograd.grad_mode import _unsafe_preserve_version_counter

from ramify.tracing.kept_state import KeptState, giving_back, tensor_given_back
from ramify.tracing.walk import modules_of, parameters_and_buffers

_ALONE = threading.RLock()


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Allow one thread at a time to trace or edit; others wait.

    A trace sets state that all threads share, and temporarily grows the model.
    """
    with _ALONE:
        yield


@contextlib.contextmanager
def untouched(model: nn.Module, *others: Any) -> Iterator[None]:
    """Restore the model and the random states after the block, whatever runs inside.

    This covers buffers, modes, attributes, the contents of containers and objects, and the identity
    of the parameters. A `Recorder` restores the values of parameters that a run writes to. These
    writes do not raise autograd's version counters, so earlier graphs stay usable for backward.

    Args:
        model: the model.
        *others: other inputs of the run, which are restored too.
    """
    with alone():
        kept = KeptState([*modules_of(model).values(), *others])
        parameters, buffers = (list(each.values()) for each in parameters_and_buffers(model))
        steps: list[Callable[[], Any]] = [tensor_given_back(each) for each in parameters]
        steps += [tensor_given_back(buffer, buffer.detach().clone()) for buffer in buffers]
        python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
        fast_path = torch.backends.mha.get_fastpath_enabled()
        devices = sorted({t.device.index for t in parameters if t.device.type == "cuda"})
        counted = tuple(t for t in (*parameters, *buffers) if not t.is_inference())
        with _unsafe_preserve_version_counter(counted), torch.random.fork_rng(devices):
            steps += [
                partial(torch.backends.mha.set_fastpath_enabled, fast_path),
                partial(random.setstate, python_state),
                partial(np.random.set_state, numpy_state),
            ]
            with giving_back(lambda: [*kept.steps(), *(("a tensor", step) for step in steps)]):
                # The fused encoder layer is one opaque operation; the plain form computes the same.
                torch.backends.mha.set_fastpath_enabled(False)
                yield
