r"""A blood-cell detector whose Swin is pruned by learned scores: COCO box AP (Table 4.6).

    RAMIFY_DATA=DIR python -m experiments.sidt.detection

`DIR/bccd` holds boxes in COCO format (train.json and so on) and the images in train/ and so on.
With the Swin-T of the thesis, for a GPU:

    RAMIFY_DATA=DIR python -m experiments.sidt.detection --model swin-t --height 240 \
        --epochs 150 --search 100 --tune 50 --batch 16 --rate 1e-4 --device cuda
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from experiments.sidt import blood, command, study
from experiments.sidt.detector import SwinDetector, decode, detection_loss
from experiments.sidt.page import opening, tables
from ramify.tracing.recorder import evaluating

RATIOS = (0.2, 0.4)
# Table 4.6: box mAP, and parameters of the backbone in millions
PRINTED = {0.0: ("50.6", "28"), 0.2: ("50.4", "22"), 0.4: ("49.2", "16")}
NAMES = {"ap": "Box AP (overlaps 0.5 to 0.95):", "ap50": "Box AP at an overlap of 0.5:"}
HEADS = ("Table 4.6: box mAP", "backbone, M")
TOGETHER = 8  # images judged at once
SHAPES: dict[str, dict[str, Any]] = {
    "small": {
        "patch_size": 4,
        "window_size": 5,
        "embed_dim": 32,
        "depths": [2, 2, 2],
        "num_heads": [2, 4, 8],
        "drop_path_rate": 0.0,
    },
    "swin-t": {},
}
NECKS = {"small": 48, "swin-t": 128}


@dataclass(frozen=True)
class Settings(study.Settings):
    """The settings of the command.

    Attributes:
        height: rows of the images, with a third more columns; the files have 240 rows.
    """

    epochs: int = 12
    search: int = 5
    tune: int = 3
    batch: int = 8
    height: int = 120


class BloodCells(study.Task):
    """Red cells, white cells and platelets.

    Args:
        settings: the network, and the size of the images.
        device: the device of all computations.
    """

    def __init__(self, settings: Settings, device: torch.device) -> None:
        self.settings = settings
        size = (settings.height, settings.height * 4 // 3)
        self.config = study.swin_config(SHAPES, settings.model, image_size=size)
        self.train, self.judges = blood.read(blood.folder(), ("train", settings.split), size)
        self.count = len(self.train.labels)
        self.device = device
        self.example = self.train.images[:1].to(device)

    def model(self) -> nn.Module:
        """The detector with newly initialized weights."""
        return SwinDetector(self.config, blood.CLASSES, NECKS[self.settings.model])

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The loss of centres and boxes, (S,)."""
        return detection_loss(model(batch.images), batch.target)

    def passes(self, rows: Tensor, size: int, seed: int) -> study.Passes:
        """Mirrored images with these indices."""

        def one(number: int) -> Iterator[blood.Batch]:
            for batch in blood.batches(
                self.train, rows, size, self.config.patch_size, (seed, number)
            ):
                yield batch.to(self.device)

        return one

    def judge(self, model: nn.Module) -> dict[str, float]:
        """COCO's average precision in percent, over overlaps and at 0.5, and of each class."""
        seen = []
        with evaluating(model):
            for images in self.judges.images.split(TOGETHER):
                seen += decode(model(images.to(self.device)), self.config.patch_size)
        return {name: 100 * value for name, value in blood.precision(self.judges, seen).items()}


def page(results: Sequence[dict[str, Any]]) -> str:
    """The results in the form of Table 4.6: mean AP over overlaps, then AP at an overlap of 0.5."""
    each = (f"{name}\n\n{tables(results, key, PRINTED, HEADS)}" for key, name in NAMES.items())
    return "\n\n".join([opening(results), *each]) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, search, cut and fine-tune; write results.jsonl, results.md and layers.png."""
    parser = command.options(
        "python -m experiments.sidt.detection",
        "Cut the backbone of a detector of blood cells by scores, learned and not.",
        Settings(),
    )
    command.follow(
        parser, arguments, lambda held, on: BloodCells(Settings(**held), on), RATIOS, page
    )


if __name__ == "__main__":
    main()
