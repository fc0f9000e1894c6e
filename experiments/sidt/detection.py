"""A DETR whose Swin-T backbone is pruned by 20 and 40 % in training, on images of blood cells.

    RAMIFY_DATA=DIR python -m experiments.sidt.detection

`DIR/bccd` holds `train.json`, boxes in the form of COCO, and the images in `train/`. The thesis
prunes the backbone of a Cascade Mask R-CNN (Table 4.6); its head is as little touched.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import Progress
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from transformers import DetrConfig, DetrForObjectDetection, SwinConfig

import ramify
from experiments.files import write
from experiments.sidt.swin import goals, prunes
from ramify.data.catalog import VARIABLE

BACKBONE = "model.backbone."
BATCH = 4
SHARES = (0.0, 0.2, 0.4)
PRINTED = {0.0: 28, 0.2: 22, 0.4: 16}  # Table 4.6: parameters of the backbone, millions

Target = dict[str, Tensor]  # class_labels (B,), boxes (B, 4): center and size, as shares


@dataclass(frozen=True)
class Arm:
    """What became of one detector.

    Attributes:
        share: of the dimensions of the backbone that were pruned.
        params: parameters of the whole detector.
        backbone: those of the backbone.
        before: loss before the prune, in evaluation mode, on the images trained on.
        after: loss after it.
        trained: loss after some more steps.
        kept: whether all outside the backbone was the same to the bit after the prune.
    """

    share: float
    params: int
    backbone: int
    before: float
    after: float
    trained: float
    kept: bool


def detector(backbone: SwinConfig, labels: int, queries: int, width: int) -> nn.Module:
    """A DETR on the last stage of a Swin, from fresh weights.

    Args:
        backbone: configuration of the Swin, its last stage in `out_features`.
        labels: classes of objects.
        queries: boxes that are predicted.
        width: of the encoder and decoder, two layers each.

    Returns:
        The model; it computes its loss where it is called with labels, which needs scipy.
    """
    settings: dict[str, Any] = {"use_timm_backbone": False, "use_pretrained_backbone": False}
    settings |= {"backbone": None, "backbone_config": backbone}
    settings |= {"num_queries": queries, "num_labels": labels, "d_model": width, "dropout": 0.0}
    for part in ("encoder", "decoder"):
        settings[f"{part}_layers"] = 2
        settings[f"{part}_attention_heads"] = 4
        settings[f"{part}_ffn_dim"] = 4 * width
    config = DetrConfig(**settings)
    return DetrForObjectDetection(config)


def blood_cells(root: Path, count: int, side: int) -> tuple[Tensor, list[Target]]:
    """The first training images and their boxes.

    Args:
        root: folder of the data set.
        count: images.
        side: to which images are resized, their boxes with them.

    Returns:
        Images (count, 3, side, side), of mean 0 and deviation 1, and the boxes of each.
    """
    listed = json.loads((root / "train.json").read_text())
    images, targets = [], []
    for entry in listed["images"][:count]:
        with Image.open(root / "train" / entry["file_name"]) as file:
            pixels = np.asarray(file.convert("RGB").resize((side, side)), dtype=np.float32)
        images.append(torch.from_numpy(pixels).permute(2, 0, 1))
        mine = [a for a in listed["annotations"] if a["image_id"] == entry["id"]]
        corners = torch.tensor([a["bbox"] for a in mine])  # left, top, width, height, in pixels
        size = torch.tensor([entry["width"], entry["height"]])
        center = (corners[:, :2] + corners[:, 2:] / 2) / size
        boxes = torch.cat([center, corners[:, 2:] / size], dim=1)
        classes = torch.tensor([a["category_id"] - 1 for a in mine])
        targets.append({"class_labels": classes, "boxes": boxes})
    stacked = torch.stack(images)
    deviation, mean = torch.std_mean(stacked, dim=(0, 2, 3), keepdim=True)
    return (stacked - mean) / deviation, targets


def outside(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers that are not the backbone's, as they are now."""
    state = model.state_dict()
    return {n: t.clone() for n, t in state.items() if not n.startswith(BACKBONE)}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Whether two states have the same tensors, to the bit."""
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def prune(model: nn.Module, optimizer: Optimizer, images: Tensor, share: float) -> bool:
    """Prune the backbone of a detector in training.

    Args:
        model: the detector.
        optimizer: follows.
        images: to trace with.
        share: of the q/k/v dimensions of heads and of the MLP units of every Swin block.

    Returns:
        Whether all that is outside the backbone is the same to the bit.
    """
    head = outside(model)
    graph = ramify.trace(model, images)
    ramify.apply(graph, prunes(graph, goals(graph, share)), optimizer=optimizer)
    return same(head, outside(model))


def train(
    model: nn.Module,
    optimizer: Optimizer,
    images: Tensor,
    targets: Sequence[Target],
    steps: Sequence[int],
) -> None:
    """Train by the model's own loss; a step's number decides its batch."""
    model.train()
    for step in steps:
        rows = [(step * BATCH + k) % len(images) for k in range(BATCH)]
        optimizer.zero_grad()
        found = model(images[rows], labels=[targets[row] for row in rows])
        found.loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)  # as DETR does
        optimizer.step()


@torch.no_grad()
def mean_loss(model: nn.Module, images: Tensor, targets: Sequence[Target]) -> float:
    """The model's own loss in evaluation mode, mean over batches."""
    model.eval()
    starts = range(0, len(images), BATCH)
    found = [model(images[k : k + BATCH], labels=list(targets[k : k + BATCH])).loss for k in starts]
    return torch.stack(found).mean().item()


