"""Growth methods: each proposes edits with the decrease of the loss that it expects."""

from ramify.methods.proposal import Method, Proposal
from ramify.methods.splitting import SplittingDescent, splitting_matrix

__all__ = ["Method", "Proposal", "SplittingDescent", "splitting_matrix"]
