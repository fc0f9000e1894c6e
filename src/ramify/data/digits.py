"""The handwritten digits of scikit-learn, which need no download and no files."""

from __future__ import annotations

import numpy as np

from ramify.data.dataset import Dataset, RawSplit, from_raw
from ramify.imports import require

TEST_IMAGES = 360  # a fifth of 1,797


def load_digits(seed: int) -> Dataset:
    """Read the 1,797 digits of 8×8 pixels and split them in a stratified way.

    The set has no official split: it is itself the test half of the UCI set.

    Args:
        seed: which split; all results of the project use 0.

    Returns:
        1,437 training and 360 test images (N, 1, 8, 8).

    Raises:
        RamifyError: if scikit-learn is not installed.

    Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998.
    """
    require("sklearn", "cli", "the digits come with scikit-learn, imported as")
    # The import takes a second, so only this data set should pay for it.
    from sklearn.datasets import load_digits as read
    from sklearn.model_selection import train_test_split

    pixels, labels = read(return_X_y=True)
    pixels = pixels.astype(np.uint8).reshape(-1, 1, 8, 8)
    x_train, x_test, y_train, y_test = train_test_split(
        pixels, labels.astype(np.int64), test_size=TEST_IMAGES, stratify=labels, random_state=seed
    )
    return from_raw(
        "digits",
        RawSplit(x_train, y_train),
        RawSplit(x_test, y_test),
        tuple("0123456789"),
        full_scale=16,
    )
