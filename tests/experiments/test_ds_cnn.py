import torch
from torch import nn

import ramify
from experiments.s2d.speech import ds_cnn
from ramify.models import build


def test_size_of_the_smallest_form():
    model = ds_cnn.build()
    assert sum(parameter.numel() for parameter in model.parameters()) == 23_180
    assert model.stem(torch.randn(1, 1, 49, 10)).shape == (1, 64, 25, 5)


def test_layers():
    model = build(
        "experiments.s2d.speech.ds_cnn:build", dataset_shape=(1, 49, 10), classes=10, width=6
    )
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    depthwise = [conv for conv in convolutions if conv.groups == 6]
    pointwise = [conv for conv in convolutions if conv.kernel_size == (1, 1)]
    assert convolutions[0].kernel_size == (10, 4)
    assert len(depthwise) == len(pointwise) == 4
    assert len(convolutions) == 9
    assert {conv.out_channels for conv in convolutions} == {6}


def test_every_layer_splits_without_a_change():
    model = build(
        "experiments.s2d.speech.ds_cnn:build", dataset_shape=(1, 49, 10), classes=10, width=4
    ).eval()
    features = torch.randn(3, 1, 49, 10)
    before = model(features)
    graph = ramify.trace(model, features)
    able = [group for group in graph.groups if group.can_split]
    assert [group.name for group in able] == ["stem.0", *(f"blocks.{i}.1.0" for i in range(4))]
    ramify.apply(graph, [ramify.Split(group.name, 1, (0.3, 0.7)) for group in able])
    assert model.blocks[2][0][0].groups == 5
    torch.testing.assert_close(model(features), before)
