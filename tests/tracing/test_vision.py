"""Models of `timm` and `torchvision`, where a user has them: see benchmarks/README.md for how."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch
from torch import nn

import ramify
from benchmarks.zoo.vision import declare_operators
from ramify import Prune, Split
from tests.checks import distance, mask, outputs
from tests.structures.base import scatter

missing = [name for name in ("timm", "torchvision") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")

MODELS: dict[str, tuple[str, dict[str, Any], int]] = {
    "resnet18": ("timm", {}, 32),
    "vit_tiny_patch16_224": ("timm", {"img_size": 32, "depth": 2}, 32),
    "swin_tiny_patch4_window7_224": ("timm", {"img_size": 56, "depths": (1, 1, 1, 1)}, 56),
    "convnext_atto": ("timm", {"depths": (1, 1, 1, 1)}, 32),
    "mobilenet_v3_small": ("torchvision", {}, 32),
    "shufflenet_v2_x0_5": ("torchvision", {}, 32),
}


def made(name: str) -> tuple[nn.Module, torch.Tensor]:
    declare_operators()
    library, settings, side = MODELS[name]
    torch.manual_seed(0)
    if library == "timm":
        model = importlib.import_module("timm").create_model(name, num_classes=4, **settings)
    else:
        models = importlib.import_module("torchvision").models
        model = models.get_model(name, weights=None, num_classes=4)
    model = model.double().eval()
    scatter(model)
    return model, torch.randn(2, 3, side, side).double()


@pytest.mark.parametrize("name", MODELS)
def test_splits_keep_the_outputs_and_prunes_are_masks(name: str) -> None:
    model, x = made(name)
    graph = ramify.trace(model, x)
    before, able = outputs(model, x), [group for group in graph.groups if group.can_split]
    assert able
    ramify.apply(graph, [Split(group.name, 0, (0.7, 0.3)) for group in able])
    assert distance(before, outputs(model, x)) < 1e-10
    model, x = made(name)
    graph = ramify.trace(model, x)
    exact = [group for group in graph.groups if group.prune_exact]
    for group in exact:
        mask(graph, group, [1])
    expected = outputs(model, x)
    model, x = made(name)
    ramify.apply(ramify.trace(model, x), [Prune(group.name, 1) for group in exact])
    assert distance(expected, outputs(model, x)) < 1e-10
