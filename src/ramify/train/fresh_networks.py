"""Baselines for a grown network: the same shape from scratch, and a scaled seed network."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from ramify.cost import graph_cost
from ramify.edit import Edit, Prune, Split
from ramify.edit.apply import apply
from ramify.store.model import reshape
from ramify.store.recipe_checks import Recipe
from ramify.tracing import ChannelGraph, trace

Widths = list[int]

PRECISION = 1e-5  # of the bisected factor: one channel in a hundred thousand


def scratch(build: Callable[[], nn.Module], recipe: Recipe) -> nn.Module:
    """A network with the shape of a grown one and newly initialised weights.

    Every module initialises its weights with its own ``reset_parameters``, the outermost last, so
    that a model may define one. A parameter of a module without that method keeps the value that
    ``build`` gave it or, if its shape changed, draws its entries at random from those values.

    Args:
        build: Builds the seed network.
        recipe: The shape recipe of the grown network.

    Returns:
        The network.
    """
    model = build()
    drawn = _values(model)
    return _fresh(reshape(model, recipe), drawn)


def wide(build: Callable[[], nn.Module], inputs: Any, params: int) -> nn.Module:
    """The seed network, widened or narrowed by one common factor, with newly initialised weights.

    The factor is found by bisection. Since widths are integers, a difference remains; groups then
    get one more channel each, from the first on, as long as that reduces the difference.

    Args:
        build: Builds the seed network.
        inputs: One example of its inputs.
        params: The target number of parameters.

    Returns:
        The network.
    """
    model = build()
    drawn = _values(model)
    graph = trace(model, inputs)
    names = [group.name for group in graph.groups if group.can_split]
    resize(graph, dict(zip(names, nearest_widths(graph, params), strict=True)))
    return _fresh(model, drawn)


def resize(graph: ChannelGraph, widths: Mapping[str, int]) -> ChannelGraph:
    """Resize groups, by splits without displacement and prunes of the last channels.

    Args:
        graph: The graph of the network, which is edited.
        widths: The new width by group.

    Returns:
        The graph of the edited network.
    """
    return apply(graph, _resizing(graph, widths))


def nearest_widths(graph: ChannelGraph, params: int) -> Widths:
    """The uniformly scaled widths whose parameters come nearest to ``params``.

    Args:
        graph: The graph of the seed network.
        params: The target number of parameters.

    Returns:
        The new width of each group that can be split, in the graph's order.
    """
    groups = [group for group in graph.groups if group.can_split]
    names = [group.name for group in groups]
    least = [group.narrowest for group in groups]

    def widths(factor: float) -> Widths:
        scaled = [round(group.width * factor) for group in groups]
        return [max(bound, width) for bound, width in zip(least, scaled, strict=True)]

    def cost(new: Widths) -> int:
        return graph_cost(graph, _resizing(graph, dict(zip(names, new, strict=True)))).params

    low, high = (1.0, 2.0) if cost(widths(1.0)) <= params else (0.0, 1.0)
    while groups and cost(widths(high)) < params:
        low, high = high, 2 * high
    while widths(low) != widths(high) and high - low > PRECISION:
        middle = (low + high) / 2
        low, high = (middle, high) if cost(widths(middle)) <= params else (low, middle)
    small, large = widths(low), widths(high)
    between = [large[:count] + small[count:] for count in range(len(groups) + 1)]
    return min(between, key=lambda new: abs(cost(new) - params))


def _resizing(graph: ChannelGraph, widths: Mapping[str, int]) -> list[Edit]:
    """The splits without displacement, or prunes, that give groups their new widths."""
    edits: list[Edit] = []
    for group, new in ((graph[name], new) for name, new in widths.items()):
        edits += [Prune(group.name, channel) for channel in range(new, group.width)]
        for channel in range(group.width):
            copies = new // group.width + (channel < new % group.width)
            if copies > 1:
                edits.append(Split(group.name, channel, weights=(1 / copies,) * copies))
    return edits


def _values(model: nn.Module) -> dict[nn.Parameter, torch.Tensor]:
    """A copy of the value of each parameter."""
    return {parameter: parameter.detach().clone() for parameter in model.parameters()}


def _fresh(model: nn.Module, drawn: dict[nn.Parameter, torch.Tensor]) -> nn.Module:
    """``model`` with new weights; ``drawn`` are the values its builder gave each parameter."""
    for parameter in model.parameters():
        if parameter not in drawn:  # of an inserted block, which holds the values of its original
            continue
        first = drawn[parameter]
        entries = torch.randint(first.numel(), parameter.shape, device=first.device)
        same = parameter.shape == first.shape
        parameter.data.copy_(first if same else first.flatten()[entries])
    for module in reversed(list(model.modules())):
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
    return model
