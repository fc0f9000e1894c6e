"""Estimated and true changes of the loss by single morphisms (Figures 3 and 4)."""
