"""Data sets, each a :class:`Dataset` in memory for a task, and batches of them.

`catalog` finds a data set by its name and reads it with `digits`, `idx` (MNIST), `cifar` (whose
pickles `safe_pickle` reads), `npz`, `folder` or `table` (CSV); `splitting` draws the test samples
of the last two. `dataset` builds a `Dataset` from the result or from the user's own object, whose
labels `labels` checks. `task` defines the loss and the metric, and `metric` how the metric is
printed. `batching` shuffles and augments the samples and splits them into batches.
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
