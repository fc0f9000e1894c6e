"""Ramify: any PyTorch network, grown and pruned to the shape that its data asks for."""

from ramify import cost
from ramify.edit import Prune, Split, apply
from ramify.errors import RamifyError
from ramify.methods import Proposal, SplittingDescent, splitting_matrix
from ramify.select import Threshold, TopFraction
from ramify.trace import ChannelGraph, ChannelGroup, trace

__all__ = ["ChannelGraph", "ChannelGroup", "Proposal", "Prune", "RamifyError", "Split", "SplittingDescent", "Threshold", "TopFraction", "apply", "cost", "splitting_matrix", "trace"]
