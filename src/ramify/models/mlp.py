"""A small multilayer perceptron for samples that are vectors, such as the rows of a table."""

from __future__ import annotations

import itertools

from torch import Tensor, nn

WIDTH, DEPTH = 16, 2


class MLP(nn.Module):
    """Hidden linear layers with ReLU, then a linear layer.

    Args:
        in_features: number of values in a sample, F; samples with more dimensions are flattened.
        classes: number of outputs, K: classes, or targets of a regression.
        width: neurons in each hidden layer.
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
    """Build an MLP; 385 parameters with 5 inputs, two layers of 16 neurons and one output."""
    return MLP(in_features, classes, width, depth)
