"""The toy network of the splitting papers: a sum of radial basis functions."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

VARIANCE = 3.0  # of all weights at the start, as in the papers' true function


class RBF(nn.Module):
    r"""One hidden layer of Gaussian bumps.

    .. math:: f(x) = \sum_{i=1}^m w_i \sigma(\theta_{i1} x + \theta_{i2}),
              \qquad \sigma(z) = \exp(-z^2 / 2)

    All weights are initialized independently from N(0, 3), with mean 0 and variance 3.

    Args:
        in_features: size of one input; 1 in the papers.
        outputs: size of one output; 1 in the papers.
        width: number of neurons, m.

    Source: L. Wu and others, "Steepest descent neural architecture optimization: escaping local
    optimum with signed neural splitting", equation (14).
    """

    def __init__(self, in_features: int, outputs: int, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(in_features, width)
        self.out = nn.Linear(width, outputs, bias=False)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=math.sqrt(VARIANCE))

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs (S, outputs) of inputs (S, in_features); further dimensions are flattened."""
        z = self.hidden(inputs.flatten(1))
        return self.out(torch.exp(-(z**2) / 2))


def build(in_features: int = 1, classes: int = 1, width: int = 1) -> RBF:
    """Build the network, by default with a single neuron as in the papers."""
    return RBF(in_features, classes, width)