def parameters(model: nn.Module, start: str = "") -> int:
    """How many scalars the parameters hold whose names start so."""
    return sum(p.numel() for name, p in model.named_parameters() if name.startswith(start))


def page(arms: Sequence[Arm]) -> str:
    """The results as Markdown."""
    lines = [
        "| pruned | backbone, M | Table 4.6, M | detector, M | loss before | after the prune "
        "| after more steps | head untouched |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for arm in arms:
        cells = [
            f"{arm.share:.0%}",
            f"{arm.backbone / 1e6:.1f}",
            str(PRINTED[arm.share]),
            f"{arm.params / 1e6:.1f}",
            *(f"{loss:.3f}" for loss in (arm.before, arm.after, arm.trained)),
            "yes" if arm.kept else "NO",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def options() -> argparse.ArgumentParser:
    """What the command takes."""
    parser = argparse.ArgumentParser(prog="python -m experiments.sidt.detection")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--side", type=int, default=128, help="of the images, in pixels")
    parser.add_argument("--steps", type=int, default=24, help="before the prune")
    parser.add_argument("--more", type=int, default=8, help="steps after it")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--out", type=Path, default=Path("runs/sidt-detection"))
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Train a detector, prune copies of it, train each on; write results.json and results.md.

    Args:
        arguments: of the command line.

    Raises:
        RamifyError: the data set is not where it is looked for.
    """
    chosen = options().parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    root = Path(os.environ.get(VARIABLE, ".")) / "bccd"
    if not (root / "train.json").exists():
        raise ramify.RamifyError(
            f"{root / 'train.json'} was not found: let {VARIABLE} name the folder that has bccd/"
        )
    torch.manual_seed(0)
    started, console = time.monotonic(), Console()
    images, targets = blood_cells(root, chosen.images, chosen.side)
    sizes: dict[str, Any] = {"image_size": chosen.side, "out_features": ["stage4"]}
    swin = SwinConfig(**sizes)
    model: Any = detector(swin, labels=3, queries=40, width=128)
    optimizer = AdamW(model.parameters(), lr=3e-4, weight_decay=1e-4)
    arms = []
    with Progress(console=console) as progress:
        bar = progress.add_task("steps", total=chosen.steps + len(SHARES) * chosen.more)
        for step in range(chosen.steps):
            train(model, optimizer, images, targets, [step])
            progress.advance(bar)
        before = mean_loss(model, images, targets)
        for share in SHARES:
            pruned, carried = copy.deepcopy((model, optimizer))
            kept = prune(pruned, carried, images[:1], share)
            counts = parameters(pruned), parameters(pruned, BACKBONE)
            after = mean_loss(pruned, images, targets)
            for step in range(chosen.steps, chosen.steps + chosen.more):
                train(pruned, carried, images, targets, [step])
                progress.advance(bar)
            trained = mean_loss(pruned, images, targets)
            arms.append(Arm(share, *counts, before, after, trained, kept))
    text = page(arms) + f"\n\n{time.monotonic() - started:.0f} s\n"
    chosen.out.mkdir(parents=True, exist_ok=True)
    write(chosen.out / "results.json", json.dumps([asdict(arm) for arm in arms]) + "\n")
    write(chosen.out / "results.md", text)
    console.print(Markdown(text))


if __name__ == "__main__":
    main()
