"""Cells of the NATS-Bench topology space found by every searcher: Table 3.3 of the RARTS thesis."""
