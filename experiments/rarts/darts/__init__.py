"""Cells of the DARTS space, searched, derived and trained out, at CPU size."""
