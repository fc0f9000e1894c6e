"""What trial growths found, kept by axis, so that the graph after an edit keeps to it."""

from __future__ import annotations

from dataclasses import dataclass, field

from ramify.tracing.contraction import AxisKey, ProductKey
from ramify.tracing.dims import forbid_split, freeze, mark_inexact
from ramify.tracing.flow import DimFlow
from ramify.tracing.indexing import Powers


@dataclass
class TrialResults:
    """What is known of every axis of a model, by its key.

    Attributes:
        frozen: axes that nothing may change, and why.
        unsplit: axes whose channels must not be copied, and why.
        inexact: axes where removing a channel is not setting it to zero, and why.
        tied: which of the dimensions that the forward slices became equal slices.
        powers: product of activations -> the axes that its scale depends on, and by what power.
        same_in_training: whether the forward in train mode does what it does in eval mode.
    """

    frozen: dict[AxisKey, str] = field(default_factory=dict)
    unsplit: dict[AxisKey, str] = field(default_factory=dict)
    inexact: dict[AxisKey, str] = field(default_factory=dict)
    tied: set[int] = field(default_factory=set)
    powers: dict[ProductKey, dict[AxisKey, float]] = field(default_factory=dict)
    same_in_training: bool = False

    def note(self, flow: DimFlow) -> None:
        """Note what is known of every axis now."""
        for atom, key in flow.axis_keys().items():
            for known, reason in (
                (self.frozen, atom.frozen),
                (self.unsplit, atom.no_split),
                (self.inexact, atom.inexact),
            ):
                if reason:
                    known[key] = reason

    def restrict(self, flow: DimFlow) -> None:
        """Apply what was found to the dimensions of another trace of the same forward."""
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
        """What the scale of each product of activations depends on."""
        atoms = {key: atom for atom, key in flow.axis_keys().items()}
        return {
            product: tuple((atoms[key], power) for key, power in known.items() if key in atoms)
            for product, known in self.powers.items()
        }
