"""Checks for user-defined methods and dimension rules."""

from ramify.testing.method_check import check_method
from ramify.tracing.check_rule import check_rule

__all__ = ["check_method", "check_rule"]
