"""Cells of the DARTS space with an increasing latency penalty."""
