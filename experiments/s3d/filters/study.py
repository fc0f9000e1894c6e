"""Split filters of a trained network along the extreme eigenvectors, and continue training.

Shapes: S images, W filters of a layer, D numbers in a filter (its kernel, flattened).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

import ramify
from experiments.resume import Stage, once
from ramify.data import Dataset, batches
from ramify.models.blocks import conv_norm_relu

FIRST, LAST = "layers.0.0", "layers.3.0"  # the filters that are shown, and those shown by gradients
PROBED = 128  # training images that the splitting matrices are averaged over
SMALL = 0.01  # deviation of the first filters at the start: what is learned shows, not the noise
PAIRS = 2  # filters shown of the largest spectral radius, and as many of the smallest


class Net(nn.Module):
    """A 7×7 convolution of stride 2, two 3×3 convolutions, the mean, one linear layer."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            conv_norm_relu(3, 12, kernel=7, stride=2),
            conv_norm_relu(12, 16),
            nn.MaxPool2d(2),
            conv_norm_relu(16, 24),
        )
        self.head = nn.Linear(24, classes)
        nn.init.normal_(self.get_parameter(f"{FIRST}.weight"), std=SMALL)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (S, K) of images (S, 3, H, W)."""
        return self.head(self.layers(images).mean(dim=(2, 3)))


@dataclass(frozen=True)
class Settings:
    """Training images, epochs before and after the split, and ε over a filter's norm."""

    images: int = 10_000
    before: int = 4
    after: int = 3
    step: float = 0.3
    seed: int = 0


@dataclass(frozen=True)
class Extremes:
    """The filters (W, D) of a layer, with both extreme eigenpairs of their splitting matrices.

    `directions` (2, W, D) and `values` (2, W) belong to λ_min and λ_max.
    """

    filters: Tensor
    values: Tensor
    directions: Tensor

    @property
    def radius(self) -> Tensor:
        """ρ = max(|λ_min|, |λ_max|), (W,)."""
        return self.values.abs().amax(0)

    def shown(self) -> list[int]:
        """The filters with the largest radius, then those with the smallest."""
        order = self.radius.argsort(descending=True).tolist()
        return order[:PAIRS] + order[-PAIRS:]


@dataclass(frozen=True)
class Pictures:
    """The data of the figures.

    `copies` and `trained` (2, 2, W, D) are the first layer's filters right after the split and
    after further training, by direction and copy. `gradients` holds for each shown filter of the
    last layer guided gradients (5, 3, H, W): unchanged, ±v_min, ±v_max. The tests are accuracies
    before the split and after further training.
    """

    first: Extremes
    copies: Tensor
    trained: Tensor
    last: Extremes
    image: Tensor
    gradients: list[Tensor]
    accuracies: list[float]


def study(dataset: Dataset, settings: Settings, stage: Stage = once) -> Pictures:
    """Train, compute eigenvectors, split the first layer's filters along each, and train on.

    Args:
        dataset: the training and test data.
        settings: amount of training, and displacement of the filters.
        stage: keeps the results of slow steps.

    Returns:
        The data of the figures.
    """
    torch.manual_seed(settings.seed)
    net = Net(len(dataset.classes))
    epochs = range(settings.before + settings.after)
    before, after = epochs[: settings.before], epochs[settings.before :]
    net.load_state_dict(stage("trained", lambda: _train(net, dataset, settings, before)))
    net.eval()
    accuracies = [_accuracy(net, dataset)]
    first, last = (
        Extremes(*stage(layer, partial(_extremes, net, layer, dataset))) for layer in (FIRST, LAST)
    )
    image = dataset.x_test[:1]
    copies, trained = [], []
    for number, direction in enumerate(first.directions):
        split = _split(net, first.filters, direction, settings.step, dataset)
        copies.append(_pairs(split))
        train_on = partial(_train, split, dataset, settings, after)
        split.load_state_dict(stage(f"split-{number}", train_on))
        split.eval()
        trained.append(_pairs(split))
        accuracies.append(_accuracy(split, dataset))
    gradients = [_around(net, last, channel, settings.step, image) for channel in last.shown()]
    both = torch.stack(copies), torch.stack(trained)
    return Pictures(first, *both, last, image[0], gradients, accuracies)


def _loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


