"""Networks that users take, as plain modules with plain forwards, by name."""

from ramify.models.registry import NAMES, build

__all__ = ["NAMES", "build"]
