"""One rule per ATen operation: how dimensions flow through it, and which become equal."""

from ramify.tracing.rules import contractions, moves, norms, pointwise, reductions, space

__all__ = ["contractions", "moves", "norms", "pointwise", "reductions", "space"]
