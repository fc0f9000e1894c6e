"""Encodes nested containers of tensors and plain values as JSON and named tensors, and back."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ramify.errors import RamifyError

# Types that JSON lacks are encoded as a dictionary with one of these as its only key.
TENSOR, TUPLE, SIZE, ITEMS, COUNTER = "<tensor>", "<tuple>", "<size>", "<items>", "<counter>"


def encode(value: Any, key: str, tensors: dict[str, Tensor]) -> Any:
    """Encode a value as JSON; containers keep their type.

    Args:
        value: nested containers of tensors and plain values.
        key: the name of the value.
        tensors: receives its tensors, named by `key` and their path in the value.

    Returns:
        The JSON value.

    Raises:
        RamifyError: the value holds something that is neither a tensor nor plain.
    """
    if isinstance(value, Tensor):
        tensors[key] = value
        return {TENSOR: key}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    kind = type(value)
    if kind in (list, tuple, torch.Size):
        items = [encode(item, f"{key}/{i}", tensors) for i, item in enumerate(value)]
        return items if kind is list else {TUPLE if kind is tuple else SIZE: items}
    if kind is dict and all(type(name) is str and not name.startswith("<") for name in value):
        return {name: encode(item, f"{key}/{name}", tensors) for name, item in value.items()}
    if kind in (dict, Counter):  # such as the milestones of a scheduler
        items = [encode(item, f"{key}/{i}", tensors) for i, item in enumerate(value.items())]
        return {COUNTER if kind is Counter else ITEMS: items}
    raise RamifyError(
        f"{key} is a {kind.__name__}, which a checkpoint cannot hold; "
        "use an optimizer whose state is made of tensors and plain values."
    )


def decode(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of :func:`encode`."""
    if isinstance(value, list):
        return [decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if TENSOR in value:
        return tensors[value[TENSOR]]
    if TUPLE in value:
        return tuple(decode(value[TUPLE], tensors))
    if SIZE in value:
        return torch.Size(decode(value[SIZE], tensors))
    if ITEMS in value:
        return dict(decode(value[ITEMS], tensors))
    if COUNTER in value:
        return Counter(dict(decode(value[COUNTER], tensors)))
    return {name: decode(item, tensors) for name, item in value.items()}
