"""Measures the power of the width with which the scale of products of activations varies."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ramify.tracing.attention.scales import products_on, rescaled, scaled_product
from ramify.tracing.contraction import ProductKey
from ramify.tracing.decisions import Decisions
from ramify.tracing.dims import Atom, atoms_of
from ramify.tracing.flow import DimFlow
from ramify.tracing.indexing import Changes, Indexing, new_size
from ramify.tracing.on_use import OnUse
from ramify.tracing.recorder import call, record
from ramify.tracing.resizing import resized
from ramify.tracing.shapes_only import ShapesOnly
from ramify.tracing.verify.comparison import ReferenceRun

ScalePowers = dict[tuple[ProductKey, Atom], float]
"""(product, axis) -> the power of the axis' width that the product's scale is proportional to."""


def measure_powers(
    model: nn.Module,
    flow: DimFlow,
    indexing: Indexing,
    runs: Sequence[tuple[tuple[Any, bool], ReferenceRun]],
    changes: Changes,
) -> tuple[ScalePowers, dict[int, set[int]]] | None:
    """Measure how the scale of products changes with one growth of some axes.

    Args:
        model: the traced model.
        flow: its dimensions.
        indexing: the indexing of the model.
        runs: ((inputs, whether in train mode), the reference run).
        changes: the growth of some axes.

    Returns:
        (powers, run -> operations whose values change between the rows and the scale); None if
        the rows of a product cannot take the scale.
    """
    atoms = list(changes)
    dead = frozenset(atom for atom in atoms if atom.no_split)
    found: ScalePowers = {}
    passed: dict[int, set[int]] = {}
    for number, ((inputs, training), reference) in enumerate(runs):
        products = products_on(flow, reference.tape)
        later = OnUse(model)
        with resized(model, indexing, changes, dead, later), sdpa_kernel(SDPBackend.MATH):
            try:
                run = functools.partial(call, model, inputs)
                decided = Decisions(reference.decisions)
                grown = functools.partial(record, model, inputs=inputs, training=training)
                try:  # the scales of the forward do not depend on products
                    shapes = ShapesOnly(model, later.waiting())
                    tape = grown(decided.of(run), execute=shapes)
                except Exception:
                    tape = grown(Decisions(reference.decisions).of(run), execute=later)
            except Exception:
                return None
        for position, ratio in rescaled(reference, tape, changes):
            off, scaled = scaled_product(reference.tape, position, products)
            if scaled is None or ratio <= 0:
                return None
            # The width that determines the scale: one that the product sums over, or the only one.
            summed = atoms_of(scaled.read.read)
            driver = next((a for a in atoms if a in summed or len(atoms) == 1), None)
            if driver is None:
                return None
            power = math.log(ratio) / math.log(new_size(driver, changes) / driver.size)
            at = scaled.key, driver
            found[at] = round(found.get(at, 0.0) + power, 6)
            passed.setdefault(number, set()).update(off)
    return found, passed
