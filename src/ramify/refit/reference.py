"""The original network before a cut: its values, and how each current entry relates to them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from ramify.edit import Edit
from ramify.edit.plan import plan_edits
from ramify.tracing import ChannelGraph
from ramify.tracing.grouped import holder_of
from ramify.tracing.indexing import sources
from ramify.tracing.kept_state import giving_back
from ramify.tracing.recorder import tensors_of
from ramify.tracing.resizing import set_data


class Reference:
    """The original tensors of a model, and the source of each entry of the edited model.

    Args:
        graph: the graph of the model before the edits.
        copied: whether to copy parameters, as buffers are; not needed if they are replaced by
            others before any is written to.
    """

    def __init__(self, graph: ChannelGraph, *, copied: bool = True) -> None:
        self.model = graph.model
        tensors = tensors_of(graph.model)
        self.values = {
            name: tensor.detach()
            if isinstance(tensor, nn.Parameter) and not copied
            else tensor.detach().clone()
            for name, tensor in tensors.items()
        }
        self._sources = {name: [np.arange(n) for n in t.shape] for name, t in tensors.items()}
        self._factors = {name: [np.ones(n) for n in t.shape] for name, t in tensors.items()}
        owned = [
            (holder_of(graph.model.get_submodule(path), name), name)
            for path, name, _ in graph.indexing.attributes
        ]
        self._attributes = [(holder, name, getattr(holder, name)) for holder, name in owned]

    def follow(self, graph: ChannelGraph, edits: Iterable[Edit]) -> None:
        """Record edits that are about to be made.

        Args:
            graph: the graph of the model before them.
            edits: the edits.
        """
        changes = plan_edits(graph, edits).changes
        for name in graph.indexing.touched(changes):
            rules = graph.indexing.value_scales(name)
            for dim, term in enumerate(graph.dims[name]):
                where = sources(term, changes)
                self._sources[name][dim] = self._sources[name][dim][where]
                self._factors[name][dim] = self._factors[name][dim][where] * rules[dim](
                    term, changes
                )

    def entries(self, name: str) -> tuple[Tensor, Tensor]:
        """For each entry of a current tensor: its original number, and the factor applied to it."""
        number, factor = torch.zeros((), dtype=torch.int64), torch.ones((), dtype=torch.float64)
        sizes = self.values[name].shape
        pairs = zip(self._sources[name], self._factors[name], sizes, strict=True)
        for where, times, size in pairs:
            number = number[..., None] * size + torch.from_numpy(where)
            factor = factor[..., None] * torch.from_numpy(times)
        return number, factor

    @contextmanager
    def restored(self) -> Iterator[None]:
        """The original model, inside the block."""
        now = [
            (tensor, tensor.data, self.values[n]) for n, tensor in tensors_of(self.model).items()
        ]
        sizes = [(holder, name, getattr(holder, name)) for holder, name, _ in self._attributes]
        steps = [("a tensor", partial(set_data, tensor, data)) for tensor, data, _ in now]
        steps += [("a size", partial(setattr, *each)) for each in sizes]
        with giving_back(lambda: steps):
            for tensor, _, old in now:
                set_data(tensor, old)
            for holder, name, value in self._attributes:
                setattr(holder, name, value)
            yield
