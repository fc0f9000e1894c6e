"""A small perceptron for samples that are rows of numbers, such as those of a table."""

from __future__ import annotations

import itertools

from torch import Tensor, nn

WIDTH, DEPTH = 16, 2


class MLP(nn.Module):
    """Hidden layers of linear and ReLU, then a linear.

    Args:
        in_features: numbers of a sample, F; a sample of more dimensions is flattened.
        classes: number of outputs, K: of classes, or of targets of a regression.
        width: neurons of each hidden layer.
        depth: number of hidden layers.

    Example:
        >>> import torch
        >>> MLP(in_features=5, classes=1, width=8, depth=2)(torch.randn(2, 5)).shape
        torch.Size([2, 1])
    """

    def __init__(self, in_features: int, classes: int, width: int, depth: int) -> None:
        super().__init__()
        sizes = [in_features, *[width] * depth]
        self.hidden = nn.ModuleList(nn.Linear(*pair) for pair in itertools.pairwise(sizes))
        self.head = nn.Linear(sizes[-1], classes)

    def forward(self, rows: Tensor) -> Tensor:
        """Outputs (S, K) of rows (S, F)."""
        rows = rows.flatten(1)
        for layer in self.hidden:
            rows = layer(rows).relu()
        return self.head(rows)


def build(in_features: int, classes: int = 1, width: int = WIDTH, depth: int = DEPTH) -> MLP:
    """Build a perceptron; 385 parameters with two layers of 16 neurons on 5 numbers, one output."""
    return MLP(in_features, classes, width, depth)
