"""A stranger's data set: an object, a function, a file, each without a word of ours."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import ramify
from ramify.cli import app
from ramify.data import Dataset, as_dataset, batches, load

MODULE = """
import numpy as np


class Stripes:
    'Images of horizontal or vertical stripes: four arrays, and nothing of Ramify.'

    def __init__(self, seed):
        draw = np.random.default_rng(seed)
        y = draw.integers(2, size=120)
        rows = np.tile([1.0, -1.0], 4)
        x = np.where(y[:, None, None] == 1, rows[:, None], rows[None, :])
        x = x[:, None] + draw.normal(scale=0.5, size=(120, 1, 8, 8))
        self.x_train, self.y_train, self.x_test, self.y_test = x[:90], y[:90], x[90:], y[90:]


def load():
    return Stripes(0)


stripes = load()
number = 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A file of the user in the current folder."""
    (tmp_path / "my_data.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("my_data", None)


@pytest.mark.parametrize("name", ["my_data:load", "my_data:stripes"])
def test_a_function_or_an_object(own, name):
    dataset = load(name)
    assert (dataset.name, dataset.shape, dataset.classes) == (name, (1, 8, 8), ("0", "1"))
    assert (dataset.x_train.dtype, dataset.y_test.dtype) == (torch.float32, torch.int64)
    assert (len(dataset.x_train), len(dataset.x_test), dataset.augment) == (90, 30, False)


def test_it_trains_with_grow(own):
    dataset = load("my_data:load")
    net = ramify.models.build("digits_net", dataset_shape=dataset.shape, classes=2, width=2)

    def loss(model, batch):
        return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")

    grown = ramify.grow(
        net,
        dataset.x_train[:1],
        loss,
        lambda epoch: batches(dataset, batch_size=30, seed=0, epoch=epoch),
        method=ramify.RandomSplit(),
        rule=ramify.TopFraction(0.5),
        training=ramify.Training(epochs=2),
        rounds=1,
    )
    assert [event["event"] for event in grown.history] == ["epoch"] * 2 + ["edit"] + [
        *["epoch"] * 2,
        "stop",
    ]


def test_it_trains_by_the_command(own):
    line = "grow --data my_data:load --rounds 1 --epochs 1 --out run --threads 1"
    done = CliRunner().invoke(app, line.split())
    assert done.exit_code == 0, done.output
    assert json.loads(Path("run/config.json").read_text())["data"] == "my_data:load"
    assert Path("run/model.safetensors").is_file()


def named(**changes):
    x, y = torch.zeros(3, 2), torch.tensor([0, 1, 1])
    members = {"x_train": x, "y_train": y, "x_test": x, "y_test": y, **changes}
    return SimpleNamespace(**{key: value for key, value in members.items() if value is not None})


def test_further_members_are_kept():
    images = {"x_train": torch.zeros(3, 1, 4, 4), "x_test": torch.zeros(3, 1, 4, 4)}
    more = {"classes": ["cat", "dog"], "augment": 1, "mean": [0.5], "std": [2.0]}
    made = as_dataset(named(**images, **more), "pets")
    assert (made.classes, made.augment, made.mean, made.std) == (
        *(("cat", "dog"), True),
        *((0.5,), (2.0,)),
    )
    own = Dataset("own", made.x_train, made.y_train, made.x_test, made.y_test, ("a", "b"))
    assert as_dataset(own, "other") is own


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"x_test": None, "y_test": None}, "a SimpleNamespace without x_test, y_test: give an obj"),
        ({"x_train": torch.zeros(3, 2, dtype=torch.uint8)}, "of torch.uint8 and shape .3, 2., whe"),
        ({"x_train": torch.zeros(3)}, r"samples of torch.float32 and shape \(3,\)"),
        ({"y_test": torch.zeros(3)}, "labels of torch.float32"),
        ({"y_train": torch.zeros(3, 2).long()}, r"labels of torch.int64 and shape \(3, 2\)"),
        ({"x_train": np.array([{}])}, "x_train of .* is an array of object, which is not"),
        (
            {"y_train": np.array(["cat", "dog", "cat"])},
            "y_train of .* array of <U3.*from 0, whose names",
        ),
        ({"y_train": torch.tensor([0, 1, -1])}, "training labels from -1 to 1, where 0 to 1 are"),
        ({"classes": 2}, "has classes 2, where a sequence of names is expected"),
        ({"mean": [None]}, "has mean .None., where a sequence of numbers is expected"),
        ({"x_train": torch.full((3, 2), torch.nan)}, "3 training samples with numbers that are"),
        ({"y_test": torch.tensor([0, 1, 7])}, "a label 7 but only 3 training samples"),
        ({"y_train": torch.zeros(3).int(), "y_test": torch.zeros(3).int()}, "every label of mine"),
        ({"classes": ["one"]}, "training labels from 0 to 1, where 0 to 0 are expected"),
        ({"x_test": torch.zeros(3, 5)}, r"shape \(2,\) and test samples of shape \(5,\)"),
        ({"y_test": torch.zeros(2).long()}, "3 test samples and 2 labels"),
    ],
)
def test_what_is_no_data_set(changes, message):
    with pytest.raises(ramify.RamifyError, match=message):
        as_dataset(named(**changes), "mine")


def test_a_number_is_no_data_set(own):
    with pytest.raises(ramify.RamifyError, match="my_data:number is a int without x_train, y_tra"):
        load("my_data:number")
    with pytest.raises(ramify.RamifyError, match="my_data has no 'gone', which the data set"):
        load("my_data:gone")


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("RAMIFY_DATA", str(tmp_path))
    return tmp_path


def write(path, samples, labels=(0, 1, 2, 1)):
    labels = np.asarray(labels)
    np.savez(path, x_train=samples, y_train=labels, x_test=samples[:2], y_test=labels[:2])


@pytest.mark.parametrize(
    "shape, read",
    [
        ((4, 3, 6, 5), (3, 6, 5)),
        ((4, 6, 5, 3), (3, 6, 5)),
        ((4, 6, 5, 1), (1, 6, 5)),
        ((4, 6, 5), (1, 6, 5)),
    ],
)
def test_any_name_of_a_file_of_images(root, shape, read):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    write(root / "flowers.npz", pixels)
    dataset = load("flowers")
    assert (dataset.name, dataset.shape, dataset.classes) == ("flowers", read, ("0", "1", "2"))
    torch.testing.assert_close(dataset.x_train.mean((0, 2, 3)), torch.zeros(read[0]))
    mean, std = torch.tensor(dataset.mean), torch.tensor(dataset.std)
    back = 255 * (dataset.x_train * std[:, None, None] + mean[:, None, None])
    first = pixels[0] if shape[-1] > 3 or len(shape) == 3 else pixels[0].transpose(2, 0, 1)
    np.testing.assert_allclose(back[0], first.reshape(read), atol=0.01)


def test_without_the_folder_no_file_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.delenv("RAMIFY_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "flowers.npz", np.zeros((4, 6, 5), dtype=np.uint8))
    with pytest.raises(ramify.RamifyError, match="unknown data set 'flowers'.* a .npz file in the"):
        load("flowers")


def test_a_file_of_other_samples_is_taken_as_it_is(root):
    samples = np.random.default_rng(0).normal(size=(4, 7))
    write(root / "sensors.npz", samples)
    dataset = load("sensors")
    assert (dataset.shape, dataset.mean) == ((7,), ())
    np.testing.assert_array_equal(dataset.x_train, samples.astype(np.float32))


def test_a_file_of_images_with_other_channels_is_refused(root):
    write(root / "satellite.npz", np.zeros((4, 7, 6, 5), dtype=np.uint8))
    with pytest.raises(ramify.RamifyError, match="has the shape .4, 7, 6, 5., where images with 1"):
        load("satellite")
    write(root / "counts.npz", np.zeros((4, 7), dtype=np.int64))
    with pytest.raises(ramify.RamifyError, match="of type int64, where uint8 is expected"):
        load("counts")
