"""Extreme eigenpairs: passes against error, beside the published scheme."""
