import numpy as np
import pytest

from ramify.data import load
from ramify.data.npz import load_npz, read_npz
from ramify.errors import RamifyError

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 3, 6, 5), dtype=np.uint8)
LABELS = np.array([2, 0, 1, 1])


def write(path, **changes):
    arrays = {
        "x_train": IMAGES,
        "y_train": LABELS,
        "x_test": IMAGES[:2],
        "y_test": LABELS[:2],
        **changes,
    }
    np.savez_compressed(path, **{key: array for key, array in arrays.items() if array is not None})
    return path


def grey(images):
    return {"x_train": images, "x_test": images[:2]}


@pytest.mark.parametrize(
    "changes, channels, pixels",
    [
        ({}, 3, IMAGES),
        (grey(IMAGES.transpose(0, 2, 3, 1)), 3, IMAGES),
        (grey(IMAGES[:, :1]), 1, IMAGES[:, :1]),
        (grey(IMAGES[:, 0, :, :, None]), 1, IMAGES[:, :1]),
        (grey(IMAGES[:, 0]), 1, IMAGES[:, :1]),
    ],
)
def test_layouts(tmp_path, changes, channels, pixels):
    train, test = read_npz(write(tmp_path / "set.npz", **changes), channels)
    assert np.array_equal(train.pixels, pixels)
    assert np.array_equal(test.pixels, pixels[:2])
    assert train.labels.tolist() == [2, 0, 1, 1]
    assert test.labels.tolist() == [2, 0]


@pytest.mark.parametrize("labels", [LABELS.astype(np.uint8), LABELS[:, None]])
def test_label_forms(tmp_path, labels):
    train, _ = read_npz(write(tmp_path / "set.npz", y_train=labels), 3)
    assert train.labels.tolist() == [2, 0, 1, 1]
    assert train.labels.dtype == np.int64


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"x_test": None, "y_test": None}, "has no x_test, y_test"),
        ({"x_train": IMAGES / 255}, "x_train .* of type float64, where uint8"),
        ({"x_test": IMAGES[:, 0]}, r"x_test .* shape \(4, 6, 5\).*with 3 channel"),
        ({"x_train": IMAGES[:, :2]}, r"shape \(4, 2, 6, 5\)"),
        ({"y_train": np.eye(4)}, r"y_train .* float64 and shape \(4, 4\)"),
        ({"y_test": np.array([0.0, 1.0])}, "y_test .* float64"),
        ({"y_test": np.array([{}, {}], dtype=object)}, "not a whole .npz file of plain arrays"),
    ],
)
def test_wrong_arrays(tmp_path, changes, message):
    with pytest.raises(RamifyError, match=message):
        read_npz(write(tmp_path / "set.npz", **changes), 3)


@pytest.mark.parametrize("keep", [0, 0.1, 0.5, 0.99])
def test_damaged(tmp_path, keep):
    path = write(tmp_path / "set.npz")
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(RamifyError, match="not a whole .npz file"):
        read_npz(path, 3)


def test_damaged_inside(tmp_path):
    path = write(tmp_path / "set.npz")
    content = bytearray(path.read_bytes())
    content[200:300] = bytes(100)
    path.write_bytes(content)
    with pytest.raises(RamifyError, match="not a whole .npz file"):
        read_npz(path, 3)


def test_single_array_in_place_of_several(tmp_path):
    path = tmp_path / "set.npz"
    with path.open("wb") as file:
        np.save(file, IMAGES)
    with pytest.raises(RamifyError, match="not a whole .npz file"):
        read_npz(path, 3)


@pytest.mark.parametrize(("place", "value"), [(8, 1), (10, 99)])
def test_entries_that_python_cannot_unpack(tmp_path, place, value):
    path = write(tmp_path / "set.npz")
    content = bytearray(path.read_bytes())
    entry = content.find(b"PK\x01\x02")  # of the list of contents, at the end of the file
    content[entry + place] = value  # the flag of encryption, and the kind of packing
    path.write_bytes(content)
    with pytest.raises(RamifyError, match="not a whole .npz file"):
        read_npz(path, 3)


def test_tokens_without_end_are_refused_before_memory_is_taken(tmp_path):
    tokens = np.full((4, 6), 2**40)
    changes = {f"{name}_{split}": tokens for name in "xy" for split in ("train", "test")}
    with pytest.raises(RamifyError, match="a label or token 1099511627776, where 16777215 is the"):
        load_npz(write(tmp_path / "set.npz", **changes))


def test_the_path_of_a_file_where_its_name_is_expected(tmp_path):
    path = write(tmp_path / "set.npz")
    with pytest.raises(RamifyError, match="is a file, .* give 'set', and its folder as the envi"):
        load(str(path))
