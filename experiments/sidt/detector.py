"""An anchor-free detector on a Swin backbone: box centres, and distances to the sides of a box.

Shapes: S images, K classes, C channels of the neck, H rows and W columns of cells, N boxes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ramify.models.swin import library

SHRUNK = 0.54 / 6  # deviation of a centre's Gaussian over the side of its box, as in TTFNet
NEAR = 0.01  # of the Gaussian, above which a cell says the box
PRIOR = 0.1  # what a fresh detector says of every cell
LONGEST = 6.0  # of the logarithm of a distance in cells: exp must not overflow at the start
BOXES = 5.0  # weight of the boxes beside the centres, as in TTFNet


class Target(NamedTuple):
    """The target of a detector for a batch of images.

    Attributes:
        heat: 1 at the cells of centres, falling off around them, (S, K, H, W).
        sides: distances to left, top, right and bottom of the box, in pixels, (S, 4, H, W).
        weights: of each cell's box; the weights of one box sum to 1, (S, H, W).
    """

    heat: Tensor
    sides: Tensor
    weights: Tensor


class SwinDetector(nn.Module):
    """The stages of a Swin, added from coarse to fine, two convolutions, two heads.

    Args:
        config: a ``transformers.SwinConfig``; all its stages are used, finest first.
        classes: number of object classes, K.
        width: channels of the neck, C, a multiple of 8.

    Raises:
        RamifyError: if transformers is not installed.

    Source: the centres of CenterNet (X. Zhou and others, "Objects as points", 2019), the boxes of
    TTFNet (Z. Liu and others, "Training-time-friendly network for real-time object detection",
    AAAI 2020), the neck of T.-Y. Lin and others, "Feature pyramid networks", CVPR 2017.
    """

    def __init__(self, config: Any, classes: int, width: int = 64) -> None:
        super().__init__()
        self.stride = config.patch_size
        config = copy.deepcopy(config)  # the caller's stays as it is
        config.out_features = [f"stage{number}" for number in range(1, len(config.depths) + 1)]
        self.backbone = library().SwinBackbone(config)
        sizes = [config.embed_dim * 2**stage for stage in range(len(config.depths))]
        self.laterals = nn.ModuleList(nn.Conv2d(size, width, 1) for size in sizes)
        self.tower = nn.Sequential(*_layer(width), *_layer(width))
        self.centers = nn.Conv2d(width, classes, 1)
        self.sides = nn.Conv2d(width, 4, 1)
        nn.init.constant_(self.centers.bias, math.log(PRIOR / (1 - PRIOR)))  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The predictions at every cell, one cell per patch.

        Args:
            images: (S, 3, stride * H, stride * W).

        Returns:
            Logits of centres (S, K, H, W) and distances to the four sides in pixels (S, 4, H, W).
        """
        stages = self.backbone(images).feature_maps
        merged = self.laterals[-1](stages[-1])
        for lateral, stage in zip(self.laterals[-2::-1], stages[-2::-1], strict=True):
            merged = lateral(stage) + functional.interpolate(merged, size=stage.shape[2:])
        seen = self.tower(merged)
        sides = self.stride * self.sides(seen).clamp(max=LONGEST).exp()
        return self.centers(seen), sides


def _layer(width: int) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
    return conv, nn.GroupNorm(8, width), nn.ReLU()


def target(
    boxes: Sequence[Tensor],
    labels: Sequence[Tensor],
    classes: int,
    cells: tuple[int, int],
    stride: int,
) -> Target:
    r"""The target of a detector for these boxes.

    .. math:: G(x, y) = \exp(-(x - c_x)^2 / 2σ_x^2 - (y - c_y)^2 / 2σ_y^2), σ = 0.54 / 6 \cdot side

    with the cell of the centre as (c_x, c_y); where boxes overlap, the smallest is used.

    Args:
        boxes: of each image (N, 4): left, top, right, bottom, in pixels.
        labels: of each image (N,), 0 to K - 1.
        classes: K.
        cells: H and W.
        stride: pixels per cell.

    Returns:
        The target, on the device of the boxes.
    """
    pairs = zip(boxes, labels, strict=True)
    parts = [_target(own, label, classes, cells, stride) for own, label in pairs]
    return Target(*(torch.stack(field) for field in zip(*parts, strict=True)))


