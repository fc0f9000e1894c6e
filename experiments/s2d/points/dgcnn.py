"""DGCNN, a network for point clouds whose graph follows the features.

Shapes: S clouds, C channels, P points, N neighbours, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

EDGES = (64, 64, 128, 256)  # channels of the four EdgeConv layers
EMBEDDING = 1024
HIDDEN = (512, 256)
SLOPE = 0.2  # of the leaky ReLU
DROPOUT = 0.5
TOGETHER = 8  # points of each cloud whose distances are computed at once


def nearest(points: Tensor, metric: Tensor, neighbours: int) -> Tensor:
    r"""The nearest points of every point, including itself.

    .. math:: d_{ij} = \sum_c m_c (x_{ic} - x_{jc})^2

    Computed for a few points at a time: all S × P × P × C differences would not fit in memory.

    Args:
        points: (S, P, C).
        metric: the weight of each channel, (C,); ones give the plain distance.
        neighbours: their number, N.

    Returns:
        Indices (S, P, N), nearest first.
    """
    found = []
    for some in points.split(TOGETHER, dim=1):
        distances = (some[:, :, None] - points[:, None]).square() @ metric
        found.append(distances.topk(neighbours, largest=False).indices)
    return torch.cat(found, dim=1)


class EdgeConv(nn.Module):
    r"""A shared layer on the edges to the nearest neighbours, then the maximum over them.

    .. math:: y_i = \max_{j \in N(i)} \mathrm{lrelu}(\mathrm{bn}(W [x_j - x_i, x_i]))

    The metric of the neighbourhood is a buffer of ones that reads the channels as W does: when a
    channel splits, its copies share its weight, and the graph does not change.

    Args:
        in_channels: input channels.
        out_channels: output channels.
        neighbours: neighbours of a point, N, including itself.
    """

    metric: Tensor

    def __init__(self, in_channels: int, out_channels: int, neighbours: int) -> None:
        super().__init__()
        self.neighbours = neighbours
        self.conv = nn.Conv2d(2 * in_channels, out_channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)
        self.register_buffer("metric", torch.ones(in_channels))

    def reset_parameters(self) -> None:
        """Give every channel the same weight."""
        nn.init.ones_(self.metric)

    def forward(self, features: Tensor) -> Tensor:
        """Features (S, out_channels, P) of features (S, in_channels, P)."""
        points = features.transpose(1, 2)
        with torch.no_grad():
            found = nearest(points, self.metric, self.neighbours)
        places = found.flatten(1)[:, :, None].expand(-1, -1, points.shape[2])
        others = points.gather(1, places).unflatten(1, found.shape[1:])  # (S, P, N, C)
        own = points[:, :, None].expand_as(others)
        edges = torch.cat([others - own, own], dim=3).permute(0, 3, 1, 2)
        return functional.leaky_relu(self.norm(self.conv(edges)), SLOPE).amax(dim=3)


class DGCNN(nn.Module):
    """Four EdgeConv layers, joined into one embedding, its maximum and mean, three linear layers.

    Args:
        in_channels: coordinates of a point.
        classes: number of classes, K.
        width: channels of each EdgeConv layer; None is the usual 64, 64, 128, 256. The embedding
            and the hidden layers scale with it: 16, 8 and 4 times the width of the first layer.
        neighbours: neighbours of a point, including itself.

    Source: Y. Wang and others, "Dynamic graph CNN for learning on point clouds", 2019, the network
    for classification.
    """

    def __init__(self, in_channels: int, classes: int, width: int | None, neighbours: int) -> None:
        super().__init__()
        widths = EDGES if width is None else (width,) * len(EDGES)
        embedding, *hidden = (size * widths[0] // EDGES[0] for size in (EMBEDDING, *HIDDEN))
        layers = zip((in_channels, *widths), widths, strict=False)
        self.edges = nn.ModuleList(EdgeConv(read, made, neighbours) for read, made in layers)
        self.embedding = nn.Sequential(
            nn.Conv1d(sum(widths), embedding, 1, bias=False),
            nn.BatchNorm1d(embedding),
            nn.LeakyReLU(SLOPE),
        )
        self.head = nn.Sequential(
            *self._hidden(2 * embedding, hidden[0], bias=False),
            *self._hidden(hidden[0], hidden[1], bias=True),
            nn.Linear(hidden[1], classes),
        )

    @staticmethod
    def _hidden(read: int, made: int, bias: bool) -> tuple[nn.Module, ...]:
        linear = nn.Linear(read, made, bias=bias)
        return linear, nn.BatchNorm1d(made), nn.LeakyReLU(SLOPE), nn.Dropout(DROPOUT)

    def forward(self, clouds: Tensor) -> Tensor:
        """Logits (S, K) of clouds (S, in_channels, P)."""
        features = [clouds]
        for layer in self.edges:
            features.append(layer(features[-1]))
        embedded = self.embedding(torch.cat(features[1:], dim=1))
        return self.head(torch.cat([embedded.amax(dim=2), embedded.mean(dim=2)], dim=1))


def build(
    in_channels: int = 3, classes: int = 40, width: int | None = None, neighbours: int = 20
) -> DGCNN:
    """Build DGCNN; 1.8 million parameters at the usual widths."""
    return DGCNN(in_channels, classes, width, neighbours)
