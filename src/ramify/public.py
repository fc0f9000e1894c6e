"""The public names, which `ramify` imports when the first of them is used."""

from ramify import cells, cost, data, latency, models, relax
from ramify.distributed import check_ranks, share_buffers, together
from ramify.edit import Drop, Edit, Insert, Prune, Split
from ramify.edit.apply import apply
from ramify.edit.state_laws import state_rule
from ramify.edit.vocabulary import keep_tokens
from ramify.errors import RamifyError
from ramify.methods import (
    L1,
    Auto,
    BNScale,
    Boosting,
    Bottlenecks,
    Expansion,
    GaussNewton,
    GradMax,
    LineSearch,
    Method,
    Net2Net,
    NewNeuron,
    Proposal,
    RandomSplit,
    SplittingDescent,
    Taylor,
    Trial,
    agree,
    splitting_matrix,
)
from ramify.probe.loss import Loss
from ramify.refit import (
    BlockSensitivity,
    InsertGain,
    Sensitivity,
    block_sensitivity,
    cut,
    insert_gains,
    sensitivity,
    take_over,
)
from ramify.relax import fold, gate
from ramify.select import Knapsack, Rule, Selection, Threshold, TopFraction, TradeOff
from ramify.select.fit import fit
from ramify.store.model import load, recipe_of, reshape, save
from ramify.tracing import ChannelGraph, ChannelGroup, rule, trace
from ramify.tracing.attention.multihead import ResizedMultiheadAttention
from ramify.tracing.blocks import Block
from ramify.train.epoch import Training
from ramify.train.grow import grow
from ramify.train.logs import TensorBoard
from ramify.train.loop import Grown
from ramify.train.search import search
from ramify.train.shrink import shrink
from ramify.train.widening import widen
from ramify.train.width_search import WidthSearch

__all__ = [  # noqa: RUF022  (grouped by what a user does)
    # the structure of a network
    "trace",
    "ChannelGraph",
    "ChannelGroup",
    "Block",
    "rule",
    "cost",
    "latency",
    # edits
    "apply",
    "Edit",
    "Prune",
    "Split",
    "Drop",
    "Insert",
    "keep_tokens",
    "ResizedMultiheadAttention",
    "state_rule",
    # methods
    "Method",
    "Loss",
    "SplittingDescent",
    "GaussNewton",
    "GradMax",
    "Auto",
    "Proposal",
    "splitting_matrix",
    # baselines
    "RandomSplit",
    "Net2Net",
    "NewNeuron",
    "Boosting",
    "Bottlenecks",
    "LineSearch",
    "Expansion",
    "L1",
    "BNScale",
    "Taylor",
    "Trial",
    # rules
    "Rule",
    "Threshold",
    "TopFraction",
    "TradeOff",
    "Knapsack",
    "Selection",
    "fit",
    # cutting to a budget
    "cut",
    "sensitivity",
    "Sensitivity",
    "block_sensitivity",
    "BlockSensitivity",
    "take_over",
    "insert_gains",
    "InsertGain",
    # widths learned by gradients
    "gate",
    "fold",
    "shrink",
    "WidthSearch",
    "widen",
    # relaxed search
    "relax",
    "search",
    # training loops
    "grow",
    "Grown",
    "Training",
    "TensorBoard",
    # cells
    "cells",
    # data sets and networks by name
    "data",
    "models",
    # several processes
    "together",
    "agree",
    "share_buffers",
    "check_ranks",
    # files
    "load",
    "recipe_of",
    "reshape",
    "save",
    # errors
    "RamifyError",
]
