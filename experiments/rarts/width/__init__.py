"""Widths found by relaxed search: Tables 4.1 and 4.2 of the RARTS thesis at CPU size."""
