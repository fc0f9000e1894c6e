"""Detectors and related models of `ultralytics`, with random weights, if it is installed."""

from __future__ import annotations

import importlib
import importlib.util
from functools import partial
from typing import Any

from torch import nn

from benchmarks.zoo.entries import Entry, image
from benchmarks.zoo.vision import declare_operators

ROWS = [
    # the description, its task, the size of images
    ("yolov5nu", "detect", 64),
    ("yolov8n", "detect", 64),
    ("yolov9t", "detect", 64),
    ("yolov10n", "detect", 64),
    ("yolo11n", "detect", 64),
    ("yolo12n", "detect", 64),
    ("yolov8n-seg", "segment", 64),
    ("yolov8n-pose", "pose", 64),
    ("yolov8n-cls", "classify", 64),
    ("yolo11n-obb", "obb", 64),
]
CLASSES = {
    "detect": "DetectionModel",
    "segment": "SegmentationModel",
    "pose": "PoseModel",
    "classify": "ClassificationModel",
    "obb": "OBBModel",
}


def _make(name: str, task: str) -> nn.Module:
    declare_operators()
    tasks: Any = importlib.import_module("ultralytics.nn.tasks")
    described = tasks.yaml_model_load(f"{name.replace('nu', 'n')}.yaml")
    made: nn.Module = getattr(tasks, CLASSES[task])(described, verbose=False)
    return made


def entries() -> list[Entry]:
    """One entry for each description; none if `ultralytics` is not installed."""
    if importlib.util.find_spec("ultralytics") is None:
        return []
    return [
        Entry(name, "ultralytics", partial(_make, name, task), image(size, size))
        for name, task, size in ROWS
    ]
