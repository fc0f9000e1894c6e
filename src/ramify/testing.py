"""Checks for what you write yourself: a method, a rule for an operation."""

from ramify.tracing.check_rule import check_rule

__all__ = ["check_rule"]
