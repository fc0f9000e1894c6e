"""Image classification data sets, each a :class:`Dataset` in memory, and batches of them."""

from ramify.data.batching import batches, cutout
from ramify.data.catalog import NAMES, load
from ramify.data.dataset import Dataset

__all__ = ["NAMES", "Dataset", "batches", "cutout", "load"]
