"""Classification data sets, each a :class:`Dataset` in memory, and batches of them.

`catalog` finds a data set by its name and reads it by `digits`, `idx` (MNIST), `cifar` (whose
pickles `safe_pickle` reads), `npz` or `folder`; `dataset` makes a `Dataset` of what was read, or of
an object of the user's; `batching` shuffles, augments and cuts it into batches.
"""

from ramify.data.batching import batches, cutout
from ramify.data.catalog import NAMES, load
from ramify.data.dataset import Dataset, TrainTest, as_dataset

__all__ = ["NAMES", "Dataset", "TrainTest", "as_dataset", "batches", "cutout", "load"]
