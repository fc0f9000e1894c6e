"""Cells: small graphs of operations, searched by mixing logits and stacked to networks."""

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
