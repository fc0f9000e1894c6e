"""EfficientNet-Lite0 on the 20 largest classes of Caltech-101: network, images and batches."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

Images = tuple[Tensor, Tensor]
"""Pixels (N, 3, H, W) and classes (N,)."""


def images(folder: Path, size: int = 128) -> Images:
    """Every image of a split, in [-1, 1], and its class.

    Args:
        folder: a folder with one sub-folder per class.
        size: side of an image, in pixels.

    Returns:
        Pixels and classes.
    """
    classes = sorted(path.name for path in folder.iterdir())
    files = [
        (path, n) for n, name in enumerate(classes) for path in sorted((folder / name).iterdir())
    ]
    pixels = torch.from_numpy(np.stack([_pixels(path, size) for path, _ in files]))
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1, torch.tensor([n for _, n in files])


def _pixels(path: Path, size: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    picture = Image.open(path).convert("RGB")
    return np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC))


def network(weights: Path, classes: int = 20) -> nn.Module:
    """The fine-tuned network, in eval mode and channels last.

    Args:
        weights: a safetensors file of its weights.
        classes: number of outputs.

    Returns:
        The network.
    """
    model, state = architecture(classes), load_file(weights)
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    return model.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def architecture(classes: int) -> nn.Module:
    """The newly initialised network with this many outputs."""
    kind = importlib.import_module("efficientnet_lite_pytorch").EfficientNet
    model: nn.Module = kind.from_name("efficientnet-lite0")
    model._fc = nn.Linear(model._fc.in_features, classes)  # type: ignore[union-attr,arg-type]
    return model


def loss(model: nn.Module, batch: Images) -> Tensor:
    """Cross-entropy, one number per sample, (S,)."""
    return functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


def smoothed(model: nn.Module, batch: Images) -> Tensor:
    """Cross-entropy with label smoothing of 0.1, (S,)."""
    return functional.cross_entropy(
        model(batch[0]), batch[1], reduction="none", label_smoothing=0.1
    )


@torch.inference_mode()
def tested(model: nn.Module, data: Images) -> tuple[float, float]:
    """(accuracy in percent, mean loss) of a model."""
    model.eval()
    out = torch.cat([model(x) for x, _ in parts(data)])
    accuracy = 100 * float((out.argmax(1) == data[1]).double().mean())
    return accuracy, float(functional.cross_entropy(out, data[1]))


def parts(data: Images, order: Tensor | None = None, size: int = 64) -> Iterator[Images]:
    """Batches of images without augmentation, channels last; all, or those in ``order``."""
    for part in (torch.arange(len(data[1])) if order is None else order).split(size):
        yield data[0][part].contiguous(memory_format=torch.channels_last), data[1][part]


def sample(data: Images, seed: int, count: int = 256) -> list[Images]:
    """Random images in batches of 64 (files are ordered by class)."""
    return list(parts(data, _shuffled(data, seed)[:count]))


def halves(data: Images, held: int, seed: int = 1234) -> tuple[Images, Images]:
    """(images to fine-tune on, `held` images to choose a recipe on)."""
    order = _shuffled(data, seed)
    return tuple((data[0][own], data[1][own]) for own in (order[held:], order[:held]))  # type: ignore[return-value]


def epoch(data: Images, seed: Sequence[int], size: int = 32) -> Iterator[Images]:
    """Every image once in random order, half of them mirrored.

    Args:
        data: the images.
        seed: integers that determine order and mirroring: the seed of the run and the epoch.
        size: images per batch.

    Yields:
        Batches.
    """
    generator = torch.Generator().manual_seed(sum(n * 1000**k for k, n in enumerate(seed)))
    order = torch.randperm(len(data[1]), generator=generator)
    mirrored = torch.randint(2, order.shape, generator=generator).bool()
    for part, mirror in zip(order.split(size), mirrored.split(size), strict=True):
        x = torch.where(mirror[:, None, None, None], data[0][part].flip(3), data[0][part])
        yield x.contiguous(memory_format=torch.channels_last), data[1][part]


def _shuffled(data: Images, seed: int) -> Tensor:
    return torch.randperm(len(data[1]), generator=torch.Generator().manual_seed(seed))
