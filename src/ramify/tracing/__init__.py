"""Tracing: any model that runs becomes channel groups."""

from ramify.tracing.dims import Atom
from ramify.tracing.groups import ChannelGraph, ChannelGroup
from ramify.tracing.tracer import GATES, check_ungated, trace

__all__ = ["GATES", "Atom", "ChannelGraph", "ChannelGroup", "check_ungated", "trace"]
