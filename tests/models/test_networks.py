import math
import sys

import pytest
import torch
from torch import nn

from ramify.errors import RamifyError
from ramify.models import (
    NAMES,
    build,
    digits_net,
    mobilenet,
    mobilenet_v2,
    preresnet,
    resnet,
    swin,
    vgg,
)
from ramify.models.blocks import conv_norm_relu


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def convolutions(model):
    return [module for module in model.modules() if isinstance(module, nn.Conv2d)]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "preresnet164"])
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (1, 8, 8)])
def test_every_network_takes_the_images_of_every_set(name, shape):
    width = {} if name.startswith("preresnet") else {"width": 3}
    model = build(name, dataset_shape=shape, classes=7, **width)
    logits = model(torch.randn(2, *shape))
    assert logits.shape == (2, 7)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_forward_works_for_one_sample_at_a_time():
    images = torch.randn(3, 3, 32, 32)
    for name in NAMES:
        model = build(name, dataset_shape=(3, 32, 32), classes=5).eval()
        with torch.no_grad():
            together, alone = model(images), torch.cat([model(image[None]) for image in images])
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "model, count",
    [
        (digits_net.build(), 398),
        (vgg.build(), 20_035_018),
        (vgg.build(classes=100), 20_081_188),
        (mobilenet.build(), 3_217_226),
        (mobilenet.build(classes=100), 3_309_476),
        (mobilenet_v2.build(classes=1000), 3_504_872),
        (preresnet.build(depth=164), 1_703_258),
        (resnet.build(), 272_474),
        (resnet.build(depth=56), 855_770),
    ],
)
def test_sizes_of_the_papers(model, count):
    assert parameters(model) == count


def test_digits_net_in_plain_functions():
    model = digits_net.build(width=5).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    images = torch.randn(4, 1, 8, 8)
    x = images
    for layer, pooled in [(model.layer1, True), (model.layer2, True), (model.layer3, False)]:
        x = nn.functional.conv2d(x, layer[0].weight, padding=1)
        x = (x - layer[1].running_mean[:, None, None]) / (
            layer[1].running_var[:, None, None] + 1e-5
        ).sqrt()
        x = x.clamp(min=0)
        x = nn.functional.max_pool2d(x, 2) if pooled else x
    expected = x.mean((2, 3)) @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-5)


def test_vgg_has_sixteen_convolutions_and_five_poolings():
    model = vgg.build()
    usual = [64] * 2 + [128] * 2 + [256] * 4 + [512] * 8
    assert [conv.out_channels for conv in convolutions(model)] == usual
    assert sum(isinstance(module, nn.MaxPool2d) for module in model.modules()) == 5
    assert model.features(torch.randn(1, 3, 32, 32)).shape == (1, 512, 1, 1)


@pytest.mark.parametrize("name", ["vgg19", "mobilenet_v1", "digits_net"])
def test_width_is_that_of_every_layer(name):
    model = build(name, dataset_shape=(3, 32, 32), classes=10, width=6)
    assert {conv.out_channels for conv in convolutions(model)} == {6}
    assert model.head.in_features == 6


def test_mobilenet_blocks():
    model = mobilenet.build()
    depthwise = [conv for conv in convolutions(model) if conv.groups > 1]
    pointwise = [conv for conv in convolutions(model) if conv.kernel_size == (1, 1)]
    assert len(depthwise) == len(pointwise) == 13
    assert all(conv.groups == conv.in_channels == conv.out_channels for conv in depthwise)
    assert math.prod(conv.stride[0] for conv in convolutions(model)) == 16
    assert model.features(torch.randn(1, 3, 32, 32)).shape == (1, 1024, 2, 2)


def test_preresnet_stream_is_a_plain_sum():
    model = preresnet.build(width=2).eval()
    stream = model.stem(torch.randn(2, 3, 8, 8))
    first, second = model.blocks[0], model.blocks[1]
    assert first.shortcut is not None
    assert second.shortcut is None
    stream = first(stream)
    for convolution in (second.conv1, second.conv3):
        nn.init.zeros_(convolution.weight)
    assert torch.equal(second(stream), stream)


