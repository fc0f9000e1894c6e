"""Theorems of the papers, each held against numbers; see README.md."""
