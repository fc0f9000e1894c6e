"""Classification data sets, each a :class:`Dataset` in memory, and batches of them."""

from ramify.data.batching import batches, cutout
from ramify.data.catalog import NAMES, load
from ramify.data.dataset import Dataset, TrainTest, as_dataset

__all__ = ["NAMES", "Dataset", "TrainTest", "as_dataset", "batches", "cutout", "load"]
