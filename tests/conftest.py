"""Settings shared by all tests: one thread, a fixed seed, no time limits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)  # the tensors are tiny: more threads only wait for each other
settings.register_profile("ramify", deadline=None, derandomize=True)
settings.load_profile("ramify")


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Keep --doctest-modules, meant for src, from importing the helpers of the tests once more."""
    helper = collection_path.suffix == ".py" and not collection_path.name.startswith("test_")
    return True if helper else None


@pytest.fixture(autouse=True)
def seed() -> Iterator[None]:
    """Start every test from the same random state and leave the default type as it was."""
    dtype = torch.get_default_dtype()
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(dtype)
