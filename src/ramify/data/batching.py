"""Batches of a data set that depend only on (seed, epoch), so that resuming is exact.

Shapes: S images in a batch, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ramify.data.dataset import Dataset
from ramify.errors import RamifyError

PAD = 4  # the usual augmentation of CIFAR: shift by up to 4 pixels, mirror half of the images


def batches(
    dataset: Dataset, batch_size: int, seed: int, epoch: int, *, least: int = 2
) -> Iterator[tuple[Tensor, Tensor]]:
    """Iterate once over the training images, shuffled and, if ``dataset.augment``, augmented.

    Order and augmentation come from a separate generator, seeded by (seed, epoch): the global
    random state is neither read nor changed. The last batch holds the remaining images; if these
    are fewer than ``least``, they join the batch before, because batch norm cannot train on one
    value.

    Args:
        dataset: the data set; ``dataset.augment`` turns on random crops after padding by 4, and
            random left-right flips.
        batch_size: images in a batch, S.
        seed: seed of the whole run, 0 or more.
        epoch: number of this pass over the data, 0 or more.
        least: fewest images in the last batch; at most ``batch_size`` counts.

    Returns:
        Iterator of images (S, C, H, W) and labels (S,).

    Raises:
        RamifyError: if ``batch_size`` is less than 1, or ``seed`` or ``epoch`` less than 0.

    Example:
        >>> from ramify.data import load
        >>> images, labels = next(batches(load("digits"), batch_size=32, seed=0, epoch=0))
        >>> images.shape, labels.shape
        (torch.Size([32, 1, 8, 8]), torch.Size([32]))
    """
    if batch_size < 1:
        raise RamifyError(f"the batch size is {batch_size}: give 1 or more.")
    if seed < 0 or epoch < 0:
        raise RamifyError(f"seed {seed} and epoch {epoch} should both be 0 or more.")
    return _batches(dataset, batch_size, seeded(seed, epoch), min(least, batch_size))


def _batches(
    dataset: Dataset, batch_size: int, generator: torch.Generator, least: int
) -> Iterator[tuple[Tensor, Tensor]]:
    order = torch.randperm(len(dataset.y_train), generator=generator)
    for rows in in_parts(order, batch_size, least):
        images = dataset.x_train[rows]
        if dataset.augment:
            images = crop_and_flip(images, generator)
        yield images, dataset.y_train[rows]


def in_parts(rows: Tensor, size: int, least: int) -> list[Tensor]:
    """Split sample indices into parts; a last part that is too small joins the one before it.

    Args:
        rows: the indices, (N,).
        size: samples in a part.
        least: fewest samples in the last part, if there are several parts.

    Returns:
        The parts.

    Example:
        >>> [len(part) for part in in_parts(torch.arange(9), size=4, least=2)]
        [4, 5]
    """
    parts = list(rows.split(size))
    if len(parts) > 1 and len(parts[-1]) < least:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def seeded(*seeds: int) -> torch.Generator:
    """A new generator seeded by these numbers; their order matters."""
    # SeedSequence mixes them, so that (0, 1) and (1, 0) give unrelated streams.
    state = np.random.SeedSequence(seeds).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def crop_and_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift every image randomly by up to 4 pixels each way and mirror it with probability 1/2.

    Pixels that a shift uncovers are 0, the mean colour of normalised images.

    Args:
        images: (S, C, H, W).
        generator: the generator from which the S shifts and flips are drawn.

    Returns:
        New images (S, C, H, W).
    """
    count, channels, height, width = images.shape
    # Every image is a window of the padded one, shifted by its own number of rows and columns; a
    # mirrored image reads its columns from right to left. One gather takes all windows at once.
    padded = functional.pad(images, (PAD, PAD, PAD, PAD))
    shifts = torch.randint(0, 2 * PAD + 1, (2, count, 1), generator=generator)
    mirror = torch.randint(0, 2, (count, 1), generator=generator).bool()
    across = torch.arange(width)
    rows = shifts[0] + torch.arange(height)
    columns = shifts[1] + torch.where(mirror, across.flip(0), across)
    width_padded = width + 2 * PAD
    places = (rows[:, :, None] * width_padded + columns[:, None, :]).view(count, 1, height * width)
    crops = padded.flatten(2).gather(2, places.expand(-1, channels, -1))
    return crops.view(images.shape)


def cutout(images: Tensor, side: int, seeds: tuple[int, ...]) -> Tensor:
    """Set a square around a random pixel of every image to 0.

    A square at the border is clipped there, so it may be smaller.

    Args:
        images: (S, C, H, W).
        side: side of the square, in pixels.
        seeds: numbers that determine the draw, such as seed, epoch and number of the batch.

    Returns:
        New images (S, C, H, W).

    Example:
        >>> cut = cutout(torch.ones(2, 1, 8, 8), side=4, seeds=(0, 0))
        >>> cut.shape, bool((cut == 0).any())
        (torch.Size([2, 1, 8, 8]), True)

    Source: T. DeVries and G. W. Taylor, "Improved regularization of convolutional neural networks
    with cutout", 2017.
    """
    count, _, height, width = images.shape
    generator = seeded(*seeds)
    # The rows and the columns that the square covers; a pixel in both is set to 0.
    inside = []
    for size in (height, width):
        first = torch.randint(size, (count, 1), generator=generator) - side // 2
        places = torch.arange(size)
        inside.append((places >= first) & (places < first + side))
    square = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return images.masked_fill(square.to(images.device), 0.0)
