"""Methods: each proposes edits with the decrease of the loss that it expects, or with a score."""

from ramify.methods.baselines import Expansion, LineSearch, Net2Net, NewNeuron, RandomSplit
from ramify.methods.boosting import Boosting
from ramify.methods.gauss_newton import GaussNewton
from ramify.methods.proposal import Method, Proposal, agree
from ramify.methods.scores import L1, BNScale, Taylor
from ramify.methods.splitting import SplittingDescent, splitting_matrix
from ramify.methods.trial import Trial

__all__ = [
    "L1",
    "BNScale",
    "Boosting",
    "Expansion",
    "GaussNewton",
    "LineSearch",
    "Method",
    "Net2Net",
    "NewNeuron",
    "Proposal",
    "RandomSplit",
    "SplittingDescent",
    "Taylor",
    "Trial",
    "agree",
    "splitting_matrix",
]
