"""Growth methods: each proposes edits with the decrease of the loss that it expects."""

from ramify.methods.gauss_newton import GaussNewton
from ramify.methods.proposal import Method, Proposal
from ramify.methods.splitting import SplittingDescent, splitting_matrix

__all__ = ["GaussNewton", "Method", "Proposal", "SplittingDescent", "splitting_matrix"]