def _train(
    net: nn.Module, dataset: Dataset, settings: Settings, epochs: range
) -> dict[str, Tensor]:
    """Train with Adam; returns the state of the network."""
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    net.train()
    for epoch in epochs:
        for batch in _some(dataset, settings, epoch):
            optimizer.zero_grad()
            _loss(net, batch).mean().backward()
            optimizer.step()
    net.eval()
    return dict(net.state_dict())


def _some(dataset: Dataset, settings: Settings, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of an epoch, up to the number of images in the settings."""
    size = 128
    for number, batch in enumerate(batches(dataset, size, settings.seed, epoch)):
        if number * size >= settings.images:
            return
        yield batch


def _accuracy(net: nn.Module, dataset: Dataset) -> float:
    with torch.no_grad():
        found = torch.cat([net(part).argmax(1) for part in dataset.x_test.split(1000)])
    return float((found == dataset.y_test).float().mean())


def _extremes(net: nn.Module, layer: str, dataset: Dataset) -> tuple[Tensor, Tensor, Tensor]:
    """The fields of `Extremes`."""
    graph = ramify.trace(net, dataset.x_train[:1])
    probe = [(dataset.x_train[:PROBED], dataset.y_train[:PROBED])]
    values, vectors = torch.linalg.eigh(ramify.splitting_matrix(graph, layer, _loss, probe))
    filters = net.get_parameter(f"{layer}.weight").detach().flatten(1).clone()
    directions = torch.stack([vectors[:, :, 0], vectors[:, :, -1]])
    return filters, torch.stack([values[:, 0], values[:, -1]]), directions


def _split(
    net: nn.Module, filters: Tensor, direction: Tensor, step: float, dataset: Dataset
) -> nn.Module:
    """A copy of the network with every filter of the first layer split in two."""
    net, name = copy.deepcopy(net), f"{FIRST}.weight"
    shape = net.get_parameter(name).shape[1:]
    moves = step * filters.norm(dim=1, keepdim=True) * direction
    edits = [
        ramify.Split(FIRST, channel, (0.5, 0.5), {name: torch.stack([move, -move])})
        for channel, move in enumerate(moves.view(-1, *shape))
    ]
    ramify.apply(ramify.trace(net, dataset.x_train[:1]), edits)
    return net


def _pairs(net: nn.Module) -> Tensor:
    """The copies of every filter, (2, W, D): `apply` puts the second copies after the first."""
    filters = net.get_parameter(f"{FIRST}.weight").detach().flatten(1).clone()
    return filters.view(2, -1, filters.shape[1])


def _around(net: nn.Module, last: Extremes, channel: int, step: float, image: Tensor) -> Tensor:
    """Guided gradients of one filter, unchanged and moved both ways along both directions."""
    name = f"{LAST}.weight"
    filters = net.get_parameter(name).detach()
    size = step * last.filters[channel].norm()
    low, high = size * last.directions[:, channel]
    pictures = []
    for move in (torch.zeros_like(low), low, -low, high, -high):
        moved = filters.clone()
        moved[channel] += move.view_as(moved[channel])
        pictures.append(_guided(net, {name: moved}, channel, image))
    return torch.stack(pictures)


def _guided(net: nn.Module, weights: dict[str, Tensor], channel: int, image: Tensor) -> Tensor:
    """The gradient (3, H, W) of a channel's sum, with negative parts removed at every ReLU."""
    activations: list[Tensor] = []
    relus = [module for module in net.modules() if isinstance(module, nn.ReLU)]
    hooks = [relu.register_full_backward_hook(_positive) for relu in relus]
    hooks.append(relus[-1].register_forward_hook(lambda _, given, made: activations.append(made)))
    was_in_place = [relu.inplace for relu in relus]
    try:
        for relu in relus:
            relu.inplace = False  # a hook on the way back needs what came in
        pixels = image.clone().requires_grad_()
        functional_call(net, weights, (pixels,))
        (gradient,) = torch.autograd.grad(activations[0][:, channel].sum(), pixels)
    finally:
        for hook in hooks:
            hook.remove()
        for relu, in_place in zip(relus, was_in_place, strict=True):
            relu.inplace = in_place
    return gradient[0]


def _positive(_: nn.Module, given: Any, made: Any) -> tuple[Tensor]:
    return (given[0].clamp(min=0),)
