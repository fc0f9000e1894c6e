"""Numerical checks of the papers' theorems; see README.md."""
