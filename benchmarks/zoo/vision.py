"""Models of `torchvision` and `timm`, where they are installed."""

from __future__ import annotations

import importlib
import importlib.util
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.zoo.entries import Entry, image

DETECTION_OPERATORS: list[torch.library.Library] = []
"""Keeps the declarations of `declare_operators` alive."""


def declare_operators() -> None:
    """Let `torchvision` be imported beside a build of torch that its compiled part does not fit.

    Its Python part registers shape rules for two operators, `nms` and `qnms`, that only the
    compiled part defines. With their schemas declared the import goes through; whoever calls the
    operators themselves is told that they have no kernel.
    """
    if DETECTION_OPERATORS or importlib.util.find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        DETECTION_OPERATORS.append(library)


TORCHVISION: list[tuple[str, dict[str, Any], int, int]] = [
    # name, settings, image size, batch
    ("alexnet", {}, 96, 1),
    ("densenet121", {}, 64, 1),
    ("efficientnet_b0", {}, 64, 1),
    ("googlenet", {"init_weights": False, "aux_logits": False}, 64, 1),
    ("inception_v3", {"init_weights": False, "aux_logits": False}, 96, 1),
    ("mnasnet0_5", {}, 64, 1),
    ("mobilenet_v3_small", {}, 64, 1),
    ("regnet_y_400mf", {}, 64, 1),
    ("shufflenet_v2_x1_0", {}, 64, 1),
    ("squeezenet1_1", {}, 64, 1),
]
SEGMENTATION: list[tuple[str, int]] = [
    ("deeplabv3_mobilenet_v3_large", 64),
    ("lraspp_mobilenet_v3_large", 64),
]
TORCHVISION_FULL = [
    ("resnet50", 224),
    ("mobilenet_v2", 224),
    ("convnext_tiny", 224),
    ("swin_t", 224),
]
TIMM: list[tuple[str, dict[str, Any], int]] = [
    ("res2net50_26w_4s", {}, 64),
    ("cspresnet50", {}, 64),
    ("ghostnet_100", {}, 64),
    ("mixer_s32_224", {"img_size": 64}, 64),
    ("levit_128s", {}, 224),
    ("coatnet_nano_rw_224", {"img_size": 64}, 64),
    ("nfnet_l0", {}, 64),
    ("hrnet_w18_small", {}, 64),
]


def _torchvision(name: str, settings: dict[str, Any]) -> nn.Module:
    declare_operators()
    models = importlib.import_module("torchvision.models")
    found: nn.Module = models.get_model(name, weights=None, **settings)
    return found


def _timm(name: str, settings: dict[str, Any]) -> nn.Module:
    declare_operators()
    timm = importlib.import_module("timm")
    found: nn.Module = timm.create_model(name, pretrained=False, **settings)
    return found


def entries() -> list[Entry]:
    """One entry a model of each package that is installed."""
    found = []
    if importlib.util.find_spec("torchvision") is not None:
        for name, settings, size, batch in TORCHVISION:
            build = partial(_torchvision, name, settings)
            found.append(Entry(name, "torchvision", build, image(size, size, batch=batch)))
        plain = {"weights_backbone": None}
        for name, size in SEGMENTATION:
            build = partial(_torchvision, name, plain)
            found.append(Entry(name, "torchvision", build, image(size, size)))
        for name, size in TORCHVISION_FULL:
            build = partial(_torchvision, name, {})
            inputs = image(size, size, batch=1)
            found.append(Entry(f"{name} at {size}", "torchvision", build, inputs, full=True))
    if importlib.util.find_spec("timm") is not None:
        for name, settings, size in TIMM:
            build = partial(_timm, name, settings)
            found.append(Entry(name, "timm", build, image(size, size, batch=1)))
    return found
