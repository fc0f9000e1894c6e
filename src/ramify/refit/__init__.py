"""Refit: after channels go, what stays takes over."""

from ramify.refit.reference import Reference
from ramify.refit.sequential import Refitted, refit_readers

__all__ = ["Reference", "Refitted", "refit_readers"]
