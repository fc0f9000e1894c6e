"""Training, the growing loop, and everything that a run keeps on disk."""

from ramify.run.loop import Grown, grow
from ramify.run.store import load, reshape, save
from ramify.run.training import Training

__all__ = ["Grown", "Training", "grow", "load", "reshape", "save"]
