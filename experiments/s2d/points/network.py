"""DGCNN for small clouds: ``--model experiments.s2d.points.network:build``."""

from __future__ import annotations

from experiments.s2d.points import dgcnn

NEIGHBOURS = 10  # of 128 points; the usual 20 are of 1,024


def build(in_channels: int, classes: int, width: int | None = None) -> dgcnn.DGCNN:
    """DGCNN with 10 neighbours."""
    return dgcnn.build(in_channels, classes, width, NEIGHBOURS)
