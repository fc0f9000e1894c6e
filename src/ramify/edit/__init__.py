"""Edits: every change of width is one re-indexing, applied completely or not at all.

The modules, in the order in which data flows:

    plan    checks `Prune` and `Split` against the graph and computes a change for each axis:
            which old channel each new one copies, and the factors for the weights that read it
    carry   stages the change of tensors, gradients, attributes and followers (the arithmetic
            is in tracing.indexing)
    optimizers  stages the change of optimizer state; state_laws defines how each kind of entry
            changes, and state_trial identifies the kind of an unknown entry
    block_edits  checks `Drop` and `Insert`; depth applies them: it reorders module lists (lists)
            or replaces a block by a pass-through module (skip), compares the result with a run
            that bypasses the blocks (bypass), and updates optimizers and state dictionaries
            (depth_state)
    cached_weights  renews what modules cache or compute from their weights
    apply   `ramify.apply`: applies the plan, traces the model again, checks that nothing else
            changed, and otherwise rolls everything back
    vocabulary  `ramify.keep_tokens`: cuts the rows of the embedding and head to some tokens
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
