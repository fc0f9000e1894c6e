"""Verification of the groups: they are grown as a trial, and the two runs are compared."""
