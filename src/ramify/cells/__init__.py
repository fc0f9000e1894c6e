"""Cells: small graphs of operations, searched with mixing logits and stacked into networks.

How the files fit together:

- `space` describes a space of cells, and `stacking` the input and output of its stacking rule;
- `darts_space` and `nats_space` are two such spaces, built from `operations`;
- `supernet` mixes all operations, evaluating the edges that leave one state together (`mixed`),
  with fast convolutions (`depthwise`); `networks` holds the network of one architecture, and
  `skeleton` the base class of both;
- `genotype` is an architecture as data, JSON and text; `derive` and `perturb` derive one from a
  supernet;
- `operation_latency` measures what operations cost, and `nats_tables` looks up NATS-Bench.
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
