"""Ramify's own seed networks, at the sizes in the papers."""

from __future__ import annotations

from benchmarks.zoo.entries import Entry, Inputs, image, noise
from ramify.models.registry import build

SEEDS: list[tuple[str, tuple[int, ...], dict[str, int], Inputs, bool]] = [
    ("digits_net", (1, 8, 8), {}, image(8, 8, channels=1), True),
    ("vgg19", (3, 32, 32), {}, image(32, 32), True),
    ("mobilenet_v1", (3, 32, 32), {}, image(32, 32), True),
    ("preresnet56", (3, 32, 32), {}, image(32, 32), True),
    ("preresnet164", (3, 32, 32), {}, image(32, 32), True),
    ("resnet20", (3, 32, 32), {}, image(32, 32), True),
    ("ds_cnn", (1, 49, 10), {}, image(49, 10, channels=1), True),
    ("dgcnn", (3, 64), {}, noise(2, 3, 64), True),
    ("rbf", (1,), {"width": 8}, noise(5, 1), True),
]

ELSEWHERE = {
    "ds_cnn": "experiments.s2d.speech.ds_cnn:build",
    "dgcnn": "experiments.s2d.points.dgcnn:build",
    "rbf": "experiments.s2d.rbf.network:build",
}


def entries() -> list[Entry]:
    """One entry for each seed network."""

    def entry(seed: tuple[str, tuple[int, ...], dict[str, int], Inputs, bool]) -> Entry:
        name, shape, settings, inputs, full = seed
        make = lambda: build(ELSEWHERE.get(name, name), dataset_shape=shape, classes=10, **settings)  # noqa: E731
        return Entry(name, "ramify", make, inputs, full)

    return [entry(seed) for seed in SEEDS]
