"""Networks by name, as plain modules with plain forward functions."""

from ramify.models.registry import NAMES, build

__all__ = ["NAMES", "build"]
