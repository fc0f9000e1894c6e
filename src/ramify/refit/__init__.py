"""Refit: adjust the remaining weights to replace channels that are removed."""

from ramify.refit.block_takeover import take_over
from ramify.refit.by_block import BlockRow, BlockSensitivity, block_sensitivity
from ramify.refit.by_group import Sensitivity, SensitivityRow, sensitivity
from ramify.refit.by_insert import InsertGain, insert_gains
from ramify.refit.cutting import CutReport, cut
from ramify.refit.reference import Reference
from ramify.refit.sequential import Refitted, refit_readers
from ramify.refit.takeover import Takeover

__all__ = [
    "BlockRow",
    "BlockSensitivity",
    "CutReport",
    "InsertGain",
    "Reference",
    "Refitted",
    "Sensitivity",
    "SensitivityRow",
    "Takeover",
    "block_sensitivity",
    "cut",
    "insert_gains",
    "refit_readers",
    "sensitivity",
    "take_over",
]