@pytest.mark.parametrize("depth, blocks", [(11, 3), (20, 6), (56, 18)])
def test_preresnet_depth(depth, blocks):
    model = preresnet.build(depth=depth, width=2)
    assert len(model.blocks) == blocks
    shortcuts = sum(block.shortcut is not None for block in model.blocks)
    assert len(convolutions(model)) - shortcuts + 1 == depth  # and one linear
    assert model.blocks(model.stem(torch.randn(1, 3, 32, 32))).shape == (1, 32, 8, 8)


@pytest.mark.parametrize("depth", [2, -7, 18, 100])
def test_preresnet_depth_that_does_not_exist(depth):
    with pytest.raises(RamifyError, match=f"PreResNet of depth {depth} does not exist"):
        preresnet.build(depth=depth)


def test_resnet_blocks_add_to_a_rectified_stream():
    model = resnet.build(width=2).eval()
    stream = model.stem(torch.randn(2, 3, 8, 8)).relu()
    first, fourth = model.blocks[0], model.blocks[3]
    assert first.shortcut is None
    assert fourth.shortcut is not None
    nn.init.zeros_(first.conv2.weight)
    torch.testing.assert_close(first(stream), stream)
    nn.init.zeros_(fourth.conv2.weight)
    torch.testing.assert_close(fourth(stream), fourth.shortcut(stream).relu())


@pytest.mark.parametrize("depth, blocks", [(8, 3), (20, 9)])
def test_resnet_depth(depth, blocks):
    model = resnet.build(depth=depth, width=2)
    assert len(model.blocks) == blocks
    shortcuts = sum(block.shortcut is not None for block in model.blocks)
    assert len(convolutions(model)) - shortcuts + 1 == depth  # and one linear
    assert model.blocks(torch.randn(1, 2, 32, 32)).shape == (1, 8, 8, 8)


@pytest.mark.parametrize("depth", [2, -4, 18])
def test_resnet_depth_that_does_not_exist(depth):
    with pytest.raises(RamifyError, match=f"ResNet of depth {depth} does not exist"):
        resnet.build(depth=depth)


@pytest.mark.parametrize(
    "arguments, shape",
    [({}, (2, 8, 6, 6)), ({"kernel": 1}, (2, 8, 6, 6)), ({"stride": 2}, (2, 8, 3, 3))],
)
def test_block_keeps_the_size_unless_strided(arguments, shape):
    block = conv_norm_relu(4, 8, **arguments)
    assert block(torch.randn(2, 4, 6, 6)).shape == shape
    assert block[0].bias is None


# ------------------------------------------------------------------ MobileNetV2 and Swin


def test_mobilenet_v2_takes_its_stride_from_the_size_of_the_images():
    for side, left in ((32, 2), (96, 3), (224, 7)):
        model = build("mobilenet_v2", dataset_shape=(3, side, side), classes=5, width=2).eval()
        assert model.features(torch.randn(1, 3, side, side)).shape[2:] == (left, left)


def test_inverted_residual_in_plain_functions():
    block = mobilenet_v2.InvertedResidual(4, 4, expansion=6, stride=1).eval()
    widen, depthwise, narrow, norm = block.layers
    x = 5 * torch.randn(2, 4, 6, 6)
    inner = nn.functional.relu6(widen[1](nn.functional.conv2d(x, widen[0].weight)))
    inner = nn.functional.conv2d(inner, depthwise[0].weight, padding=1, groups=24)
    inner = nn.functional.relu6(depthwise[1](inner))
    expected = x + norm(nn.functional.conv2d(inner, narrow.weight))
    torch.testing.assert_close(block(x), expected)
    assert not mobilenet_v2.InvertedResidual(4, 4, expansion=6, stride=2).residual
    assert len(mobilenet_v2.InvertedResidual(4, 5, expansion=1, stride=1).layers) == 3


def test_swin_t():
    """27.53 M parameters with 20 classes, as in table 4.5 of the RARTS thesis."""
    model = build("swin", dataset_shape=(3, 224, 224), classes=20)
    assert parameters(model) == 27_534_734
    assert model.net.config.patch_size == 4
    assert model.net.config.window_size == 7


def test_swin_by_depths_and_width():
    model = swin.build(width=24, depths=(2, 2, 2), classes=7)
    config = model.net.config
    assert (config.patch_size, config.window_size, config.num_heads) == (2, 4, [1, 2, 4])
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 7)


def test_swin_without_its_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(RamifyError, match='pip install "ramify\\[transformers\\]"'):
        build("swin", dataset_shape=(3, 32, 32), classes=7)
