import pytest
import torch
from torch.nn import functional

from ramify.data import Dataset, batches
from ramify.data.batching import crop_and_flip, cutout
from ramify.errors import RamifyError


def dataset(count, augment=False):
    images = torch.randn(count, 2, 6, 5)
    return Dataset("set", images, torch.arange(count), images[:1], torch.zeros(1), (), augment)


def drawn(data, batch_size=4, seed=0, epoch=0):
    return list(batches(data, batch_size, seed, epoch))


@pytest.mark.parametrize(
    "count, batch_size, sizes",
    [
        (8, 4, [4, 4]),
        (10, 4, [4, 4, 2]),
        (9, 4, [4, 5]),
        (1, 4, [1]),
        (3, 1, [1, 1, 1]),
        (3, 10, [3]),
    ],
)
def test_sizes(count, batch_size, sizes):
    assert [len(labels) for _, labels in drawn(dataset(count), batch_size)] == sizes


def test_every_image_once_with_its_label_in_another_order():
    data = dataset(50)
    images, labels = (torch.cat(parts) for parts in zip(*drawn(data), strict=True))
    assert sorted(labels.tolist()) == list(range(50))
    assert labels.tolist() != list(range(50))
    assert torch.equal(images, data.x_train[labels])


@pytest.mark.parametrize("augment", [False, True])
def test_depends_on_seed_and_epoch_alone(augment):
    data = dataset(30, augment)
    first = drawn(data, seed=3, epoch=5)
    torch.manual_seed(99)
    again = drawn(data, seed=3, epoch=5)
    assert all(
        torch.equal(x[0], y[0]) and torch.equal(x[1], y[1])
        for x, y in zip(first, again, strict=True)
    )
    for seed, epoch in [(3, 6), (4, 5), (5, 3)]:
        other = drawn(data, seed=seed, epoch=epoch)
        assert not all(torch.equal(x[1], y[1]) for x, y in zip(first, other, strict=True))


def test_global_random_state_is_left_alone():
    data = dataset(30, augment=True)
    before = torch.get_rng_state()
    drawn(data)
    assert torch.equal(torch.get_rng_state(), before)


def test_augmentation_is_applied_only_where_asked():
    data = dataset(12, augment=True)
    before = data.x_train.clone()
    (images, labels), *_ = drawn(data, batch_size=12)
    assert images.shape == (12, 2, 6, 5)
    assert not torch.equal(images, data.x_train[labels])
    assert torch.equal(data.x_train, before)


def crops(image):
    """All 81 shifts of one image, plain and mirrored, by slicing."""
    padded = functional.pad(image, (4, 4, 4, 4))
    _, height, width = image.shape
    for down in range(9):
        for right in range(9):
            crop = padded[:, down : down + height, right : right + width]
            yield (down, right, False), crop
            yield (down, right, True), crop.flip(2)


def test_augmented_images_are_crops_and_all_crops_occur():
    image = torch.rand(2, 6, 5) + 1
    augmented = crop_and_flip(image.expand(3000, -1, -1, -1), torch.Generator().manual_seed(0))
    known = {tuple(crop.flatten().tolist()): key for key, crop in crops(image)}
    assert len(known) == 162
    counts = dict.fromkeys(known.values(), 0)
    for row in augmented:
        counts[known[tuple(row.flatten().tolist())]] += 1
    assert min(counts.values()) > 0  # 18.5 expected of each
    assert 1350 < sum(count for key, count in counts.items() if key[2]) < 1650


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((0, 0, 0), "batch size is 0"),
        ((4, -1, 0), "seed -1"),
        ((4, 0, -1), "epoch -1"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(RamifyError, match=message):
        batches(dataset(4), *arguments)


def test_a_square_is_cut_out_around_a_pixel_drawn_evenly():
    images = torch.ones(2000, 2, 6, 9)
    cut = cutout(images, 4, (1, 2))
    sizes, corners = [], []
    for image in cut:
        assert torch.equal(image[0], image[1])
        rows, columns = (image[0] == 0).nonzero(as_tuple=True)
        height, width = (int(v.max() - v.min()) + 1 for v in (rows, columns))
        assert len(rows) == height * width  # one whole rectangle
        sizes.append((height, width))
        corners.append((int(rows.min()), int(columns.max())))
    # Centres 0..5 with 2 before them and 1 behind: 2, 3, 4, 4, 4, 3 rows are left of 4.
    heights = [sum(size[0] == n for size in sizes) / 2000 for n in (2, 3, 4)]
    assert heights == pytest.approx([1 / 6, 2 / 6, 3 / 6], abs=0.04)
    assert max(size[1] for size in sizes) == 4
    assert {right for _, right in corners} == set(range(1, 9))
    assert torch.equal(cut, cutout(images, 4, (1, 2)))
    assert not torch.equal(cut, cutout(images, 4, (2, 1)))
    assert (images == 1).all()
