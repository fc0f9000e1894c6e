"""The detector: targets, loss and boxes against loops; it learns where things are."""

from __future__ import annotations

import math

import pytest
import torch
from torch.optim import AdamW

pytest.importorskip("transformers", reason="needs the extra: pip install 'ramify[transformers]'")
from transformers import SwinConfig

from experiments.sidt.detector import (
    SwinDetector,
    Target,
    decode,
    detection_loss,
    giou,
    target,
)

BOXES = [
    torch.tensor([[2.0, 4.0, 22.0, 12.0], [8.0, 8.0, 14.0, 12.0], [20.0, 14.0, 24.0, 16.0]]),
    torch.zeros(0, 4),
]
LABELS = [torch.tensor([0, 1, 0]), torch.zeros(0, dtype=torch.long)]
CELLS, STRIDE = (4, 6), 4


def wanted() -> Target:
    return target(BOXES, LABELS, classes=2, cells=CELLS, stride=STRIDE)


def test_targets_are_those_of_a_loop() -> None:
    made = wanted()
    heat, weights = torch.zeros(2, *CELLS), torch.zeros(CELLS)
    sides = torch.zeros(4, *CELLS)
    order = sorted(range(3), key=lambda n: -float((BOXES[0][n, 2:] - BOXES[0][n, :2]).prod()))
    gauss, total = {}, {}
    for n in order:
        left, top, right, bottom = BOXES[0][n].tolist()
        column, row = (left + right) // 8, (top + bottom) // 8
        for y in range(CELLS[0]):
            for x in range(CELLS[1]):
                a = (x - column) / (0.09 * (right - left) / STRIDE)
                b = (y - row) / (0.09 * (bottom - top) / STRIDE)
                gauss[n, y, x] = math.exp(-(a * a + b * b) / 2)
                heat[LABELS[0][n], y, x] = max(heat[LABELS[0][n], y, x].item(), gauss[n, y, x])
        total[n] = sum(v for (k, *_), v in gauss.items() if k == n and v > 0.01)
        for y in range(CELLS[0]):
            for x in range(CELLS[1]):
                if gauss[n, y, x] > 0.01:
                    weights[y, x] = gauss[n, y, x] / total[n]
                    middle = [4 * x + 2, 4 * y + 2]
                    own = [middle[0] - left, middle[1] - top, right - middle[0], bottom - middle[1]]
                    sides[:, y, x] = torch.tensor(own)
    assert torch.allclose(made.heat[0], heat, atol=1e-6)
    assert torch.allclose(made.weights[0], weights, atol=1e-6)
    assert torch.allclose(made.sides[0] * (weights > 0), sides)
    assert (made.heat == 1).sum() == 3
    assert weights.sum() < 3  # a cell of the first box is the second's
    assert not made.heat[1].any()
    assert not made.weights[1].any()


def test_overlaps_of_boxes_around_a_point() -> None:
    torch.manual_seed(0)
    first, second = torch.rand(2, 40, 4, 1, 1, dtype=torch.float64) - 0.2
    first[:, 2:] += 0.4
    second[:, 2:] += 0.4
    for a, b, seen in zip(first.flatten(1), second.flatten(1), giou(first, second), strict=True):
        box_a, box_b = [-a[0], -a[1], a[2], a[3]], [-b[0], -b[1], b[2], b[3]]
        area = [float((box[2] - box[0]) * (box[3] - box[1])) for box in (box_a, box_b)]
        low = [max(p, q) for p, q in zip(box_a[:2], box_b[:2], strict=True)]
        high = [min(p, q) for p, q in zip(box_a[2:], box_b[2:], strict=True)]
        both = float((high[0] - low[0]).clamp(min=0) * (high[1] - low[1]).clamp(min=0))
        union = sum(area) - both
        wide = max(box_a[2], box_b[2]) - min(box_a[0], box_b[0])
        around = float(wide * (max(box_a[3], box_b[3]) - min(box_a[1], box_b[1])))
        assert seen.item() == pytest.approx(both / union - (around - union) / around)


def test_the_loss_is_that_of_a_loop_and_of_each_image() -> None:
    torch.manual_seed(0)
    made = wanted()
    logits = torch.randn(2, 2, *CELLS)
    sides = torch.rand(2, 4, *CELLS) * 8
    losses = detection_loss((logits, sides), made)
    assert losses.shape == (2,)
    overlap = giou(sides, made.sides)
    for image, count in ((0, 3), (1, 1)):
        expected = 0.0
        for z, h in zip(logits[image].flatten(), made.heat[image].flatten(), strict=True):
            p = torch.sigmoid(z)
            expected += float(-((1 - p) ** 2) * p.log() if h == 1 else 0)
            expected += float(-((1 - h) ** 4) * p**2 * (1 - p).log() if h != 1 else 0)
        expected += 5 * float((made.weights[image] * (1 - overlap[image])).sum())
        assert losses[image].item() == pytest.approx(expected / count, rel=1e-4)


def test_what_a_target_says_is_read_back_as_its_boxes() -> None:
    made = wanted()
    logits = torch.logit(made.heat.clamp(1e-4, 1 - 1e-4))
    [seen, none] = decode((logits, made.sides), STRIDE, most=3)
    for number, box in enumerate(BOXES[0]):
        [place] = (seen.boxes == box).all(1).nonzero()
        assert seen.labels[place].item() == LABELS[0][number]
    assert torch.all(seen.scores > 0.99)
    assert torch.all(none.scores < 0.01)


def test_a_small_detector_learns_where_a_square_is() -> None:
    torch.manual_seed(0)
    sizes = {"patch_size": 4, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2]}
    config = SwinConfig(**sizes, image_size=(16, 24), window_size=3, drop_path_rate=0.0)
    model = SwinDetector(config, classes=2, width=32)
    x, boxes = torch.zeros(8, 3, 16, 24), []
    for number in range(8):
        left, top = 2 * number, number
        x[number, :, top : top + 8, left : left + 8] = 1.0
        boxes.append(torch.tensor([[left, top, left + 8, top + 8]], dtype=torch.float32))
    labels = [torch.tensor([0])] * 8
    aim = target(boxes, labels, 2, CELLS, STRIDE)
    optimizer = AdamW(model.parameters(), lr=5e-3)
    for _ in range(60):
        optimizer.zero_grad()
        loss = detection_loss(model(x), aim).mean()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        heat, sides = model(x)
    assert heat.shape == (8, 2, *CELLS)
    assert sides.min() > 0
    seen = decode((heat, sides), STRIDE, most=1)
    off = [(s.boxes[0] - box[0]).abs().max().item() for s, box in zip(seen, boxes, strict=True)]
    assert sorted(off)[6] < 2
    assert all(s.labels.item() == 0 for s in seen)
