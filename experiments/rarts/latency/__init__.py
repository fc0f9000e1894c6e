"""Cells of the DARTS space under an expected-latency penalty of growing weight."""
