import gzip
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ramify.data import NAMES, load
from ramify.errors import RamifyError

RANDOM = np.random.default_rng(0)


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("RAMIFY_DATA", str(tmp_path))
    return tmp_path


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_idx(folder, first_label=0, pack=bytes, ending=""):
    folder.mkdir(parents=True, exist_ok=True)
    for prefix, count in (("train", 4), ("t10k", 2)):
        images = RANDOM.integers(0, 256, (count, 5, 6))
        labels = first_label + np.arange(count)
        (folder / f"{prefix}-images-idx3-ubyte{ending}").write_bytes(pack(idx(images)))
        (folder / f"{prefix}-labels-idx1-ubyte{ending}").write_bytes(pack(idx(labels)))


def write_npz(path, channels, first_label=0):
    images = RANDOM.integers(0, 256, (3, channels, 4, 4), dtype=np.uint8)
    labels = first_label + np.arange(3)
    np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)


def write_batch(path, label_key, labels):
    images = RANDOM.integers(0, 256, (len(labels), 3072), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps({b"data": images, label_key: labels}, 2))


def write_records(path, labels):
    images = RANDOM.integers(0, 256, (len(labels), 3072), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.concatenate([np.array(labels, dtype=np.uint8), images], axis=1).tofile(path)


def test_names():
    images = ("digits", "mnist", "fashion-mnist", "cifar10", "cifar100")
    assert (*images, "caltech20") == NAMES


@pytest.mark.parametrize(
    "name, channels, classes, last",
    [
        ("mnist", 1, 10, "9"),
        ("fashion-mnist", 1, 10, "Ankle boot"),
        ("cifar10", 3, 10, "truck"),
        ("cifar100", 3, 100, "worm"),
    ],
)
def test_npz(root, name, channels, classes, last):
    write_npz(root / f"{name}.npz", channels, first_label=classes - 3)
    data = load(name)
    assert data.name == name
    assert data.shape == (channels, 4, 4)
    assert len(set(data.classes)) == classes
    assert data.classes[-1] == last
    assert data.augment == (channels == 3)
    assert data.y_train.tolist() == [classes - 3, classes - 2, classes - 1]


@pytest.mark.parametrize(
    "name, folder",
    [
        ("mnist", "."),
        ("mnist", "mnist"),
        ("mnist", "MNIST/raw"),
        ("fashion-mnist", "fashion-mnist"),
        ("fashion-mnist", "FashionMNIST/raw"),
    ],
)
@pytest.mark.parametrize("pack, ending", [(bytes, ""), (gzip.compress, ".gz")])
def test_idx(root, name, folder, pack, ending):
    write_idx(root / folder, 3, pack, ending)
    data = load(name)
    assert data.x_train.shape == (4, 1, 5, 6)
    assert data.y_train.tolist() == [3, 4, 5, 6]
    assert data.y_test.tolist() == [3, 4]


def test_sets_with_files_of_the_same_names_are_told_apart(root):
    write_idx(root, 1)
    write_idx(root / "fashion-mnist", 2)
    assert load("mnist").y_train[0] == 1
    assert load("fashion-mnist").y_train[0] == 2
    write_npz(root / "mnist.npz", 1, first_label=5)
    assert load("mnist").y_train[0] == 5


@pytest.mark.parametrize("folder", [".", "cifar10", "cifar-10-batches-py"])
def test_cifar10_python(root, folder):
    for i in range(1, 6):
        write_batch(root / folder / f"data_batch_{i}", b"labels", [i, i + 1])
    write_batch(root / folder / "test_batch", b"labels", [7])
    data = load("cifar10")
    assert data.x_train.shape == (10, 3, 32, 32)
    assert data.y_train.tolist() == [1, 2, 2, 3, 3, 4, 4, 5, 5, 6]
    assert data.y_test.tolist() == [7]


def test_cifar10_binary(root):
    for i in range(1, 6):
        write_records(root / "cifar-10-batches-bin" / f"data_batch_{i}.bin", [[i]])
    write_records(root / "cifar-10-batches-bin" / "test_batch.bin", [[7]])
    data = load("cifar10")
    assert data.y_train.tolist() == [1, 2, 3, 4, 5]
    assert data.y_test.tolist() == [7]


def test_cifar100(root):
    write_batch(root / "cifar-100-python" / "train", b"fine_labels", [99, 1])
    write_batch(root / "cifar-100-python" / "test", b"fine_labels", [50])
    assert load("cifar100").y_train.tolist() == [99, 1]


def test_cifar100_binary(root):
    write_records(root / "train.bin", [[19, 99], [0, 1]])
    write_records(root / "test.bin", [[3, 50]])
    data = load("cifar100")
    assert data.y_train.tolist() == [99, 1]
    assert data.y_test.tolist() == [50]


def test_caltech20(root):
    for split, counts in {"train": (3, 2), "test": (1, 1)}.items():
        for name, count in zip(("ant", "bonsai"), counts, strict=True):
            folder = root / "caltech20" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = RANDOM.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.webp")
    dataset = load("caltech20")
    assert dataset.shape == (3, 8, 8)
    assert dataset.classes == ("ant", "bonsai")
    assert dataset.y_train.tolist() == [0, 0, 0, 1, 1]
    assert dataset.augment


def test_a_whole_set_is_found_beside_half_a_set(root):
    write_idx(root / "mnist" / "raw", 4)
    (root / "mnist" / "train-images-idx3-ubyte").write_bytes(b"")
    assert load("mnist").y_train[0] == 4


def test_labels_of_another_set(root):
    write_npz(root / "cifar10.npz", 3, first_label=50)
    with pytest.raises(RamifyError, match="cifar10 has training labels from 50 to 52"):
        load("cifar10")


def test_unknown_name():
    with pytest.raises(RamifyError) as error:
        load("cifar11")
    assert "unknown data set 'cifar11'" in str(error.value)
    assert all(name in str(error.value) for name in NAMES)
    assert "train/CLASS/*" in str(error.value)


@pytest.mark.parametrize("value", [None, ""])
def test_no_folder_named(monkeypatch, value):
    monkeypatch.delenv("RAMIFY_DATA", raising=False)
    if value is not None:
        monkeypatch.setenv("RAMIFY_DATA", value)
    with pytest.raises(RamifyError, match="RAMIFY_DATA is not set.*digits, which needs no files"):
        load("mnist")


def test_folder_not_there(monkeypatch, tmp_path):
    monkeypatch.setenv("RAMIFY_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(RamifyError, match="nowhere, which is not a folder"):
        load("mnist")


def test_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAMIFY_DATA", "~/sets")
    write_idx(tmp_path / "sets", 2)
    assert load("mnist").y_train[0] == 2


@pytest.mark.parametrize(
    "name, wanted",
    [
        ("mnist", ["mnist.npz", "train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]),
        ("cifar10", ["cifar10.npz", "data_batch_3,", "test_batch or", "data_batch_1.bin"]),
        ("cifar100", ["cifar100.npz", "train, test or train.bin, test.bin"]),
    ],
)
def test_files_not_there(root, name, wanted):
    with pytest.raises(RamifyError) as error:
        load(name)
    assert all(text in str(error.value) for text in wanted)


def test_some_files_not_there(root):
    write_idx(root / "mnist")
    (root / "mnist" / "t10k-images-idx3-ubyte").unlink()
    with pytest.raises(RamifyError, match="but not t10k-images-idx3-ubyte: add what is missing"):
        load("mnist")


def test_a_table_of_another_name_is_to_be_renamed(tmp_path: Path) -> None:
    (tmp_path / "houses.tsv").write_text("area\tprice\n" + "1\t2\n" * 12)
    with pytest.raises(RamifyError, match=r"does not end in .csv: .* rename it to FILE.csv"):
        load(str(tmp_path / "houses.tsv"))
