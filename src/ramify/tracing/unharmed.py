"""What an error leaves of a model: all that it had, wherever the error came.

What works on a model for a moment gives back what it changed when it ends. But an interrupt, or the
want of memory, can come in the middle of that, too. So what a user calls is done under `unharmed`,
which knows everything as it was at the beginning and looks again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks

from ramify.tracing.kept_state import KeptState, give_back_all, tensor_given_back


@contextlib.contextmanager
def unharmed(model: nn.Module, *others: Any, written: bool = False) -> Iterator[None]:
    """Where the block ends in an error, a model and what goes with it are as they were.

    Args:
        model: the model.
        *others: optimizers, followers: what else the block changes.
        written: whether the block writes into parameters, and not into buffers alone: then the
            values of all are copied.

    Yields:
        Nothing.
    """
    kept = KeptState([*model.modules(), *others])
    buffers = {id(buffer) for buffer in model.buffers()}
    tensors = {id(t): t for t in (*kept.tensors(), *model.parameters()) if _is_plain(t)}
    values = {n: t.detach().clone() for n, t in tensors.items() if written or n in buffers}
    steps = [tensor_given_back(tensor, values.get(n)) for n, tensor in tensors.items()]
    classes = [(module, type(module)) for module in model.modules()]
    of_all = [(table, dict(table)) for table in (_BEFORE, _AFTER, _ALWAYS)]
    fast_path = torch.backends.mha.get_fastpath_enabled()
    try:
        yield
    except BaseException:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for table, content in of_all:
            for key in set(table) - set(content):
                del table[key]
        for module, kind in classes:
            if type(module) is not kind:
                object.__setattr__(module, "__class__", kind)
        give_back_all([*kept.steps(), *(("a tensor", step) for step in steps)])
        torch.clear_autocast_cache()
        raise


_BEFORE: Any = hooks._global_forward_pre_hooks
_AFTER: Any = hooks._global_forward_hooks
_ALWAYS: Any = hooks._global_forward_hooks_always_called


def _is_plain(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and tensor.is_leaf
