r"""A Swin on CIFAR-100 pruned by learned scores: accuracy, sizes, layers (Table 4.4, Figure 4.2).

    RAMIFY_DATA=DIR python -m experiments.sidt.classification

`DIR` holds cifar100 in the form that `ramify.data` reads. The thesis' own sizes, for a GPU:

    RAMIFY_DATA=DIR python -m experiments.sidt.classification --model swin-t --classes 100 \
        --images 50000 --epochs 160 --search 160 --tune 160 --batch 256 --rate 2.5e-4 \
        --alpha 2.5e-4 --device cuda
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from experiments.sidt import command, study
from experiments.sidt.page import opening, tables
from ramify.data import Dataset, batches, load
from ramify.models.swin import Swin
from ramify.train.epoch import cross_entropy, evaluate

RATIOS = (0.2, 0.4, 0.6, 0.8)
# Table 4.4: accuracy in percent, parameters in millions, "FLOPS" in thousand millions
PRINTED = {
    0.0: ("81.78", "27.60", "4.49"),
    0.2: ("82.75", "23.28", "3.53"),
    0.4: ("82.11", "17.89", "2.60"),
    0.6: ("80.81", "11.92", "1.73"),
    0.8: ("79.35", "7.17", "0.92"),
}
HEADS = ("Table 4.4: Swin-T, %", "M", "G")
TOGETHER = 250  # images judged at once
SHAPES: dict[str, dict[str, Any]] = {
    "small": {
        "image_size": 32,
        "patch_size": 4,
        "window_size": 4,
        "embed_dim": 48,
        "depths": [2, 4],
        "num_heads": [3, 6],
        "drop_path_rate": 0.0,
    },
    "swin-t": {},
}


@dataclass(frozen=True)
class Settings(study.Settings):
    """The settings of the command.

    Attributes:
        classes: number of CIFAR-100 classes, the first in alphabetical order.
        images: number of training images, the first of these classes.
    """

    epochs: int = 15
    search: int = 5
    tune: int = 2
    classes: int = 10
    images: int = 2000


class Cifar(study.Task):
    """Some classes of CIFAR-100.

    Args:
        settings: the network, the classes, and the number of images.
        device: the device of all computations.
    """

    def __init__(self, settings: Settings, device: torch.device) -> None:
        self.settings = settings
        self.config = study.swin_config(SHAPES, settings.model, num_labels=settings.classes)
        self.data = some(load("cifar100"), settings)
        self.count = len(self.data.y_train)
        self.device = device
        self.example = self._inputs(self.data.x_train[:1])

    def model(self) -> nn.Module:
        """The Swin with newly initialized weights."""
        return Swin(self.config)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Cross-entropy, (S,)."""
        return cross_entropy(model, batch)

    def passes(self, rows: Tensor, size: int, seed: int) -> study.Passes:
        """Shifted and mirrored images with these indices."""
        mine = replace(self.data, x_train=self.data.x_train[rows], y_train=self.data.y_train[rows])

        def one(number: int) -> Iterator[tuple[Tensor, Tensor]]:
            for images, labels in batches(mine, size, seed, number):
                yield self._inputs(images), labels.to(self.device)

        return one

    def judge(self, model: nn.Module) -> dict[str, float]:
        """Accuracy, in percent."""
        split = (self.data.x_test.split(TOGETHER), self.data.y_test.split(TOGETHER))
        pairs = ((self._inputs(x), y.to(self.device)) for x, y in zip(*split, strict=True))
        return {"accuracy": 100 * evaluate(model, pairs)[1]}

    def _inputs(self, images: Tensor) -> Tensor:
        """The images on the device, in the input size of the network."""
        side = self.config.image_size
        images = images.to(self.device)
        if images.shape[2] == side:
            return images
        return functional.interpolate(images, size=side, mode="bilinear")


def some(dataset: Dataset, settings: Settings) -> Dataset:
    """The first classes of a data set, with the number of training images in the settings.

    Args:
        dataset: the full data set.
        settings: the numbers, and the evaluation split; "val" uses the training images that follow.

    Returns:
        The subset.
    """
    train, test = dataset.y_train < settings.classes, dataset.y_test < settings.classes
    x, y = dataset.x_train[train], dataset.y_train[train]
    judged = (x[settings.images :], y[settings.images :])
    if settings.split == "test":
        judged = (dataset.x_test[test], dataset.y_test[test])
    first = slice(settings.images)
    return replace(dataset, x_train=x[first], y_train=y[first], x_test=judged[0], y_test=judged[1])


def page(results: Sequence[dict[str, Any]]) -> str:
    """The results in the form of Table 4.4, next to its values."""
    return f"{opening(results)}\n\n{tables(results, 'accuracy', PRINTED, HEADS)}\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, search, cut and fine-tune; write results.jsonl, results.md and layers.png."""
    parser = command.options(
        "python -m experiments.sidt.classification",
        "Cut the dimensions of a Swin on CIFAR-100 by scores, learned and not.",
        Settings(),
    )
    command.follow(parser, arguments, lambda held, on: Cifar(Settings(**held), on), RATIOS, page)


if __name__ == "__main__":
    main()
