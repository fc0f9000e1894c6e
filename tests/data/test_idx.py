import gzip
import struct

import numpy as np
import pytest

from ramify.data.idx import read_idx, read_idx_split
from ramify.errors import RamifyError


def idx(array):
    return (
        bytes([0, 0, 8, array.ndim])
        + struct.pack(f">{array.ndim}I", *array.shape)
        + array.astype(np.uint8).tobytes()
    )


IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)


@pytest.mark.parametrize("name, pack", [("images", bytes), ("images.gz", gzip.compress)])
def test_values(tmp_path, name, pack):
    path = tmp_path / name
    path.write_bytes(pack(idx(IMAGES)))
    assert np.array_equal(read_idx(path, 3), IMAGES)


def test_split_has_a_channel_axis(tmp_path):
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.write_bytes(idx(IMAGES))
    labels.write_bytes(idx(np.array([7, 200])))
    split = read_idx_split([images, labels])
    assert np.array_equal(split.pixels, IMAGES[:, None])
    assert split.labels.tolist() == [7, 200]
    assert split.labels.dtype == np.int64


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "starts with the bytes , where"),
        (b"\x00\x00\x0d\x03" + idx(IMAGES)[4:], "00000d03.*00000803"),
        (idx(IMAGES[0]), "00000802.*00000803"),
        (idx(IMAGES)[:9], "9 bytes long"),
        (idx(IMAGES)[:-1], "39 bytes long, where its header promises 16 and 2 x 3 x 4 more"),
        (idx(IMAGES) + b"\x00", "41 bytes long"),
    ],
)
def test_damaged(tmp_path, content, message):
    path = tmp_path / "images"
    path.write_bytes(content)
    with pytest.raises(RamifyError, match=message):
        read_idx(path, 3)


@pytest.mark.parametrize(
    "content", [b"no gzip", gzip.compress(idx(IMAGES))[:-9]], ids=["other", "cut short"]
)
def test_damaged_gzip(tmp_path, content):
    path = tmp_path / "images.gz"
    path.write_bytes(content)
    with pytest.raises(RamifyError, match="not a whole gzip file"):
        read_idx(path, 3)
