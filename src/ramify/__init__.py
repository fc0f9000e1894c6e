"""Ramify: any PyTorch network, grown and pruned to the shape that its data asks for."""

from ramify import cost
from ramify.edit import Prune, Split, apply
from ramify.errors import RamifyError
from ramify.trace import ChannelGraph, ChannelGroup, trace

__all__ = ["ChannelGraph", "ChannelGroup", "Prune", "RamifyError", "Split", "apply", "cost", "trace"]