def _target(
    boxes: Tensor, labels: Tensor, classes: int, cells: tuple[int, int], stride: int
) -> Target:
    """The target of one image."""
    middle, across, down = _grid(cells, stride, boxes.device)
    heat = boxes.new_zeros(classes, *cells)
    if not len(boxes):
        return Target(heat, boxes.new_ones(4, *cells), boxes.new_zeros(cells))
    size = boxes[:, 2:] - boxes[:, :2]
    order = size.prod(1).argsort(descending=True)
    boxes, labels, size = boxes[order], labels[order], size[order]
    last = boxes.new_tensor([cells[1] - 1, cells[0] - 1])
    center = ((boxes[:, :2] + boxes[:, 2:]) / 2 / stride).floor().clamp(min=0).minimum(last)
    deviation = SHRUNK * size.clamp(min=1) / stride
    offsets = torch.stack([across, down]) - center[:, :, None, None]  # (N, 2, H, W)
    gauss = torch.exp(-(offsets / deviation[:, :, None, None]).square().sum(1) / 2)
    for label in labels.unique().tolist():
        heat[label] = gauss[labels == label].amax(0)
    meant = gauss * (gauss > NEAR)
    share = meant / meant.sum((1, 2), keepdim=True)
    numbers = torch.arange(len(boxes), device=boxes.device)[:, None, None]
    owner = (numbers * (meant > 0)).amax(0, keepdim=True)  # the smallest box is the last
    corners = boxes[owner[0]].permute(2, 0, 1)
    sides = torch.cat([middle - corners[:2], corners[2:] - middle])
    return Target(heat, sides, share.gather(0, owner)[0])


def _grid(
    cells: tuple[int, int], stride: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Cell centres in pixels (2, H, W): x, y; and their columns and rows."""
    down, across = torch.meshgrid(
        torch.arange(cells[0], device=device, dtype=torch.float32),
        torch.arange(cells[1], device=device, dtype=torch.float32),
        indexing="ij",
    )
    return stride * (torch.stack([across, down]) + 0.5), across, down


def detection_loss(found: tuple[Tensor, Tensor], wanted: Target) -> Tensor:
    r"""One loss per image, divided by its number of boxes: focal loss of centres and GIoU of boxes.

    .. math:: -\sum_{h=1} (1 - p)^2 \log p - \sum_{h<1} (1 - h)^4 p^2 \log(1 - p)
              + 5 \sum_i w_i (1 - GIoU_i)

    Args:
        found: logits (S, K, H, W) and sides (S, 4, H, W).
        wanted: the target.

    Returns:
        (S,).

    Source: H. Law and J. Deng, "CornerNet", ECCV 2018, equation (1); TTFNet, equation (7), here
    with one weight for every box; H. Rezatofighi and others, "Generalized intersection over
    union", CVPR 2019.
    """
    logits, sides = found
    p, heat = logits.sigmoid(), wanted.heat
    at = -((1 - p) ** 2) * functional.logsigmoid(logits)
    off = -((1 - heat) ** 4) * p**2 * functional.logsigmoid(-logits)
    centers = torch.where(heat == 1, at, off).sum((1, 2, 3))
    boxes = (wanted.weights * (1 - giou(sides, wanted.sides))).sum((1, 2))
    count = (heat == 1).sum((1, 2, 3)).clamp(min=1)
    return (centers + BOXES * boxes) / count


def giou(first: Tensor, second: Tensor) -> Tensor:
    """Generalized intersection over union of boxes around the same point.

    Args:
        first: distances to left, top, right and bottom of a box, (S, 4, H, W).
        second: the same of another.

    Returns:
        (S, H, W), from -1 to 1.
    """
    common, hull = torch.minimum(first, second), torch.maximum(first, second)

    def area(sides: Tensor) -> Tensor:
        return (sides[:, 0] + sides[:, 2]).clamp(min=0) * (sides[:, 1] + sides[:, 3]).clamp(min=0)

    both = area(common)
    union = area(first) + area(second) - both
    around = area(hull)
    return both / union.clamp(min=1e-6) - (around - union) / around.clamp(min=1e-6)


class Detections(NamedTuple):
    """The detections in one image, highest score first.

    Attributes:
        boxes: (N, 4), left, top, right, bottom, in pixels of the image.
        labels: (N,).
        scores: (N,), 0 to 1.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor


def decode(found: tuple[Tensor, Tensor], stride: int, most: int = 100) -> list[Detections]:
    """Boxes at the peaks of the heat map: cells that no neighbour of the same class exceeds.

    Args:
        found: logits (S, K, H, W) and sides (S, 4, H, W).
        stride: pixels per cell.
        most: maximum number of boxes per image.

    Returns:
        The detections of each image.
    """
    logits, sides = found
    heat = logits.sigmoid()
    peaks = heat * (functional.max_pool2d(heat, 3, stride=1, padding=1) == heat)
    cells = (heat.shape[2], heat.shape[3])
    middle = _grid(cells, stride, heat.device)[0].flatten(1)  # (2, H * W)
    scores, places = peaks.flatten(1).topk(min(most, peaks[0].numel()))
    seen = []
    for own, place, distance in zip(scores, places, sides.flatten(2), strict=True):
        cell = place % middle.shape[1]
        left_top = middle[:, cell] - distance[:2, cell]
        right_bottom = middle[:, cell] + distance[2:, cell]
        seen.append(
            Detections(torch.cat([left_top, right_bottom]).T, place // middle.shape[1], own)
        )
    return seen
