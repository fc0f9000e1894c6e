"""The idx format of MNIST and Fashion-MNIST, plain or compressed with gzip."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ramify.data.dataset import RawSplit
from ramify.errors import RamifyError

UNSIGNED_BYTE = 0x08


def read_idx(path: Path, rank: int) -> NDArray[np.uint8]:
    """Read one idx file of unsigned bytes.

    The file starts with the bytes 0, 0, 8, rank, then one big-endian 32-bit size a dimension, then
    the values, last dimension fastest.

    Args:
        path: the file; a name that ends in ``.gz`` is decompressed.
        rank: number of dimensions expected, 3 for images and 1 for labels.

    Returns:
        Array of ``rank`` dimensions.

    Raises:
        RamifyError: if the first bytes or the length do not match the format.

    Source: Y. LeCun, C. Cortes, C. Burges, "The MNIST database", section on file formats.
    """
    content = _content(path)
    expected = bytes([0, 0, UNSIGNED_BYTE, rank])
    if content[:4] != expected:
        raise RamifyError(
            f"{path} starts with the bytes {content[:4].hex()}, where an idx file of {rank} "
            f"dimensions has {expected.hex()}: fetch the official file again."
        )
    start = 4 + 4 * rank
    if len(content) < start:
        raise RamifyError(
            f"{path} is {len(content)} bytes long, where its header alone takes {start}: fetch the "
            "official file again."
        )
    sizes = [int(size) for size in np.frombuffer(content[4:start], dtype=">u4")]
    if len(content) != start + math.prod(sizes):
        raise RamifyError(
            f"{path} is {len(content)} bytes long, where its header promises "
            f"{start} and {' x '.join(map(str, sizes))} more: fetch the official file again."
        )
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(sizes)


def read_idx_split(paths: Sequence[Path]) -> RawSplit:
    """Read an image file and its label file, in this order: pixels (N, 1, H, W), labels (N,)."""
    images, labels = paths
    return RawSplit(read_idx(images, 3)[:, None], read_idx(labels, 1).astype(np.int64))


def _content(path: Path) -> bytes:
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        return gzip.decompress(path.read_bytes())
    except (EOFError, OSError, zlib.error) as error:
        raise RamifyError(
            f"{path} is not a whole gzip file ({error}): fetch the official file again."
        ) from error
