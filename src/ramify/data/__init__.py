"""Data sets, each a :class:`Dataset` in memory for a task, and batches of them.

`catalog` finds a data set by its name and reads it by `digits`, `idx` (MNIST), `cifar` (whose
pickles `safe_pickle` reads), `npz`, `folder` or `table` (CSV), of which `splitting` draws the test
samples; `dataset` makes a `Dataset` of what was read, or of an object of the user's, whose labels
`labels` checks; `task` says what the loss and the metric are, and `metric` how the latter is
written; `batching` shuffles, augments and cuts it into batches.
"""

from ramify.data.batching import batches, cutout
from ramify.data.catalog import NAMES, load
from ramify.data.dataset import Dataset, TrainTest, as_dataset
from ramify.data.metric import Metric
from ramify.data.task import Task

__all__ = [
    "NAMES",
    "Dataset",
    "Metric",
    "Task",
    "TrainTest",
    "as_dataset",
    "batches",
    "cutout",
    "load",
]
