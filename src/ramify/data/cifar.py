"""The official files of CIFAR-10 and CIFAR-100: Python batches and binary batches.

Shapes: N images of 3 channels, 32 rows and 32 columns, stored as 3,072 bytes each.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ramify.data.dataset import RawSplit
from ramify.data.safe_pickle import read_pickled_dict
from ramify.errors import RamifyError

SHAPE = (3, 32, 32)
PIXELS = 3 * 32 * 32


def read_python_batches(paths: Sequence[Path], label_key: str) -> RawSplit:
    """Read batches of the Python version, one after the other.

    Args:
        paths: the batch files.
        label_key: the entry that holds the labels, ``labels`` or ``fine_labels``.

    Returns:
        Pixels (N, 3, 32, 32) and labels (N,).

    Raises:
        RamifyError: if a file is damaged, or lacks images or labels of the right shape.
    """
    splits = [_read_python_batch(path, label_key) for path in paths]
    return _join(splits)


def _read_python_batch(path: Path, label_key: str) -> RawSplit:
    batch = read_pickled_dict(path)
    pixels, labels = batch.get("data"), batch.get(label_key)
    if not isinstance(pixels, np.ndarray) or pixels.shape[1:] != (PIXELS,):
        raise RamifyError(
            f"{path} has no entry 'data' of {PIXELS} bytes an image: fetch the official file again."
        )
    if not isinstance(labels, list) or not all(isinstance(label, int) for label in labels):
        raise RamifyError(
            f"{path} has no entry {label_key!r} that lists whole numbers, but has "
            f"{', '.join(sorted(batch))}: fetch the official file again."
        )
    if len(labels) != len(pixels):
        raise RamifyError(
            f"{path} has {len(pixels)} images and {len(labels)} labels: fetch the official file "
            "again."
        )
    return RawSplit(pixels.reshape(-1, *SHAPE), np.asarray(labels, dtype=np.int64))


def read_binary_batches(paths: Sequence[Path], label_bytes: int) -> RawSplit:
    """Read batches of the binary version: records of label bytes, then 3,072 bytes of pixels.

    Args:
        paths: the batch files.
        label_bytes: 1 for CIFAR-10; 2 for CIFAR-100, of which the second (fine) label is used.

    Returns:
        Pixels (N, 3, 32, 32) and labels (N,).

    Raises:
        RamifyError: if the length of a file is not a whole number of records.
    """
    record = label_bytes + PIXELS
    splits = []
    for path in paths:
        content = np.fromfile(path, dtype=np.uint8)
        if len(content) == 0 or len(content) % record:
            raise RamifyError(
                f"{path} is {len(content)} bytes long, which is not a whole number of records of "
                f"{record} bytes: fetch the official file again."
            )
        rows = content.reshape(-1, record)
        pixels = rows[:, label_bytes:].reshape(-1, *SHAPE)
        splits.append(RawSplit(pixels, rows[:, label_bytes - 1].astype(np.int64)))
    return _join(splits)


def _join(splits: list[RawSplit]) -> RawSplit:
    return RawSplit(
        np.concatenate([split.pixels for split in splits]),
        np.concatenate([split.labels for split in splits]),
    )
