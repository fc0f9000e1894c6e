"""The tasks of `benchmarks.growing`: images, the seed network, and the budget."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ramify.data import batches, load
from ramify.models import build
from ramify.models.blocks import conv_norm_relu
from ramify.models.digits_net import DigitsNet
from ramify.probe.loss import Loss
from ramify.train.epoch import cross_entropy, evaluate

Batch = tuple[Tensor, Tensor]
Epochs = Callable[[int], Callable[[int], Iterable[Batch]]]
IMAGES, PROBE, SIZE = 6000, 1024, 128
LAYERS, WIDTHS, POOLED = 6, (2, 4, 8, 16), (1, 3)
"""The layers of networks with drawn widths, these widths, and the layers behind which they pool."""
UNEVEN_BUDGET = 12_000


@dataclass(frozen=True)
class Task:
    """What is grown, on what, and to what.

    Attributes:
        seed_network: builds the network that growth begins with.
        example: one input.
        epochs: of a seed: the batches of an epoch by its number.
        test: test batches.
        loss: of the training.
        total: epochs in all.
        every: epochs between edits.
        budget: parameters.
        weight_decay: of every parameter.
        networks: of a seed, what builds its network, where networks differ in shape; then it
            replaces `seed_network`.
    """

    seed_network: Callable[[], nn.Module]
    example: Tensor
    epochs: Epochs
    test: Sequence[Batch]
    loss: Loss
    total: int
    every: int
    budget: int
    weight_decay: float = 5e-4
    networks: Callable[[int], Callable[[], nn.Module]] | None = None

    def of(self, seed: int) -> Task:
        """The task with the network of a seed."""
        return replace(self, seed_network=self.networks(seed)) if self.networks else self

    def probe(self, seed: int) -> list[Batch]:
        """A sample to judge edits by: a separate pass with its own order."""
        found: list[Batch] = []
        for batch in self.epochs(seed + 1_000_000)(0):
            found.append(batch)
            if sum(len(y) for _, y in found) >= PROBE:
                break
        return found

    def score(self, model: nn.Module) -> dict[str, float]:
        """Test accuracy in percent, and test loss."""
        loss, accuracy = evaluate(model, self.test)
        return {"accuracy": 100 * accuracy, "loss": loss}


class Images:
    """MNIST at half the size: 6,000 training images and all 10,000 test images."""

    def __init__(self) -> None:
        whole = load("mnist")
        order = torch.randperm(len(whole.y_train), generator=torch.Generator().manual_seed(0))
        self.x = F.avg_pool2d(whole.x_train[order[:IMAGES]], 2)
        self.y = whole.y_train[order[:IMAGES]]
        self.test = _in_parts(F.avg_pool2d(whole.x_test, 2), whole.y_test)

    def epochs(self, seed: int) -> Callable[[int], Sequence[Batch]]:
        """The batches of an epoch, in an order that depends on the seed and the epoch."""

        def of_epoch(epoch: int) -> list[Batch]:
            generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
            order = torch.randperm(IMAGES, generator=generator)
            return [(self.x[part], self.y[part]) for part in order.split(SIZE)]

        return of_epoch


def _in_parts(x: Tensor, y: Tensor) -> list[Batch]:
    return list(zip(x.split(1000), y.split(1000), strict=True))


NARROW = partial(DigitsNet, in_channels=1, classes=10, width=4)
"""Builds the digits network with four channels per layer."""


def mnist14() -> Task:
    """The digits network with four channels on MNIST at 14×14, grown to 4,000 parameters."""
    images = Images()
    return Task(
        NARROW,
        images.x[:1],
        images.epochs,
        images.test,
        cross_entropy,
        total=72,
        every=3,
        budget=4000,
    )


def cifar10(name: str, width: int, budget: int, pooled: int = 1) -> Task:
    """A network on all images of CIFAR-10.

    Args:
        name: of the network, as `ramify.models.build` knows it.
        width: of the first network.
        budget: parameters.
        pooled: pixels in each direction that are averaged to one, after augmentation.

    Returns:
        The task.
    """
    data = load("cifar10")

    def images(x: Tensor) -> Tensor:
        # Channels last, in which convolutions take a third less time.
        return F.avg_pool2d(x, pooled).contiguous(memory_format=torch.channels_last)

    def epochs(seed: int) -> Callable[[int], Iterable[Batch]]:
        return lambda epoch: ((images(x), y) for x, y in batches(data, SIZE, seed, epoch))

    example = images(data.x_train[:1])
    network = partial(build, name, dataset_shape=tuple(example.shape[1:]), classes=10, width=width)
    return Task(
        network,
        example,
        epochs,
        _in_parts(images(data.x_test), data.y_test),
        cross_entropy,
        total=30,
        every=1,
        budget=budget,
    )


def uneven() -> Task:
    """A VGG of six layers of 2 to 16 channels, drawn for each seed, on CIFAR-10 at 16×16."""

    def network(seed: int) -> Callable[[], nn.Module]:
        return partial(vgg, 3, drawn(seed), POOLED)

    whole = cifar10("vgg19", 16, UNEVEN_BUDGET, pooled=2)
    return replace(whole, total=12, networks=network)


def drawn(seed: int) -> tuple[int, ...]:
    """Random widths of six layers, at least three different ones."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        picks = torch.randint(0, len(WIDTHS), (LAYERS,), generator=generator).tolist()
        if len(set(picks)) > 2:
            return tuple(WIDTHS[pick] for pick in picks)


def vgg(channels: int, widths: Sequence[int], pools: Sequence[int]) -> nn.Module:
    """Convolutions with norms and max-pools, and a linear layer on the means.

    Args:
        channels: of the images.
        widths: of the layers.
        pools: the layers after which images are halved.

    Returns:
        The network, for ten classes.
    """
    layers: list[nn.Module] = []
    for number, width in enumerate(widths):
        layers.append(conv_norm_relu(channels, width))
        channels = width
        if number in pools:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


TASKS: dict[str, Callable[[], Task]] = {
    "mnist14": mnist14,
    "resnet20": partial(cifar10, "resnet20", 4, 100_000),
    "vgg19": partial(cifar10, "vgg19", 16, 250_000),
    "resnet20-16": partial(cifar10, "resnet20", 4, 100_000, pooled=2),
    "vgg19-16": partial(cifar10, "vgg19", 16, 250_000, pooled=2),
    "uneven-16": uneven,
}
