"""Cells: small graphs of operations, searched by mixing logits and stacked to networks.

How the files fit together:

- `space` describes a space of cells, and `stacking` what its stacking rule is given and returns;
- `darts_space` and `nats_space` are two such spaces, made of `operations`;
- `supernet` mixes all operations, on the edges that leave one state at once (`mixed`), with
  convolutions written for speed (`depthwise`); `networks` is the network of one architecture, and
  `skeleton` what both have in common;
- `genotype` is an architecture as data, JSON and text; `derive` and `perturb` read one off a
  supernet;
- `operation_latency` is what operations cost, and `nats_tables` what NATS-Bench measured.
"""

from ramify.cells.darts_space import DARTS, DARTS_IMAGENET, DARTS_V2
from ramify.cells.derive import inherit, one_hot
from ramify.cells.genotype import Genotype
from ramify.cells.nats_space import NATS
from ramify.cells.nats_tables import NatsTables
from ramify.cells.networks import Network
from ramify.cells.perturb import derive_by_perturbation
from ramify.cells.space import Space
from ramify.cells.stacking import CellPlan, Parts, Plan
from ramify.cells.supernet import Supernet

__all__ = [
    "DARTS",
    "DARTS_IMAGENET",
    "DARTS_V2",
    "NATS",
    "CellPlan",
    "Genotype",
    "NatsTables",
    "Network",
    "Parts",
    "Plan",
    "Space",
    "Supernet",
    "derive_by_perturbation",
    "inherit",
    "one_hot",
]
