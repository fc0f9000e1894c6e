"""A data set small enough that a whole run with every arm takes a second."""

from collections.abc import Callable

import pytest
import torch

from ramify.commands.grow_settings import GrowSettings
from ramify.data import Dataset


def made_up(classes: int = 3, size: int = 8) -> Dataset:
    """Noisy copies of one random image a class."""
    generator = torch.Generator().manual_seed(7)
    centres = torch.randn(classes, 1, size, size, generator=generator)
    labels = torch.arange(60) % classes
    images = centres[labels] + 0.5 * torch.randn(60, 1, size, size, generator=generator)
    return Dataset(
        "made-up", images[:45], labels[:45], images[45:], labels[45:], ("a", "b", "c")[:classes]
    )


@pytest.fixture(scope="session")
def config() -> Callable[..., GrowSettings]:
    """Settings of a run of a second, on the made-up data."""

    def resolve(**given: object) -> GrowSettings:
        small = {"data": "digits", "width": 2, "rounds": 2, "epochs": 2, "batch_size": 15}
        return GrowSettings.resolve({**small, "probe_samples": 20, "fraction": 0.5, **given})

    return resolve


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    """The made-up data."""
    return made_up()
