"""Cells of the DARTS space, searched, derived and trained from scratch, at CPU size."""
