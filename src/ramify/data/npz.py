"""A data set in one ``.npz`` file: x_train, y_train, x_test, y_test.

Shapes: N samples, C channels, H rows, W columns.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ramify.data.dataset import MEMBERS as KEYS
from ramify.data.dataset import Dataset, Labels, Pixels, RawSplit, as_dataset, check_count, from_raw
from ramify.errors import RamifyError

USUAL = (1, 3)  # the usual numbers of channels of an image


def load_npz(path: str | Path, task: str | None = None) -> Dataset:
    """Read a data set that is not built into Ramify.

    Args:
        path: the file. Samples of type uint8 are images with 1 or 3 channels, (N, C, H, W),
            (N, H, W, C) or (N, H, W), and are normalised; floating-point samples (N, ...) are not
            changed; integers (N, T) with labels of the same shape are text. Labels are integers
            from 0, or in the form that another task needs, see :class:`ramify.data.TrainTest`.
        task: the name of the task; None to infer it from the labels.

    Returns:
        The data set, named after the file.

    Raises:
        RamifyError: as :func:`read_npz`.
    """
    path = Path(path)
    arrays = _arrays(path)
    samples, labels = arrays["x_train"], arrays["y_train"]
    tokens = samples.ndim == 2 and samples.shape == labels.shape
    if np.issubdtype(samples.dtype, np.floating) or tokens:
        return as_dataset(SimpleNamespace(**arrays), path.stem, task)
    axes = (1, 3) if samples.ndim == 4 else ()
    channels = next((samples.shape[axis] for axis in axes if samples.shape[axis] in USUAL), 1)
    train, test = _splits(path, arrays, channels)
    count = 1 + max(int(split.labels.max(initial=0)) for split in (train, test))
    check_count(path.stem, count, len(train.labels))
    return from_raw(path.stem, train, test, tuple(map(str, range(count))))


def read_npz(path: Path, channels: int) -> tuple[RawSplit, RawSplit]:
    """Read the training and the test split of a set of images.

    Args:
        path: the file; images are uint8, NCHW or NHWC, or NHW if there is one channel.
        channels: number of channels expected, which tells NCHW from NHWC.

    Returns:
        The training split and the test split, pixels in NCHW.

    Raises:
        RamifyError: if the file is damaged, lacks an array, or an array has the wrong type or
            shape.
    """
    return _splits(path, _arrays(path), channels)


def _splits(
    path: Path, arrays: Mapping[str, NDArray[Any]], channels: int
) -> tuple[RawSplit, RawSplit]:
    splits = [
        RawSplit(
            _pixels(path, f"x_{split}", arrays[f"x_{split}"], channels),
            _labels(path, f"y_{split}", arrays[f"y_{split}"]),
        )
        for split in ("train", "test")
    ]
    return splits[0], splits[1]


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The four arrays of the file, unchanged."""
    try:
        # ZipFile refuses a lone .npy array, which numpy would load as one.
        with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in KEYS if key in file.files}
    # RuntimeError: an entry is encrypted, or compressed in a way that Python does not know.
    except (EOFError, OSError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise RamifyError(
            f"{path} is not a whole .npz file of plain arrays ({error}): write it again with "
            "numpy.savez."
        ) from error
    if missing := [key for key in KEYS if key not in arrays]:
        raise RamifyError(
            f"{path} has no {', '.join(missing)}: a data set needs the arrays {', '.join(KEYS)}."
        )
    return arrays


def _pixels(path: Path, key: str, images: NDArray[Any], channels: int) -> Pixels:
    if images.dtype != np.uint8:
        raise RamifyError(
            f"{key} in {path} is of type {images.dtype}, where uint8 is expected: save the pixels "
            "as whole numbers from 0 to 255."
        )
    if images.ndim == 3 and channels == 1:
        return images[:, None]
    if images.ndim == 4 and images.shape[1] == channels:
        return images
    if images.ndim == 4 and images.shape[3] == channels:
        return images.transpose(0, 3, 1, 2)
    raise RamifyError(
        f"{key} in {path} has the shape {images.shape}, where images with {channels} channel(s) "
        "are expected: save them as (N, C, H, W) or (N, H, W, C)."
    )


def _labels(path: Path, key: str, labels: NDArray[Any]) -> Labels:
    if labels.ndim == 2 and labels.shape[1] == 1:  # the form in which some libraries store CIFAR
        labels = labels[:, 0]
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise RamifyError(
            f"{key} in {path} is of type {labels.dtype} and shape {labels.shape}, where one whole "
            "number an image is expected: save the labels as integers of shape (N,)."
        )
    return labels.astype(np.int64)
