"""The prototype network: an image is classified by its similarity to learned images.

Shapes: S images, D numbers in an image, M prototypes, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

TEMPERATURE = 0.1  # of the softmin, in units of the mean squared distance of one pixel
SPREAD = 0.1  # of the pixels at the start: nearly the mean image, 0


class PrototypeNet(nn.Module):
    r"""A softmin over the distances to learned images, each of which votes for the classes.

    .. math:: h_j(x) = \exp\left(-\frac{\|x - p_j\|^2}{D \tau}\right), \qquad
              f(x) = \frac{\sum_j h_j(x) w_j}{\sum_j h_j(x) \pi_j}

    The share :math:`\pi_j` is the weight of prototype j: initially 1, so that f is the plain
    softmin average of the votes w_j. It is a buffer that reads the prototypes as the votes do: when
    a prototype splits, its copies divide its share among them, and f does not change.

    Args:
        in_features: numbers in an image, D.
        classes: number of classes, K.
        width: number of prototypes, M.

    Source: O. Li and others, "Deep learning for case-based reasoning through prototypes", AAAI
    2018, here without its autoencoder: distances are taken between the images themselves, and the
    softmin replaces the linear layer on raw distances, which a split could not change.
    """

    share: Tensor

    def __init__(self, in_features: int, classes: int, width: int) -> None:
        super().__init__()
        self.prototypes = nn.Parameter(torch.empty(width, in_features))
        self.head = nn.Linear(width, classes, bias=False)
        self.register_buffer("share", torch.empty(1, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw nearly blank prototypes, and give each the same weight."""
        nn.init.normal_(self.prototypes, std=SPREAD)
        nn.init.ones_(self.share)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (S, K) of images (S, ...) of D numbers each."""
        return self.explain(images)[0]

    def explain(self, images: Tensor) -> tuple[Tensor, Tensor]:
        r"""Classify images, and return the distance to the nearest prototype.

        Args:
            images: (S, ...) of D numbers each.

        Returns:
            Logits (S, K), and the soft distance :math:`-\tau \log \sum_j \pi_j h_j(x)` (S,) to the
            nearest prototype, squared, the mean over the pixels. As a loss term it keeps the
            prototypes close to real images; it corresponds to the paper's R2.
        """
        pixels = images.flatten(1)
        cross = functional.linear(pixels, self.prototypes)
        squares = pixels.square().sum(1, keepdim=True) - 2 * cross + self.prototypes.square().sum(1)
        near = torch.exp(-squares / (TEMPERATURE * pixels.shape[1]))
        total = functional.linear(near, self.share)
        return self.head(near) / total, -TEMPERATURE * total.log().squeeze(1)


def build(in_features: int = 784, classes: int = 10, width: int = 2) -> PrototypeNet:
    """Build the prototype network; with a single prototype its output would be constant."""
    return PrototypeNet(in_features, classes, width)
