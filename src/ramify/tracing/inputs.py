"""Readable errors for inputs on which a model does not run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ramify.errors import RamifyError, in_one_line
from ramify.tracing.recorder import call, evaluating
from ramify.tracing.untouched import untouched

OF_INPUTS = (
    TypeError,
    ValueError,
    RuntimeError,
    LookupError,
    AttributeError,
    AssertionError,
    ArithmeticError,
)
"""The errors that a forward raises on unsuitable inputs; a lack of memory is not among them."""


def runnable(model: nn.Module, inputs: Any) -> Any:
    """The inputs in a form on which the model runs.

    Args:
        model: a model that did not run in a trace.
        inputs: the inputs of the trace.

    Returns:
        The same inputs if the model runs on them; a list is passed as a single argument.

    Raises:
        RamifyError: the model does not run on them either way.
    """
    failed = _failure(model, inputs)
    if failed is None:
        return inputs
    if isinstance(inputs, list) and _failure(model, (inputs,)) is None:
        return (inputs,)
    raise RamifyError(
        f"the model does not run on these inputs ({in_one_line(failed)})"
        f"{_reason(model, inputs)}: give what its forward "
        "takes, a tensor for model(x), a tuple for model(*inputs), a dictionary for "
        "model(**inputs), or ([...],) for one argument that is a list"
    ) from failed


def check_values(*inputs: Any) -> None:
    """Check that inputs have values, on which a trace can prove its groups.

    Raises:
        RamifyError: all tensors of one of them are empty, as of a batch without samples.
    """
    for each in inputs:
        given = [leaf for leaf in tree_leaves(each) if isinstance(leaf, Tensor)]
        if given and not any(leaf.numel() for leaf in given):
            raise RamifyError(
                f"the inputs have no values (shape {tuple(given[0].shape)}), and groups are proven "
                "on values: give at least one sample"
            )


def _failure(model: nn.Module, inputs: Any) -> Exception | None:
    try:
        with torch.no_grad(), untouched(model), evaluating(model):
            call(model, inputs)
    except Exception as error:
        return error
    return None


def _reason(model: nn.Module, inputs: Any) -> str:
    """A difference between inputs and weights that is a likely cause."""
    weights = [p for p in model.parameters() if p.is_floating_point()]
    given = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
    if not given:
        return f"; there is no tensor among them, which are a {type(inputs).__name__}"
    devices = {p.device for p in weights} - {x.device for x in given}
    if weights and devices:
        return f"; the weights are on {devices.pop()}, and the inputs on {given[0].device}"
    kinds = {x.dtype for x in given if x.is_floating_point()} - {p.dtype for p in weights}
    if weights and kinds:
        return f"; the weights are of {weights[0].dtype}, and the inputs of {kinds.pop()}"
    empty = next((name for name, p in model.named_parameters() if not p.numel()), None)
    return f"; its parameter '{empty}' has no values, as of a layer without channels" * bool(empty)
