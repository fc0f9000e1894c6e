"""Grouped products, which take widths in whole blocks of memory only.

`grouped_mm` multiplies rows sorted by expert with the weights of all experts, and refuses weights
and rows whose strides are no multiples of 16 bytes. Models of `transformers` have a setting for how
experts are computed. Where an edit leaves another width, that setting turns to computing one expert
after the other, which takes any; where there is no such setting, the widths stay.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from ramify.errors import module_in_words
from ramify.tracing.dims import Atom, atoms_of, freeze
from ramify.tracing.flow import DimFlow

SETTING = "_experts_implementation_internal"
"""Where a configuration of `transformers` holds how experts are computed."""

BLOCK = 16
"""The bytes that every stride is a multiple of."""

ANY_WIDTH = "eager"
"""The way to compute experts that takes any width."""


def has_setting(module: nn.Module) -> bool:
    """Whether a module computes its experts by a grouped product because a setting says so."""
    return vars(getattr(module, "config", object)).get(SETTING) == "grouped_mm"


def freeze_blocks(model: nn.Module, flow: DimFlow) -> None:
    """Freeze the widths of grouped products that no setting could take the place of."""
    for path, terms in flow.in_blocks:
        if not has_setting(model.get_submodule(path)):
            reason = f"a grouped product in {module_in_words(path)} takes widths in multiples of"
            for term in terms:
                freeze(term, f"{reason} {BLOCK} bytes")


def atoms_in_blocks(flow: DimFlow) -> set[Atom]:
    """The axes that are a width of a grouped product, or part of one."""
    return atoms_of(term for _, terms in flow.in_blocks for term in terms)


def holder_of(module: nn.Module, attribute: str) -> Any:
    """What has an attribute that follows edits: its module, or the configuration for `SETTING`."""
    return module.config if attribute == SETTING else module


def settings(module: nn.Module, sizes: list[int]) -> Iterator[tuple[Any, str, object, object]]:
    """(configuration, attribute, old, new) where these widths are not whole blocks of memory."""
    weight = next(module.parameters())
    if has_setting(module) and any(size * weight.element_size() % BLOCK for size in sizes):
        yield module.config, SETTING, "grouped_mm", ANY_WIDTH


def settle(model: nn.Module) -> None:
    """Have experts computed in the way that takes their widths, as an edit to these would.

    Args:
        model: of any shape; its configuration may change.
    """
    for module in model.modules():
        stacked = [p for p in module.parameters(recurse=False) if p.dim() == 3]
        if stacked and has_setting(module):
            widths = [size for parameter in stacked for size in parameter.shape[1:]]
            for config, attribute, _, new in settings(module, widths):
                setattr(config, attribute, new)
