"""Grouped products, which only accept widths that are whole blocks of memory.

`grouped_mm` multiplies rows sorted by expert with the weights of all experts, and refuses weights
and rows whose strides are not multiples of 16 bytes. Models of `transformers` have a setting for
how experts are computed. If an edit leaves another width, that setting is changed to compute one
expert after the other, which accepts any width. Without such a setting, the widths are frozen.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from ramify.errors import module_in_words
from ramify.tracing.dims import Atom, atoms_of, freeze
from ramify.tracing.flow import DimFlow

SETTING = "_experts_implementation_internal"
"""The entry of a `transformers` configuration for how experts are computed."""

BLOCK = 16
"""Every stride must be a multiple of this number of bytes."""

ANY_WIDTH = "eager"
"""The setting that accepts any width."""


def has_setting(module: nn.Module) -> bool:
    """Whether a module uses a grouped product for its experts because of a setting."""
    return vars(getattr(module, "config", object)).get(SETTING) == "grouped_mm"


def freeze_blocks(model: nn.Module, flow: DimFlow) -> None:
    """Freeze the widths of grouped products that no setting can replace."""
    for path, terms in flow.in_blocks:
        if not has_setting(model.get_submodule(path)):
            reason = f"a grouped product in {module_in_words(path)} takes widths in multiples of"
            for term in terms:
                freeze(term, f"{reason} {BLOCK} bytes")


def atoms_in_blocks(flow: DimFlow) -> set[Atom]:
    """The axes that are a width of a grouped product, or part of one."""
    return atoms_of(term for _, terms in flow.in_blocks for term in terms)


def holder_of(module: nn.Module, attribute: str) -> Any:
    """The owner of an attribute that edits update: its module, or the configuration."""
    return module.config if attribute == SETTING else module


def settings(module: nn.Module, sizes: list[int]) -> Iterator[tuple[Any, str, object, object]]:
    """(configuration, attribute, old, new) if these widths are not whole blocks of memory."""
    weight = next(module.parameters())
    if has_setting(module) and any(size * weight.element_size() % BLOCK for size in sizes):
        yield module.config, SETTING, "grouped_mm", ANY_WIDTH


def settle(model: nn.Module) -> None:
    """Choose the computation of experts that accepts their widths, as an edit would.

    Args:
        model: a model of any shape; its configuration may change.
    """
    for module in model.modules():
        stacked = [p for p in module.parameters(recurse=False) if p.dim() == 3]
        if stacked and has_setting(module):
            widths = [size for parameter in stacked for size in parameter.shape[1:]]
            for config, attribute, _, new in settings(module, widths):
                setattr(config, attribute, new)
