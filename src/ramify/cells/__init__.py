"""Cells: spaces of small graphs of operations, searched by mixing logits and stacked to networks."""
