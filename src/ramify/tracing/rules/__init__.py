"""One rule per ATen operation: how dimensions flow through it, and which ones become equal.

`registry` holds the table and `ramify.rule`; each other file registers the rules of one kind of
operation. A rule is a function of one `TracedOp`.
"""

from ramify.tracing.rules import contractions, lookups, moves, norms, pointwise, reductions, spatial

__all__ = ["contractions", "lookups", "moves", "norms", "pointwise", "reductions", "spatial"]
