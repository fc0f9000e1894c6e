"""Layers that several of the networks share."""

from __future__ import annotations

from torch import nn


def conv_norm_relu(
    in_channels: int,
    out_channels: int,
    kernel: int = 3,
    stride: int = 1,
    groups: int = 1,
    most: float | None = None,
) -> nn.Sequential:
    """Convolution without bias, batch norm, ReLU (up to ``most``); stride 1 keeps the size."""
    return nn.Sequential(
        nn.Conv2d(
            in_channels,
            out_channels,
            kernel,
            stride=stride,
            padding=kernel // 2,
            groups=groups,
            bias=False,
        ),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True) if most is None else nn.Hardtanh(0.0, most, inplace=True),
    )
