"""Extreme eigenpairs: error against passes, compared with the published scheme."""
