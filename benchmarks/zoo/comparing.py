"""Outputs of models, and whether they are equal up to rounding."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from ramify.tracing.recorder import call

MASKED = {torch.float32: 1e-4, torch.float64: 1e-8}
"""Tolerance between a pruned model and the masked original, relative to the largest output."""
SAME = {torch.float32: 1e-5, torch.float64: 1e-10}
"""Tolerance for the outputs after splits."""


class Wrong(Exception):
    """Outputs that should be equal differ."""


def same(what: str, one: list[Tensor], other: list[Tensor], slack: float) -> None:
    """Check that outputs are equal up to rounding.

    Args:
        what: a description of the outputs.
        one: the expected outputs.
        other: the actual outputs.
        slack: the largest allowed difference, relative to the largest entry.

    Raises:
        Wrong: they are not equal.
    """
    if [t.shape for t in one] != [t.shape for t in other]:
        raise Wrong(f"{what} give outputs of other shapes")
    for a, b in zip(one, other, strict=True):
        if not torch.equal(a.isfinite(), b.isfinite()):
            raise Wrong(f"{what} are not finite in other places")
        far, size = (a - b).nan_to_num(0, 0, 0).abs(), a.nan_to_num(0, 0, 0).abs()
        if a.numel() and float(far.max()) > slack * float(size.max()):
            raise Wrong(f"{what} differ by {float(far.max() / size.max()):.1e}")


def rounding_of(model: nn.Module, inputs: Any) -> float:
    """The rounding error of a float32 model's outputs, relative to the largest output.

    It is estimated as ten times the distance to the same model in float64. It can be large, for
    example if a norm amplifies small differences between almost equal numbers.

    Args:
        model: the model in float32.
        inputs: its inputs.

    Returns:
        The relative error; 0 if the model does not run in float64.
    """
    wide = lambda x: x.double() if isinstance(x, Tensor) and x.is_floating_point() else x  # noqa: E731
    try:
        precise = outputs(copy.deepcopy(model).double(), tree_map(wide, inputs))
    except Exception:  # some operations do not support float64
        return 0.0
    pairs = zip(outputs(model, inputs), precise, strict=True)
    shares = [
        float((a.double() - b.double()).abs().max() / b.abs().max().clamp_min(1e-30))
        for a, b in pairs
        if a.numel() and bool(b.isfinite().all())
    ]
    return 10 * max(shares, default=0.0)


def outputs(model: nn.Module, inputs: Any) -> list[Tensor]:
    """The outputs of the model, without gradients."""
    with torch.no_grad():
        return run(model, inputs)


def run(model: nn.Module, inputs: Any) -> list[Tensor]:
    """All floating-point outputs of the model, from the same random state each time."""
    torch.manual_seed(1)
    return tensors(call(model, inputs))


def any_loss(model: nn.Module, inputs: Any) -> Tensor:
    """A loss for any model: the mean squares of its finite outputs."""
    made = [t.square().nan_to_num(0.0, 0.0, 0.0).mean() for t in run(model, inputs)]
    return sum(made, torch.zeros(()))


def runs(model: nn.Module, inputs: Any) -> bool:
    """Whether the model runs; some operations do not support float64."""
    try:
        outputs(model, inputs)
    except Exception:
        return False
    return True


def tensors(found: Any) -> list[Tensor]:
    """All floating-point tensors within a model's output."""
    held: list[Any] = []
    for leaf in tree_leaves(dict(found) if isinstance(found, Mapping) else found):
        held += [leaf] if isinstance(leaf, Tensor) else tree_leaves(getattr(leaf, "__dict__", {}))
    return [leaf for leaf in held if isinstance(leaf, Tensor) and leaf.is_floating_point()]
