"""Tracing: finds the channel groups of any model that runs.

The modules, in the order in which data flows:

    recorder    runs the model and records every operation and module call (module_calls) on a
                tape; sizes records the attributes from which its Python took sizes
    dims        the algebra of dimensions, and the unification that makes two of them equal
    rules/      how dimensions flow through each operation: functions of a traced_op; registry
                holds the table and `ramify.rule`
    propagate   follows the dimensions through a tape, by the rules, into a flow; contraction
                records every sum over channels
    branches    freezes what may be behind a data-dependent branch that no run took
    attention/  products of two activations: producing (the rows that make a factor), factors
                (those that can take a scale), scales (where the forward scales by the width)
    roles       the producers, carriers and readers of each axis; attributes that hold its size
    indexing    the positions of each channel in every tensor, and how an edit changes them
    verify/     runs the model at another input size (other_size); grows every group once
                and compares the runs (trial_growth, comparison); tests
                users' rules (rule_check)
    blocks      modules that map a stream to the same stream; branch_ends, the parameters that
                make their branches zero; operation_cost, their cost
    groups      the graph that a user sees
    tracer      `ramify.trace`, which calls all of these
"""

from ramify.tracing.dims import Atom
from ramify.tracing.groups import ChannelGraph, ChannelGroup
from ramify.tracing.rules.registry import rule
from ramify.tracing.traced_op import TracedOp
from ramify.tracing.tracer import GATES, check_ungated, check_whole, check_writable, trace

__all__ = [
    "GATES",
    "Atom",
    "ChannelGraph",
    "ChannelGroup",
    "TracedOp",
    "check_ungated",
    "check_whole",
    "check_writable",
    "rule",
    "trace",
]
