"""The RARTS thesis: relaxed search of widths and cells."""
