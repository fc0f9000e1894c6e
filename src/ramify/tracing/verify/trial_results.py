"""The results of trial growths by axis, which the graph after an edit reuses."""

from __future__ import annotations

from dataclasses import dataclass, field

from ramify.tracing.contraction import AxisKey, ProductKey
from ramify.tracing.dims import forbid_split, freeze, mark_inexact
from ramify.tracing.flow import DimFlow
from ramify.tracing.indexing import Powers


@dataclass
class TrialResults:
    """The results for every axis of a model, by its key.

    Attributes:
        frozen: axes that no edit may change, with the reason.
        unsplit: axes whose channels must not be copied, with the reason.
        inexact: axes where removing a channel does not equal setting it to zero, with the reason.
        tied: the sliced dimensions that became equal slices.
        powers: product of activations -> the axes that its scale depends on, with the powers.
        same_in_training: whether the forward runs the same operations in train and eval mode.
    """

    frozen: dict[AxisKey, str] = field(default_factory=dict)
    unsplit: dict[AxisKey, str] = field(default_factory=dict)
    inexact: dict[AxisKey, str] = field(default_factory=dict)
    tied: set[int] = field(default_factory=set)
    powers: dict[ProductKey, dict[AxisKey, float]] = field(default_factory=dict)
    same_in_training: bool = False

    def note(self, flow: DimFlow) -> None:
        """Record the current results of every axis."""
        for atom, key in flow.axis_keys().items():
            for known, reason in (
                (self.frozen, atom.frozen),
                (self.unsplit, atom.no_split),
                (self.inexact, atom.inexact),
            ):
                if reason:
                    known[key] = reason

    def restrict(self, flow: DimFlow) -> None:
        """Apply the results to the dimensions of another trace of the same forward."""
        flow.tie_slices(sorted(self.tied))
        for atom, key in flow.axis_keys().items():
            for known, forbid in (
                (self.frozen, freeze),
                (self.unsplit, forbid_split),
                (self.inexact, mark_inexact),
            ):
                if key in known:
                    forbid(atom, known[key])

    def powers_of(self, flow: DimFlow) -> dict[ProductKey, Powers]:
        """The widths that the scale of each product of activations depends on, with the powers."""
        atoms = {key: atom for atom, key in flow.axis_keys().items()}
        return {
            product: tuple((atoms[key], power) for key, power in known.items() if key in atoms)
            for product, known in self.powers.items()
        }
