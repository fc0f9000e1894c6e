"""The networks by name, with their data and how each is trained."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from benchmarks.cut_networks import images, text
from benchmarks.cut_networks.task import Task
from benchmarks.cut_networks.training import Training
from benchmarks.cut_networks.vit import ViT
from ramify.models import resnet, vgg

TASKS: dict[str, Callable[[], Task]] = {
    "resnet20": partial(images.task, resnet.build),
    "vgg19": partial(images.task, partial(vgg.build, width=16)),
    "vit": partial(images.task, ViT),
    "llama": partial(text.task, text.Llama),
}
"""Name -> makes the network's data, and knows how to make the network."""

TRAININGS = {
    "resnet20": Training(epochs=8, lr=0.2, decay=5e-4, small=4),
    "vgg19": Training(epochs=15, lr=0.1, decay=5e-4),
    "vit": Training(epochs=10, lr=1e-3, decay=0.05, adam=True),
    "llama": Training(epochs=6, lr=2e-3, decay=0.1, adam=True),
}
