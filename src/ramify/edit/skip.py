"""A pass-through module, which replaces a dropped block if its list cannot be shortened."""

from __future__ import annotations

from typing import Any

from torch import nn

from ramify.edit.lists import Steps, made_of, mark
from ramify.tracing.blocks import Place


class Skip(nn.Module):
    """Returns its inputs in the form in which the block that it replaces returned its results.

    Args:
        outputs: for each result, the position or name of the argument to return; None for a result
            that the block computed and that nothing read.
        bare: whether a single result is returned directly rather than in a tuple.

    Example:
        >>> import torch
        >>> Skip((0, "bias", None), bare=False)(torch.ones(1), bias=torch.zeros(1))
        (tensor([1.]), tensor([0.]), None)
        >>> Skip((0,))(torch.ones(1), "mask")
        tensor([1.])
    """

    def __init__(self, outputs: tuple[Place, ...] = (0,), bare: bool = True) -> None:
        super().__init__()
        self.outputs, self.bare = outputs, bare

    def forward(self, *args: Any, **named: Any) -> Any:
        """The results."""
        results = tuple(
            args[place] if isinstance(place, int) else named.get(place) if place else None
            for place in self.outputs
        )
        return results[0] if self.bare else results


def is_skip(module: nn.Module) -> bool:
    """Whether a module replaces a block that was dropped."""
    return isinstance(module, Skip) or (
        isinstance(module, nn.Identity) and made_of(module) is not None
    )


def put_skip(
    steps: Steps,
    model: nn.Module,
    name: str,
    outputs: tuple[Place, ...],
    bare: bool,
    identity: bool,
) -> None:
    """Replace a module by a pass-through that has the same plain attributes.

    Args:
        steps: records the change.
        model: the model that contains the module.
        name: the name of the module.
        outputs: as in :class:`Skip`.
        bare: as in :class:`Skip`.
        identity: whether an `nn.Identity` suffices, as the stream is the only argument.
    """
    parent, _, key = name.rpartition(".")
    owner = model.get_submodule(parent)
    skip, block = nn.Identity() if identity else Skip(outputs, bare), model.get_submodule(name)
    mark(skip, 0, ())
    skip.train(block.training)
    for attribute, value in vars(block).items():  # a forward may read them from each of its layers
        if not attribute.startswith("_") and attribute not in vars(skip) and _is_plain(value):
            setattr(skip, attribute, value)
    steps.table(owner._modules, list({**owner._modules, key: skip}.items()))


def _is_plain(value: Any) -> bool:
    """Whether a value is a number, a string, None, or a list or tuple of these."""
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))
