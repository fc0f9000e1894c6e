from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ramify.data.dataset import Dataset, RawSplit, as_dataset, from_raw
from ramify.errors import RamifyError


def raw(count, shape=(2, 3, 4), labels=None, seed=0):
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (count, *shape), dtype=np.uint8)
    return RawSplit(pixels, np.arange(count) % 3 if labels is None else np.asarray(labels))


def test_normalisation_is_that_of_the_training_images():
    train, test = raw(1203), raw(5, seed=1)
    data = from_raw("set", train, test, ("a", "b", "c"))
    scaled = train.pixels.astype(np.float64) / 255
    mean, std = scaled.mean((0, 2, 3)), scaled.std((0, 2, 3))
    assert data.mean == pytest.approx(mean.tolist(), rel=1e-12)
    assert data.std == pytest.approx(std.tolist(), rel=1e-12)
    for ours, pixels in [(data.x_train, train.pixels), (data.x_test, test.pixels)]:
        expected = (pixels / 255 - mean[:, None, None]) / std[:, None, None]
        np.testing.assert_allclose(ours.numpy(), expected, atol=2e-6)


def test_full_scale_only_moves_the_constants():
    train, test = raw(9), raw(9)
    fine, coarse = (
        from_raw("set", train, test, ("a", "b", "c"), full_scale=scale) for scale in (255, 51)
    )
    assert coarse.mean == pytest.approx([5 * value for value in fine.mean])
    torch.testing.assert_close(coarse.x_train, fine.x_train, atol=1e-6, rtol=1e-6)


def test_constant_channel_is_only_shifted():
    train, test = raw(6), raw(6)
    train.pixels[:, 1] = 7
    data = from_raw("set", train, test, ("a", "b", "c"))
    assert torch.equal(data.x_train[:, 1], torch.zeros(6, 3, 4))
    assert data.std[1] == 1.0
    assert data.x_test.isfinite().all()


def test_files_of_other_memory_order_become_contiguous():
    channels_last = RawSplit(raw(6, (3, 4, 2)).pixels.transpose(0, 3, 1, 2), np.arange(6) % 3)
    assert from_raw("set", channels_last, channels_last, ("a", "b", "c")).x_train.is_contiguous()


@pytest.mark.parametrize(
    "train, test, message",
    [
        (raw(0), raw(3), "set has no training samples"),
        (raw(3), raw(0), "set has no test samples"),
        (raw(3, labels=[0, 1]), raw(3), "3 training samples and 2 labels"),
        (raw(3, labels=[0, 1, 3]), raw(3), "training labels from 0 to 3, where 0 to 2"),
        (raw(3), raw(2, labels=[-1, 1]), "test labels from -1 to 1"),
        (raw(3), raw(3, (2, 4, 4)), "which should be the same"),
    ],
)
def test_splits_that_do_not_fit(train, test, message):
    with pytest.raises(RamifyError, match=message):
        from_raw("set", train, test, ("a", "b", "c"))


def test_a_data_set_prints_as_one_line() -> None:
    x, y = torch.zeros(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
    flowers = Dataset("flowers", x, y, x[:1], y[:1], ("rose", "lily", "iris"))
    assert str(flowers) == (
        "classification of flowers: 3 classes, samples of shape (3, 8, 8), 4 to train on and 1 to "
        "test"
    )
    one = SimpleNamespace(x_train=x, y_train=y / 2, x_test=x, y_test=y / 2)
    assert str(as_dataset(one, "halves")).startswith("regression of halves: one target, samples")


def test_labels_that_no_training_sample_has_are_told() -> None:
    x, y = torch.zeros(6, 2), torch.tensor([1, 2, 3, 1, 2, 3])
    told = as_dataset(SimpleNamespace(x_train=x, y_train=y, x_test=x, y_test=y), "mine").unseen()
    assert told is not None
    assert "no training sample of mine has the label 0, so" in told
    counted = SimpleNamespace(x_train=x, y_train=y - 1, x_test=x, y_test=y - 1)
    assert as_dataset(counted, "mine").unseen() is None
    images, masks = torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4).long()
    masks[:, 0] = 255
    masks[:, 1] = -100
    holed = SimpleNamespace(x_train=images, y_train=masks, x_test=images, y_test=masks)
    told = as_dataset(holed, "holes").unseen()
    assert told is not None
    assert "any of the 254 labels 1, 2, 3, 4, 5, ..., so" in told
    assert "pixels with the label -100 are ignored" in told
