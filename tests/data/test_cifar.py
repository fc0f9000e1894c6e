import pickle

import numpy as np
import pytest

from ramify.data.cifar import read_binary_batches, read_python_batches
from ramify.errors import RamifyError

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 3072), dtype=np.uint8)


def write_pickle(path, **entries):
    path.write_bytes(pickle.dumps({key.encode(): value for key, value in entries.items()}, 2))
    return path


def test_python_batches_in_order(tmp_path):
    first = write_pickle(tmp_path / "1", data=PIXELS[:3], labels=[4, 5, 6])
    second = write_pickle(tmp_path / "2", data=PIXELS[3:], labels=[0, 9])
    split = read_python_batches([first, second], "labels")
    assert np.array_equal(split.pixels, PIXELS.reshape(5, 3, 32, 32))
    assert split.labels.tolist() == [4, 5, 6, 0, 9]


def test_python_batches_take_the_label_asked_for(tmp_path):
    path = write_pickle(tmp_path / "1", data=PIXELS[:1], fine_labels=[99], coarse_labels=[19])
    assert read_python_batches([path], "fine_labels").labels.tolist() == [99]


@pytest.mark.parametrize(
    "entries, message",
    [
        ({"labels": [1]}, "no entry 'data'"),
        ({"data": [1], "labels": [1]}, "no entry 'data'"),
        ({"data": PIXELS[:, 1:], "labels": [1] * 5}, "of 3072 bytes an image"),
        ({"data": PIXELS}, "no entry 'labels'.*has data"),
        ({"data": PIXELS, "labels": ["1"] * 5}, "no entry 'labels'"),
        ({"data": PIXELS, "labels": [1] * 4}, "5 images and 4 labels"),
    ],
)
def test_python_batches_without_what_is_needed(tmp_path, entries, message):
    path = write_pickle(tmp_path / "1", **entries)
    with pytest.raises(RamifyError, match=message):
        read_python_batches([path], "labels")


@pytest.mark.parametrize("label_bytes", [1, 2])
def test_binary_batches(tmp_path, label_bytes):
    labels = np.array([[10, 1], [11, 2], [12, 3], [13, 4], [14, 5]], dtype=np.uint8)
    records = np.concatenate([labels[:, 2 - label_bytes :], PIXELS], axis=1)
    paths = [tmp_path / "1.bin", tmp_path / "2.bin"]
    records[:3].tofile(paths[0])
    records[3:].tofile(paths[1])
    split = read_binary_batches(paths, label_bytes)
    assert np.array_equal(split.pixels, PIXELS.reshape(5, 3, 32, 32))
    assert split.labels.tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("length", [0, 3072, 3074, 2 * 3073 - 1])
def test_binary_batches_of_the_wrong_length(tmp_path, length):
    path = tmp_path / "1.bin"
    path.write_bytes(bytes(length))
    with pytest.raises(RamifyError, match=f"{length} bytes long"):
        read_binary_batches([path], 1)
