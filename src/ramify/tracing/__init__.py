"""Tracing: any model that runs becomes channel groups.

In the order in which data flows:

    recorder    runs the model and writes every operation and call of a module (module_calls) on a
                tape; sizes notes which attributes its Python took sizes from
    dims        what a dimension is, and what makes two of them equal
    rules/      how dimensions flow through each operation: functions of a traced_op; registry
                holds the table and `ramify.rule`
    propagate   follows the dimensions through a tape, by the rules, into a flow; contraction is
                what it notes of every sum over channels
    branches    what may lie behind a branch on data that no run took
    attention/  products of two activations: producing (the rows that make a factor), factors
                (those that can take a scale), scales (where the forward scales by the width)
    roles       who makes, carries and reads each axis; attributes, which integers hold its size
    indexing    where each channel lies in every tensor, and how an edit moves it
    verify/     runs the model at another size of its input (other_size); grows every group once
                and compares the runs (trial_growth, comparison); puts
                users' rules to the proof (rule_check)
    blocks      modules that map a stream to the same stream; branch_ends, what makes their
                branches zero; operation_cost, what they cost
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
