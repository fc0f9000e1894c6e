import pytest
import torch
from sklearn.datasets import load_digits

from ramify.data import load


def test_shapes_types_and_classes():
    digits = load("digits")
    assert digits.name == "digits"
    assert digits.x_train.shape == (1437, 1, 8, 8)
    assert digits.x_test.shape == (360, 1, 8, 8)
    assert digits.x_train.dtype == torch.float32
    assert digits.y_train.dtype == torch.int64
    assert digits.classes == tuple("0123456789")
    assert digits.shape == (1, 8, 8)
    assert not digits.augment


def test_every_image_is_in_exactly_one_split():
    digits = load("digits")
    both = torch.cat([digits.x_train, digits.x_test])
    pixels = ((both * digits.std[0] + digits.mean[0]) * 16).round().flatten(1)
    labels = torch.cat([digits.y_train, digits.y_test])
    ours = sorted(
        (*row, label) for row, label in zip(pixels.tolist(), labels.tolist(), strict=True)
    )
    images, targets = load_digits(return_X_y=True)
    theirs = sorted((*row, label) for row, label in zip(images.tolist(), targets, strict=True))
    assert ours == theirs


def test_split_is_stratified():
    digits = load("digits")
    total = (digits.y_train.bincount() + digits.y_test.bincount()).float()
    assert (digits.y_test.bincount() - total * 360 / 1797).abs().max() <= 1


def test_normalised_by_the_training_images():
    digits = load("digits")
    assert digits.x_train.double().mean().item() == pytest.approx(0, abs=1e-6)
    assert digits.x_train.double().std(correction=0).item() == pytest.approx(1, abs=1e-6)
    assert digits.x_test.mean().item() != pytest.approx(0, abs=1e-6)


def test_seed_chooses_the_split():
    assert torch.equal(load("digits").x_test, load("digits", seed=0).x_test)
    assert not torch.equal(load("digits", seed=1).x_test, load("digits", seed=0).x_test)
