"""Relaxed search: gates and other architecture parameters, learned together with the weights.

Every searcher minimises terms of one Lagrangian (RARTS thesis, (2.11)):
`L(u, w, α) = L_p(u, α) + λ L_a(w, α) + β/2 ‖u − w‖² + γ P(α)`.

How the files fit together:

- `searcher` has the base class of all searchers; `rarts` and `darts` (DARTS, MiLeNAS, joint
  training) are the searchers, and `registry` finds one by its name;
- `partition` separates weights from architecture parameters, `substitute` runs a model with other
  tensors instead of its own, and `pairs` gives batches of both halves of the data;
- `penalties` has penalties P(α), and `proximal` has proximal maps in closed form;
- `gates` puts gates on channels and folds them into the weights, `gated` is a weight with gates,
  and `gate_scale` ranks channels by them;
- `variable_splitting` makes weights sparse by a second copy, and `distillation` trains with a
  teacher.
"""

from ramify.relax.darts import DARTS, Joint, MiLeNAS
from ramify.relax.distillation import distilled
from ramify.relax.gate_scale import GateScale
from ramify.relax.gates import Gates, fold, gate, remaining
from ramify.relax.pairs import Pairs, check_halves, halves
from ramify.relax.penalties import L1, ExpectedCost, GroupL1, channel_costs, norm_costs
from ramify.relax.proximal import by_group, prox_group_l1, prox_l0, prox_l1, prox_tl1
from ramify.relax.rarts import RARTS
from ramify.relax.searcher import Searcher, Step
from ramify.relax.variable_splitting import RelaxedSplitting

__all__ = [
    "DARTS",
    "L1",
    "RARTS",
    "ExpectedCost",
    "GateScale",
    "Gates",
    "GroupL1",
    "Joint",
    "MiLeNAS",
    "Pairs",
    "RelaxedSplitting",
    "Searcher",
    "Step",
    "by_group",
    "channel_costs",
    "check_halves",
    "distilled",
    "fold",
    "gate",
    "halves",
    "norm_costs",
    "prox_group_l1",
    "prox_l0",
    "prox_l1",
    "prox_tl1",
    "remaining",
]
