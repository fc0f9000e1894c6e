"""Proof that the groups are right: they are grown for a trial, and the two runs are compared."""
