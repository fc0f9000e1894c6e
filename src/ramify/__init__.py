"""Ramify: any PyTorch network, grown and pruned to the shape that its data asks for."""

from ramify.errors import RamifyError

__all__ = ["RamifyError"]
