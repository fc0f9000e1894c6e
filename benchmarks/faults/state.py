"""The complete state of a model, its optimizer and the process, for comparison."""

from __future__ import annotations

import pickle
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.optim import Optimizer
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

HOOKS: tuple[Any, ...] = (
    hooks._global_forward_pre_hooks,
    hooks._global_forward_hooks,
    hooks._global_forward_hooks_always_called,
)
Snapshot = dict[str, Any]


def snapshot(
    model: nn.Module,
    parts: Sequence[nn.Module],
    optimizer: Optimizer,
    follower: Mapping[str, Tensor],
) -> Snapshot:
    """The state of a model and of everything that an edit changes along with it.

    Args:
        model: the model.
        parts: its modules at the beginning.
        optimizer: an optimizer over its parameters.
        follower: a state dictionary that receives the same edits.

    Returns:
        Plain values and copies of tensors, by name.
    """
    found: Snapshot = {"process": _process()}
    if broken := [type(m).__name__ for m in parts if "_modules" not in vars(m)]:
        return found | {"modules without attributes": broken}
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if key in ("_parameters", "_buffers"):
                found[f"{name}.{key}"] = {n: _tensor(t) for n, t in value.items()}
            elif key == "_modules":
                found[f"{name}.{key}"] = {n: id(part) for n, part in value.items()}
            else:
                found[f"{name}.{key}"] = _plain(value)
        found[f"{name} class"] = type(module)
    names = {id(p): name for name, p in model.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            found[f"optimizer {names.get(id(parameter))}"] = _plain(optimizer.state[parameter])
    found["follower"] = {name: _values(tensor) for name, tensor in follower.items()}
    return found


def differences(one: Snapshot, other: Snapshot) -> list[str]:
    """The names of the entries that differ."""
    return sorted(n for n in one.keys() | other if not _same(one.get(n), other.get(n)))


def _process() -> dict[str, Any]:
    """The global flags and random states of the process."""
    return {
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "modes": len(_get_current_dispatch_mode_stack()),
        "fast path": torch.backends.mha.get_fastpath_enabled(),
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": pickle.dumps(np.random.get_state()),  # noqa: NPY002
        "hooks": [len(table) for table in HOOKS],
    }


def _tensor(tensor: Tensor | None) -> Any:
    if tensor is None:
        return None
    grad = None if tensor.grad is None else _values(tensor.grad)
    return id(tensor), tensor.requires_grad, type(tensor), _values(tensor), grad


def _values(tensor: Tensor) -> Any:
    return tensor.detach().clone(), tensor.stride()


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return _values(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (bool, int, float, str, type(None))) else id(value)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    return type(one) is type(other) and bool(one == other)
