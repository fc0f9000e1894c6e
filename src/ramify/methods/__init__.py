"""Methods: each proposes edits with an expected decrease of the loss, or with a score.

How the files fit together:

- `proposal` has `Proposal`, which every method returns, and the contract, `Method`;
- `splitting` (S2D, S3D), `gauss_newton` and `gradmax` are the methods of the papers on growing, and
  `auto` combines the first and the last of them;
- `baselines` (random), `measured` (by the true loss) and `boosting` are the baselines, and `scores`
  ranks prunes;
- `trial` measures the true effect of an edit on the loss;
- `draws` is shared by the random methods, `aliases` keeps old names of settings working, and
  `registry` finds a method by name.
"""

from ramify.methods.auto import Auto
from ramify.methods.baselines import Net2Net, NewNeuron, RandomSplit
from ramify.methods.boosting import Boosting
from ramify.methods.bottlenecks import Bottlenecks
from ramify.methods.gauss_newton import GaussNewton
from ramify.methods.gradmax import GradMax
from ramify.methods.measured import Expansion, LineSearch
from ramify.methods.proposal import Method, Proposal, agree
from ramify.methods.scores import L1, BNScale, Taylor
from ramify.methods.splitting import SplittingDescent, splitting_matrix
from ramify.methods.trial import Trial

__all__ = [
    "L1",
    "Auto",
    "BNScale",
    "Boosting",
    "Bottlenecks",
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
