"""Restores a model completely after an error, wherever the error occurred.

Code that temporarily changes a model reverts its changes at the end. But an interrupt or a lack of
memory can also occur during that. So public functions run under `unharmed`, which saves everything
at the beginning and restores it again after an error.
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
    """Restore a model and related objects if the block ends in an error.

    Args:
        model: the model.
        *others: other objects that the block changes, such as optimizers and followers.
        written: whether the block writes to parameters, and not only to buffers; the values of all
            are then copied.

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
