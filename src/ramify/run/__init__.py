"""Training, the growing loop, and everything that a run keeps on disk."""

from ramify.run.loop import Grown, grow
from ramify.run.store import load, recipe_of, reshape, save
from ramify.run.training import Training

__all__ = ["Grown", "Training", "grow", "load", "recipe_of", "reshape", "save"]
