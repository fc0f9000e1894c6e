"""Gives the tensors and attributes of a model the sizes that an edit changes, for one block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ramify.tracing.attention.multihead import conversion, is_stock, nesting
from ramify.tracing.dims import Atom, Term
from ramify.tracing.grouped import SETTING, settings
from ramify.tracing.indexing import (
    Attributes,
    Changes,
    Indexing,
    Scaling,
    new_size,
    reindex,
    sources,
    touches,
)
from ramify.tracing.kept_state import giving_back
from ramify.tracing.modes import set_attribute
from ramify.tracing.on_use import OnUse
from ramify.tracing.walk import modules_of, tensors_of


def set_data(tensor: Tensor, value: Tensor) -> None:
    """Set new data of any shape on a parameter or buffer; the object stays the same.

    A gradient accumulator that an old graph keeps alive stores the old shape. Torch only drops it
    on a change of dtype, so the parameter temporarily gets an empty tensor of another dtype.
    """
    if tensor.requires_grad and tensor.shape != value.shape:
        other = torch.float16 if tensor.dtype != torch.float16 else torch.float32
        tensor.data = torch.empty(0, dtype=other, device=tensor.device)
    tensor.data = value


def attribute_values(
    model: nn.Module, attributes: Attributes, changes: Changes
) -> list[tuple[Any, str, object, object]]:
    """(module or configuration, attribute, old, new) for all attributes that the changes affect."""
    out: list[tuple[Any, str, object, object]] = []
    modules = modules_of(model)
    for path, name, terms in attributes:
        if any(touches(term, changes) for term in terms):
            module = modules[path] if path in modules else model.get_submodule(path)
            if name == "__class__":  # torch's own attention becomes the resizable one
                if is_stock(module):
                    out += [(module, *each) for each in conversion(module)]
                    out += [(m, "use_nested_tensor", True, False) for m in nesting(model, path)]
                continue
            sizes = [new_size(term, changes) for term in terms]
            if name == SETTING:  # grouped products are replaced if the width needs it
                out += settings(module, sizes)
                continue
            old = getattr(module, name)
            several = isinstance(old, (tuple, list))
            out.append((module, name, old, type(old)(sizes) if several else sizes[0]))
    return out


def _stays(terms: Sequence[Term], changes: Changes, scaled: Sequence[Scaling]) -> bool:
    """Whether changes leave a tensor unchanged."""
    if any(new_size(term, changes) != term.size for term in terms):
        return False
    return all(
        np.array_equal(sources(term, changes), np.arange(term.size))
        and bool((scale(term, changes) == 1.0).all())
        for term, scale in zip(terms, scaled, strict=True)
    )


@contextmanager
def resized(
    model: nn.Module,
    indexing: Indexing,
    changes: Changes,
    dead: frozenset[Atom] = frozenset(),
    on_use: OnUse | None = None,
) -> Iterator[None]:
    """Apply changes to the model inside the `with` block.

    Args:
        model: the model.
        indexing: the indexing of the unchanged model.
        changes: the change of each axis.
        dead: axes whose scale multiplies every tensor that holds them.
        on_use: creates large parameters when an operation uses them; without it, all are created
            at once.

    Yields:
        Nothing; the model is restored afterwards.
    """
    undo: list[tuple[Tensor, Tensor]] = []
    values = attribute_values(model, indexing.attributes, changes)
    tensors = tensors_of(model)
    sizes = [("a size", partial(set_attribute, each, name, old)) for each, name, old, _ in values]
    with giving_back(lambda: [*(("a tensor", partial(set_data, *each)) for each in undo), *sizes]):
        for name in indexing.touched(changes):
            tensor, scaled = tensors[name], indexing.value_scales(name, dead)
            terms, old = indexing.dims[name], tensor.data
            if _stays(terms, changes, scaled):
                continue
            make = partial(reindex, old, terms, changes, scaled)
            undo.append((tensor, old))
            if on_use is not None and isinstance(tensor, nn.Parameter):
                set_data(tensor, on_use.put_off(old, [new_size(t, changes) for t in terms], make))
            else:
                set_data(tensor, make())
        for module, name, _, new in values:
            set_attribute(module, name, new)
        yield
