"""Methods: each proposes edits with the decrease of the loss that it expects, or with a score.

How the files fit together:

- `proposal` has what every method returns, `Proposal`, and the contract, `Method`;
- `splitting` (S2D, S3D), `gauss_newton` and `gradmax` are the methods of the papers on growing,
  and `auto` is the first and the last of them side by side;
- `baselines` and `boosting` are what these are compared with, `scores` what prunes are ranked by;
- `trial` measures what an edit really does to the loss;
- `draws` is what the random methods share, `aliases` lets old names of settings work, and
  `registry` finds a method by its name.
"""

from ramify.methods.auto import Auto
from ramify.methods.baselines import Expansion, LineSearch, Net2Net, NewNeuron, RandomSplit
from ramify.methods.boosting import Boosting
from ramify.methods.gauss_newton import GaussNewton
from ramify.methods.gradmax import GradMax
from ramify.methods.proposal import Method, Proposal, agree
from ramify.methods.scores import L1, BNScale, Taylor
from ramify.methods.splitting import SplittingDescent, splitting_matrix
from ramify.methods.trial import Trial

__all__ = [
    "L1",
    "Auto",
    "BNScale",
    "Boosting",
    "Expansion",
    "GaussNewton",
    "GradMax",
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
