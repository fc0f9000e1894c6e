"""Edits: every change of width is one re-indexing, applied as a whole or not at all."""

from ramify.edit.carry import Follower
from ramify.edit.plan import Edit, Plan, Prune, Split, plan_edits

__all__ = ["Edit", "Follower", "Plan", "Prune", "Split", "plan_edits"]
