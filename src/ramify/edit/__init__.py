"""Edits: every change of width is one re-indexing, applied as a whole or not at all.

In the order in which data flows:

    plan    checks `Prune` and `Split` against the graph, and works out a change for each axis:
            which old channel each new one copies, and what its readers are multiplied by
    carry   stages what the change does to tensors, gradients, attributes and followers (the
            arithmetic is in tracing.indexing)
    optimizers  stages what it does to optimizer state, by state_laws (how each kind of entry
            follows) and state_trial (of which kind an unknown entry is)
    block_edits  checks `Drop` and `Insert`; depth carries them out: lists of modules in another
            order (lists) or what hands on a stream in their place (skip), compared with blocks
            passed over (bypass), and what optimizers and state dictionaries keep (depth_state)
    apply   `ramify.apply`: carries it out, traces the model again, checks that nothing else
            changed, and otherwise takes all of it back
    vocabulary  `ramify.keep_tokens`: cuts the rows of embedding and head to some tokens
"""

from ramify.edit.block_edits import BlockEdit, Drop, Insert
from ramify.edit.carry import Follower
from ramify.edit.plan import Edit, Plan, Prune, Split, plan_edits

__all__ = [
    "BlockEdit",
    "Drop",
    "Edit",
    "Follower",
    "Insert",
    "Plan",
    "Prune",
    "Split",
    "plan_edits",
]
