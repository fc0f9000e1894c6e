"""Images of blood cells with boxes, batches of them, and COCO's average precision.

Shapes: S images, H rows, W columns, N boxes of an image.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

import ramify
from experiments.sidt.detector import Detections, Target, target
from ramify.data.catalog import VARIABLE

CLASSES = 3  # red cells, white cells, platelets


@dataclass(frozen=True)
class Split:
    """Images and their boxes.

    Attributes:
        images: (S, 3, H, W), each channel with mean 0 and deviation 1 over the training images.
        boxes: of each image (N, 4): left, top, right, bottom, in pixels of `images`.
        labels: of each image (N,), 0 to 2.
        listed: the annotations in COCO format, in pixels of the files.
    """

    images: Tensor
    boxes: list[Tensor]
    labels: list[Tensor]
    listed: dict[str, Any]


class Batch(NamedTuple):
    """Images (S, 3, H, W) and the detector's target for them."""

    images: Tensor
    target: Target

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        return Batch(self.images.to(device), Target(*(part.to(device) for part in self.target)))


def folder() -> Path:
    """The folder of the blood-cell data set.

    Returns:
        The folder that has train.json and train/.

    Raises:
        RamifyError: if it does not exist.
    """
    root = Path(os.environ.get(VARIABLE, ".")) / "bccd"
    if not (root / "train.json").exists():
        raise ramify.RamifyError(
            f"{root / 'train.json'} was not found: let {VARIABLE} name the folder that has bccd/."
        )
    return root


def read(root: Path, names: Sequence[str], size: tuple[int, int]) -> list[Split]:
    """Read splits, all normalized by the mean and deviation of the first.

    Args:
        root: folder of the data set.
        names: of the splits, such as train and test.
        size: rows and columns to which images and boxes are resized.

    Returns:
        One split per name.
    """
    splits = [_read(root, name, size) for name in names]
    deviation, mean = torch.std_mean(splits[0].images, dim=(0, 2, 3), keepdim=True)
    for split in splits:
        split.images.sub_(mean).div_(deviation)
    return splits


def _read(root: Path, name: str, size: tuple[int, int]) -> Split:
    listed = json.loads((root / f"{name}.json").read_text())
    images, boxes, labels = [], [], []
    for entry in listed["images"]:
        with Image.open(root / name / entry["file_name"]) as file:
            pixels = np.asarray(file.convert("RGB").resize(size[::-1]), dtype=np.float32)
        images.append(torch.from_numpy(pixels).permute(2, 0, 1))
        mine = [a for a in listed["annotations"] if a["image_id"] == entry["id"]]
        given = torch.tensor([a["bbox"] for a in mine]).reshape(-1, 4)  # left, top, width, height
        corners = torch.cat([given[:, :2], given[:, :2] + given[:, 2:]], dim=1)
        boxes.append(corners / _scale(entry, size))
        labels.append(torch.tensor([a["category_id"] - 1 for a in mine], dtype=torch.long))
    return Split(torch.stack(images), boxes, labels, listed)


def _scale(entry: dict[str, Any], size: tuple[int, int]) -> Tensor:
    """Pixels of the file per pixel of the image, (4,)."""
    return torch.tensor([entry["width"] / size[1], entry["height"] / size[0]]).repeat(2)


def batches(
    split: Split, rows: Tensor, size: int, stride: int, seed: tuple[int, int]
) -> Iterator[Batch]:
    """One pass over shuffled images, each mirrored left-right and top-bottom at random.

    Args:
        split: the images.
        rows: the indices of the images to use.
        size: batch size; an incomplete last batch is dropped.
        stride: pixels of a cell of the detector.
        seed: of the run, and index of the pass.

    Yields:
        Batches.
    """
    height, width = split.images.shape[2:]
    cells = (-(-height // stride), -(-width // stride))
    state = np.random.SeedSequence(seed).generate_state(1, np.uint64)
    generator = torch.Generator().manual_seed(int(state[0]))
    order = rows[torch.randperm(len(rows), generator=generator)]
    for part in order.split(size):
        if len(part) < size:
            return
        images, boxes = split.images[part], [split.boxes[row] for row in part]
        mirror = torch.randint(2, (2,), generator=generator).bool()  # the whole batch
        for axis, length in enumerate((width, height)):
            if mirror[axis]:
                images = images.flip(3 - axis)
                boxes = [mirrored(own, length, axis) for own in boxes]
        labels = [split.labels[row] for row in part]
        yield Batch(images, target(boxes, labels, CLASSES, cells, stride))


def mirrored(boxes: Tensor, length: int, axis: int) -> Tensor:
    """Boxes (N, 4) of a mirrored image: 0 left to right, 1 top to bottom."""
    turned = boxes.clone()
    turned[:, axis], turned[:, axis + 2] = length - boxes[:, axis + 2], length - boxes[:, axis]
    return turned


def precision(split: Split, seen: Sequence[Detections]) -> dict[str, float]:
    """COCO's average precision, by pycocotools.

    Args:
        split: the images.
        seen: the detections in each image.

    Returns:
        "ap", mean over overlaps of 0.5 to 0.95; "ap50"; and "ap" of each class.
    """
    results = []
    size = (split.images.shape[2], split.images.shape[3])
    for entry, found in zip(split.listed["images"], seen, strict=True):
        corners = found.boxes.cpu() * _scale(entry, size)
        boxes = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], dim=1)
        each = zip(boxes.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True)
        results += [
            {"image_id": entry["id"], "category_id": label + 1, "bbox": box, "score": score}
            for box, label, score in each
        ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = split.listed
        truth.createIndex()
        judged = COCOeval(truth, truth.loadRes(results), "bbox")
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    each = judged.eval["precision"][:, :, :, 0, 2]  # overlap, recall, class; all areas, 100 boxes
    named = {
        f"ap {category['name']}": float(each[:, :, k].mean())
        for k, category in enumerate(split.listed["categories"])
    }
    return {"ap": float(judged.stats[0]), "ap50": float(judged.stats[1]), **named}
