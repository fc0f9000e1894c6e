"""Ramify: any PyTorch network, grown and pruned to the shape that its data asks for."""

from ramify import cost
from ramify.edit import Prune, Split, apply
from ramify.errors import RamifyError
from ramify.methods import GaussNewton, Proposal, SplittingDescent, splitting_matrix
from ramify.run import Grown, Training, grow, load, reshape, save
from ramify.select import Threshold, TopFraction
from ramify.trace import ChannelGraph, ChannelGroup, trace

__all__ = [  # noqa: RUF022  (grouped by what a user does)
    # what a network is made of
    "trace",
    "ChannelGraph",
    "ChannelGroup",
    "cost",
    # edits
    "apply",
    "Prune",
    "Split",
    # growing: a method proposes, a rule selects
    "SplittingDescent",
    "GaussNewton",
    "Proposal",
    "splitting_matrix",
    "Threshold",
    "TopFraction",
    # the whole loop
    "grow",
    "Grown",
    "Training",
    # files
    "load",
    "reshape",
    "save",
    # what goes wrong
    "RamifyError",
]
